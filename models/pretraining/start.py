"""The model that a training begins with: from scratch, or a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lexbeam.models.pretraining.config import PRESETS, SequenceConfig
from lexbeam.models.pretraining.subwords import SpecialTokens, check_vocabulary
from lexbeam.models.transformer.checkpoints import read_masked_language_model
from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.layers import MultiHeadAttention
from lexbeam.models.transformer.model import MaskedLanguageModel

# Longest text of a model from scratch, as BERT's, unless its sequences are longer.
_POSITIONS = 512


def new_model(config: SequenceConfig, vocab_size: int, pad_token_id: int) -> MaskedLanguageModel:
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
            max_positions=max(_POSITIONS, config.max_seq_length),
            pad_token_id=pad_token_id,
        )
    )


def checkpoint_model(
    directory: Path, config: SequenceConfig, special: SpecialTokens
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


def set_dropout(model: nn.Module, hidden: float) -> None:
    """Dropout of hidden values; of attention weights none, as fused attention on CPUs asks for."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = hidden
        if isinstance(module, MultiHeadAttention):
            module.dropout = 0.0
