"""Small sequences, and a model that learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.models.pretraining.objective import Corpus, MaskedLanguageModelling
from lexbeam.models.pretraining.sequences import SCHEMA
from lexbeam.models.pretraining.store import SequenceStore
from lexbeam.models.pretraining.subwords import SpecialTokens
from lexbeam.models.training.checkpoints import Checkpoints
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.training.dropout import set_dropout
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.processes import ALONE, Processes
from lexbeam.models.training.trainer import Trainer
from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.model import MaskedLanguageModel

VOCAB_SIZE = 30
SPECIAL = SpecialTokens(
    opening=(2,), closing=(3,), mask=4, pad=0, special=(0, 1, 2, 3, 4), vocab_size=VOCAB_SIZE
)
CONFIG = TrainingConfig(
    max_batch_tokens=64, max_steps=8, eval_steps=4, dropout=0.1, device="cpu",
    dtype="float32", learning_rate=1e-2,
)  # fmt: skip
MASKS = PretrainingConfig(batch_tokens=64)


def table(rows: Sequence[Sequence[int]]) -> pa.Table:
    """Sequences as they lie in a shard; each token begins a word where its id is even."""
    starts = [[1] + [int(token % 2 == 0) for token in row[1:]] for row in rows]
    return pa.table(
        {"input_ids": rows, "word_starts": starts},
        schema=pa.schema([SCHEMA.field("input_ids"), SCHEMA.field("word_starts")]),
    )


def counting(num_rows: int, seed: int) -> pa.Table:
    """Texts that count up from a random number: what is masked can be told from what is not."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        length, first = random.integers(4, 12), random.integers(5, VOCAB_SIZE)
        inner = (first - 5 + np.arange(length)) % (VOCAB_SIZE - 5) + 5
        rows.append([2, *inner.tolist(), 3])
    return table(rows)


def new_trainer(
    folder: Path,
    config: TrainingConfig = CONFIG,
    processes: Processes = ALONE,
    num_rows: int = 40,
    dtype: torch.dtype = torch.float32,
    masks: PretrainingConfig = MASKS,
) -> tuple[Trainer, MaskedLanguageModel]:
    """A trainer of a small new model, which is always the same one."""
    torch.manual_seed(0)
    model = MaskedLanguageModel(
        TransformerConfig(
            vocab_size=VOCAB_SIZE, hidden_size=16, num_layers=1, num_heads=2,
            intermediate_size=32, max_positions=16,
        )
    )  # fmt: skip
    set_dropout(model, config.dropout)
    corpus = Corpus(
        train=SequenceStore([counting(num_rows, 1), counting(num_rows, 2)]),
        held_out=SequenceStore([counting(200, 3)]),
        special=SPECIAL,
    )
    assert config.max_batch_tokens is not None
    hardware = Hardware(torch.device("cpu"), dtype, config.max_batch_tokens)
    objective = MaskedLanguageModelling(model, corpus, masks, hardware, processes)
    return Trainer(objective, config, Checkpoints(folder), processes), model


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All of them, end to end."""
    return torch.cat([each.detach().flatten() for each in model.parameters()])
