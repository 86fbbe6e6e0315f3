"""The model that a training begins with: from scratch, or a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lexbeam.models.pretraining.config import PRESETS, PretrainingConfig
from lexbeam.models.pretraining.store import SequenceStore
from lexbeam.models.pretraining.subwords import SpecialTokens, check_vocabulary
from lexbeam.models.transformer.checkpoints import read_masked_language_model
from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.model import MaskedLanguageModel

# So many tokens tell how often each of them is.
_TOKENS_COUNTED = 10_000_000


def new_model(config: PretrainingConfig, vocab_size: int, pad_token_id: int) -> MaskedLanguageModel:
    """A model of the preset's sizes with random weights that follow from the seed."""
    size = PRESETS[config.preset]
    torch.manual_seed(config.seed)
    return MaskedLanguageModel(
        TransformerConfig(
            vocab_size=vocab_size,
            hidden_size=size.hidden_size,
            num_layers=size.num_layers,
            num_heads=size.num_heads,
            intermediate_size=size.intermediate_size,
            max_positions=config.max_seq_length,
            pad_token_id=pad_token_id,
        )
    )


def checkpoint_model(
    directory: Path, config: PretrainingConfig, special: SpecialTokens
) -> tuple[MaskedLanguageModel, bool]:
    """A checkpoint to go on from, and whether it has a head of its own.

    Raises ModelError where it cannot be read, ConfigError where its embeddings have no row for
    some of its tokens.
    """
    torch.manual_seed(config.seed)
    model, has_head = read_masked_language_model(directory)
    num_rows = model.encoder.config.vocab_size
    check_vocabulary(special, num_rows, config.model_id or "")
    return model, has_head


def start_from_frequencies(
    model: MaskedLanguageModel, store: SequenceStore, special: SpecialTokens
) -> None:
    """Let a new head foretell each token as often as it is: its bias becomes ln(frequency).

    A training would spend its first steps on just that. Special tokens are not foretold.
    """
    ends = np.cumsum(store.lengths)
    num_read = max(1, int(np.searchsorted(ends, _TOKENS_COUNTED, side="right")))
    ids, _ = store.read(np.arange(min(num_read, len(ends))))
    counts = np.bincount(ids, minlength=len(model.head.bias)).astype(np.float64)
    counts[list(special.special)] = 0.0
    frequencies = (counts + 1.0) / (counts + 1.0).sum()
    with torch.no_grad():
        model.head.bias.copy_(torch.from_numpy(np.log(frequencies)))
