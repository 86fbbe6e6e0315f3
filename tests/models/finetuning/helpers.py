"""Small labelled texts and pairs, and models that learn from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lexbeam.models.finetuning.classification import Classification, LabelledTexts
from lexbeam.models.finetuning.config import FinetuningConfig, with_defaults
from lexbeam.models.finetuning.contrastive import Contrastive, PairedTexts
from lexbeam.models.finetuning.examples import SCHEMA
from lexbeam.models.finetuning.forward import freeze
from lexbeam.models.training.checkpoints import Checkpoints
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.training.dropout import set_dropout
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.processes import ALONE, Processes
from lexbeam.models.training.trainer import Objective, Trainer
from lexbeam.models.transformer.classifier import ClassificationHead, TextClassifier
from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.model import Encoder

VOCAB_SIZE = 40
SIZES = TransformerConfig(
    vocab_size=VOCAB_SIZE, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32,
    max_positions=32,
)  # fmt: skip
LABELS = ("a", "b", "c")
TRAINING = TrainingConfig(
    max_batch_tokens=10_000, num_epochs=3, eval_steps=4, dropout=0.0, device="cpu", patience=0,
    dtype="float32", learning_rate=5e-3,
)  # fmt: skip


def labelled(num_rows: int = 60, seed: int = 1, windows: int = 1) -> pa.Table:
    """Texts whose class is that of the ten tokens that most of theirs are among."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        kind = number % 3
        own = [
            np.concatenate([[2], random.integers(10 * kind + 5, 10 * kind + 15, size=length), [3]])
            for length in random.integers(3, 12, size=windows)
        ]
        text = np.concatenate(own).astype(np.int32)
        rows.append(
            {
                "key": number,
                "doc_id": f"d{number}",
                "text_sha256": hashlib.sha256(text.tobytes()).hexdigest(),
                "label": LABELS[kind],
                "window_lengths": [len(each) for each in own],
                "input_ids": text.tolist(),
                "second_ids": [],
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA).combine_chunks()


def paired(num_rows: int = 60, seed: int = 1) -> pa.Table:
    """Pairs of texts of the same two rare tokens, in other company."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        own = random.integers(10, VOCAB_SIZE, size=2)
        first, second = (
            np.concatenate([[2], own, random.integers(5, 10, size=random.integers(1, 8)), [3]])
            for _ in range(2)
        )
        rows.append(
            {
                "key": number,
                "doc_id": f"d{number}",
                "text_sha256": f"{number:064x}",
                "label": None,
                "window_lengths": [len(first)],
                "input_ids": first.tolist(),
                "second_ids": second.tolist(),
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA).combine_chunks()


def every_fourth(num_rows: int) -> np.ndarray:
    """A fixed choice of what is held out."""
    return np.arange(num_rows) % 4 == 0


def new_encoder(config: FinetuningConfig, dropout: float) -> Encoder:
    """Always the same one."""
    torch.manual_seed(0)
    encoder = Encoder(SIZES)
    freeze(encoder, config)
    set_dropout(encoder, dropout)
    return encoder


def new_classification(
    finetuning: FinetuningConfig,
    training: TrainingConfig = TRAINING,
    table: pa.Table | None = None,
    processes: Processes = ALONE,
) -> Classification:
    """Of a small encoder with a head."""
    table = labelled() if table is None else table
    training, finetuning = with_defaults(training, finetuning)
    model = TextClassifier(new_encoder(finetuning, training.dropout), ClassificationHead(16, 3))
    set_dropout(model, training.dropout)
    texts = LabelledTexts.of(table, LABELS, every_fourth(table.num_rows))
    return Classification(model, texts, finetuning, Hardware.of(training), processes)


def new_contrastive(
    finetuning: FinetuningConfig,
    training: TrainingConfig = TRAINING,
    table: pa.Table | None = None,
    processes: Processes = ALONE,
    pooling: str = "mean",
) -> Contrastive:
    """Of a small encoder."""
    table = paired() if table is None else table
    training, finetuning = with_defaults(training, finetuning)
    encoder = new_encoder(finetuning, training.dropout)
    pairs = PairedTexts.of(table, every_fourth(table.num_rows))
    return Contrastive(encoder, pairs, finetuning, pooling, Hardware.of(training), processes)


def new_trainer(objective: Objective, folder: Path, training: TrainingConfig = TRAINING) -> Trainer:
    """Of an objective."""
    return Trainer(objective, training, Checkpoints(folder))


def gradients(objective: Objective, step: int = 1) -> torch.Tensor:
    """Of a step, end to end."""
    objective.model.train()
    objective.model.zero_grad(set_to_none=True)
    objective.backward(step)
    return torch.cat(
        [each.grad.flatten() for each in objective.model.parameters() if each.grad is not None]
    )
