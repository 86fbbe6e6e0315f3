"""From examples to a fine-tuned model, in one process or in several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lexbeam.models.finetuning.classification import Classification, LabelledTexts
from lexbeam.models.finetuning.config import CLASSIFY, FinetuningConfig
from lexbeam.models.finetuning.contrastive import Contrastive, PairedTexts
from lexbeam.models.finetuning.examples import (
    ExamplesError,
    check_labels,
    random_split,
    stratified_split,
)
from lexbeam.models.finetuning.forward import freeze
from lexbeam.models.finetuning.metrics import classification_scores
from lexbeam.models.training.checkpoints import TrainingState
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.training.dropout import set_dropout
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.processes import Processes
from lexbeam.models.transformer.checkpoints import new_head, read_config, read_encoder
from lexbeam.models.transformer.classifier import TextClassifier
from lexbeam.models.transformer.model import Encoder
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.fit import fit, training_config
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import storage
from lexbeam.transforms.host_models import directory_on_host
from lexbeam.transforms.part_files import read_arrow

BEFORE = "before.json"


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model and how it got there.

    Attributes:
        model: in evaluation mode.
        state: the end of the training.
        num_steps: that were planned.
        num_train, num_held_out: examples.
        before, after: scores over what is held out; empty in all processes but the first.
        labels: the classes; of pairs none.
        predictions: `doc_id`, `label`, `predicted`, `score` of each held-out document.
    """

    model: TextClassifier | Encoder
    state: TrainingState
    num_steps: int
    num_train: int
    num_held_out: int
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    predictions: Sequence[Mapping[str, Any]] = ()


def train(work: Workspace, processes: Processes, view: ProgressView) -> Trained:
    """Train, from the latest checkpoint where there is one.

    Raises JobError where the examples are no task, the loss diverges or a checkpoint cannot be
    written.
    """
    finetuning = work.plan.finetuning
    assert finetuning is not None
    config = training_config(work, processes)
    table = read_arrow(work.gathered)
    try:
        if finetuning.task == CLASSIFY:
            return _train_classifier(work, finetuning, config, table, processes, view)
        return _train_pairs(work, finetuning, config, table, processes, view)
    except ExamplesError as error:
        raise JobError(f"{error}. Nothing was trained") from error


def _train_classifier(
    work: Workspace,
    finetuning: FinetuningConfig,
    config: TrainingConfig,
    table: pa.Table,
    processes: Processes,
    view: ProgressView,
) -> Trained:
    labels, hashes = table["label"].to_pylist(), table["text_sha256"].to_pylist()
    classes = check_labels(labels, hashes)
    held_out = stratified_split(labels, hashes, finetuning.eval_fraction, finetuning.seed)
    texts = LabelledTexts.of(table, classes, held_out)
    hardware = Hardware.of(config, processes.local_rank)
    model = _new_classifier(work, finetuning, len(classes)).to(hardware.device)
    set_dropout(model, config.dropout)
    objective = Classification(model, texts, finetuning, hardware, processes)

    def start() -> dict[str, Any]:
        view.say("fitting the head to the model as it is")
        objective.start_head()
        return dict(objective.evaluate())

    before = _before(work, processes, start)
    state, num_steps = fit(work, objective, config, processes, view)
    after, predictions = {}, []
    if processes.is_first:
        expected, probabilities = _held_out(objective, texts)
        after = classification_scores(expected, probabilities, classes)
        ids = table["doc_id"].filter(pa.array(held_out)).to_pylist()
        predictions = [
            {
                "doc_id": doc_id,
                "label": classes[label],
                "predicted": classes[int(row.argmax())],
                "score": round(float(row.max()), 6),
            }
            for doc_id, label, row in zip(ids, expected.tolist(), probabilities, strict=True)
        ]
    return Trained(
        model, state, num_steps, int((~held_out).sum()), int(held_out.sum()), before, after,
        classes, predictions,
    )  # fmt: skip


def _held_out(objective: Classification, texts: LabelledTexts) -> tuple[np.ndarray, np.ndarray]:
    rows, probabilities = objective.held_out()
    return texts.classes[rows], probabilities


def _train_pairs(
    work: Workspace,
    finetuning: FinetuningConfig,
    config: TrainingConfig,
    table: pa.Table,
    processes: Processes,
    view: ProgressView,
) -> Trained:
    keys, hashes = table["key"].to_numpy(), table["text_sha256"].to_pylist()
    held_out = random_split(keys, hashes, finetuning.eval_fraction)
    hardware = Hardware.of(config, processes.local_rank)
    assert work.plan.encoder is not None
    encoder = read_encoder(directory_on_host(work.plan.encoder)).to(hardware.device)
    freeze(encoder, finetuning)
    set_dropout(encoder, config.dropout)
    pairs = PairedTexts.of(table, held_out)
    pooling = work.plan.encoder.pooling
    objective = Contrastive(encoder, pairs, finetuning, pooling, hardware, processes)
    before = _before(work, processes, objective.held_out)
    state, num_steps = fit(work, objective, config, processes, view)
    after = objective.held_out() if processes.is_first else {}
    num_held_out = int(held_out.sum())
    num_train = len(held_out) - num_held_out
    return Trained(encoder, state, num_steps, num_train, num_held_out, before, after)


def _new_classifier(work: Workspace, config: FinetuningConfig, num_labels: int) -> TextClassifier:
    assert work.plan.encoder is not None
    directory = directory_on_host(work.plan.encoder)
    family, sizes = read_config(directory)
    torch.manual_seed(config.seed)
    encoder = read_encoder(directory)
    freeze(encoder, config)
    return TextClassifier(encoder, new_head(family, sizes, num_labels))


def _before(work: Workspace, processes: Processes, score: Any) -> Mapping[str, Any]:
    """Scores before the first step, kept for a training that goes on later."""
    if not processes.is_first:
        return {}
    path = work.run.file(BEFORE)
    if storage.exists(path):
        return dict(json.loads(storage.read_bytes(path)))
    found = dict(score())
    storage.put_if_absent(path, json.dumps(found).encode())
    return found
