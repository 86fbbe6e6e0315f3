"""From examples to a fine-tuned model, in one process or in several."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from lexbeam.models.encoder_spec import ModelSpec
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
from lexbeam.models.training.trainer import Objective
from lexbeam.models.transformer.checkpoints import new_head, read_config, read_encoder
from lexbeam.models.transformer.classifier import TextClassifier
from lexbeam.models.transformer.model import Encoder
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.fit import checkpoints_of, fit, training_config
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
    setting = _Setting(work, finetuning, config, processes, view)
    table = read_arrow(work.gathered)
    try:
        if finetuning.task == CLASSIFY:
            return _train_classifier(setting, table)
        return _train_pairs(setting, table)
    except ExamplesError as error:
        raise JobError(f"{error}. Nothing was trained") from error


@dataclass(frozen=True)
class _Setting:
    """What both tasks are trained in."""

    work: Workspace
    finetuning: FinetuningConfig
    config: TrainingConfig
    processes: Processes
    view: ProgressView

    @property
    def hardware(self) -> Hardware:
        return Hardware.of(self.config, self.processes.local_rank)

    @property
    def spec(self) -> ModelSpec:
        """The model to go on from, where it lies on this host."""
        spec = self.work.plan.encoder
        assert spec is not None
        return replace(spec, directory=directory_on_host(spec))

    def encoder(self, spec: ModelSpec) -> Encoder:
        """As it is, with what stays as it is frozen."""
        encoder = read_encoder(spec.directory)
        freeze(encoder, self.finetuning)
        return encoder

    def fit(
        self, objective: Objective, score: Callable[[], Mapping[str, float]]
    ) -> tuple[Mapping[str, float], TrainingState, int]:
        """Scores before the first step, the end of the training, and the steps planned."""
        set_dropout(objective.model, self.config.dropout)
        before = self._before(score) if self.processes.is_first else {}
        return before, *fit(self.work, objective, self.config, self.processes, self.view)

    def _before(self, score: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Kept for a training that goes on later, when the model is no longer as it was."""
        path = self.work.run.file(BEFORE)
        if not storage.exists(path):
            storage.put_if_absent(path, json.dumps(dict(score())).encode())
        return dict(json.loads(storage.read_bytes(path)))


def _train_classifier(setting: _Setting, table: pa.Table) -> Trained:
    config, is_first = setting.finetuning, setting.processes.is_first
    labels, hashes = table["label"].to_pylist(), table["text_sha256"].to_pylist()
    classes = check_labels(labels, hashes)
    held_out = stratified_split(labels, hashes, config.eval_fraction, config.seed)
    texts = LabelledTexts.of(table, classes, held_out)
    spec, hardware = setting.spec, setting.hardware
    head = new_head(*read_config(spec.directory), len(classes))
    model = TextClassifier(setting.encoder(spec), head).to(hardware.device)
    objective = Classification(model, texts, config, hardware, setting.processes)
    # A checkpoint has a head; without one it begins anew, also where this is not the first try.
    if is_first and not checkpoints_of(setting.work).steps():
        setting.view.say("fitting the head to the model as it is")
        objective.start_head()
    before, state, num_steps = setting.fit(objective, objective.evaluate)
    after, predictions = {}, []
    if is_first:
        expected, probabilities = objective.held_out()
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
        model=model,
        state=state,
        num_steps=num_steps,
        num_train=int((~held_out).sum()),
        num_held_out=int(held_out.sum()),
        before=before,
        after=after,
        labels=classes,
        predictions=predictions,
    )


def _train_pairs(setting: _Setting, table: pa.Table) -> Trained:
    config = setting.finetuning
    keys, hashes = table["key"].to_numpy(), table["text_sha256"].to_pylist()
    held_out = random_split(keys, hashes, config.eval_fraction)
    spec, hardware = setting.spec, setting.hardware
    encoder = setting.encoder(spec).to(hardware.device)
    pairs = PairedTexts.of(table, held_out)
    objective = Contrastive(encoder, pairs, config, spec.pooling, hardware, setting.processes)
    before, state, num_steps = setting.fit(objective, objective.held_out)
    return Trained(
        model=encoder,
        state=state,
        num_steps=num_steps,
        num_train=int((~held_out).sum()),
        num_held_out=int(held_out.sum()),
        before=before,
        after=objective.held_out() if setting.processes.is_first else {},
    )
