"""Classes of documents as what a model learns.

A step takes of each document one window, drawn anew in each epoch; a document that is asked for
is read whole: its scores are the mean of its windows' scores, each weighted by its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.nn import functional

from lexbeam.models.classifier import document_probabilities, softmax
from lexbeam.models.finetuning.config import NUM_EVALUATIONS, FinetuningConfig
from lexbeam.models.finetuning.examples import BoolArray, Int32Array, Int64Array, Sides, Windows
from lexbeam.models.finetuning.forward import (
    batches_of,
    quiet_frozen,
    sorted_batches,
    to_device,
)
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.processes import ALONE, Processes
from lexbeam.models.training.random import generator, torch_seed
from lexbeam.models.transformer.classifier import TextClassifier, first_tokens

FloatArray = npt.NDArray[np.float32]

_DROPOUT, _WINDOWS = 4, 5  # streams of random numbers
# Held-out documents of the evaluations on the way, each by its first window; the last takes all.
_ON_THE_WAY = 256
# The head of a start is fitted to so many documents at most.
_FITTED = 20_000
_SPREAD = 0.5  # of standardised features before the activation, where tanh is nearly linear


@dataclass(frozen=True)
class LabelledTexts:
    """What is learned from.

    Attributes:
        windows: of all documents.
        classes: (n,) int64 number of each document's class.
        held_out: (n,) whether it is for evaluation alone.
        num_classes: of all.
    """

    windows: Windows
    classes: Int64Array
    held_out: BoolArray
    num_classes: int

    @classmethod
    def of(cls, table: pa.Table, labels: Sequence[str], held_out: BoolArray) -> LabelledTexts:
        """From a table as `examples.SCHEMA` says; `labels`: the classes, sorted."""
        numbers = {label: number for number, label in enumerate(labels)}
        classes = [numbers[label] for label in table["label"].to_pylist()]
        return cls(Windows(table), np.array(classes, np.int64), held_out, len(labels))

    def class_weights(self, kind: str) -> FloatArray:
        """(num_classes,) what an error of each class weighs, as scikit-learn's `class_weight`."""
        sizes = np.bincount(self.classes[~self.held_out], minlength=self.num_classes)
        if kind == "none":
            return np.ones(self.num_classes, np.float32)
        weights: FloatArray = (sizes.sum() / (self.num_classes * sizes)).astype(np.float32)
        return weights


class Classification:
    """Foretelling the classes of documents; an `Objective`.

    Args:
        model: on the hardware's device.
        texts: what is learned from.
        config: how, `batch_size` among it.
        hardware: what the model is on.
        processes: that train together.
    """

    num_evaluations = NUM_EVALUATIONS
    headline = "accuracy"

    def __init__(
        self,
        model: TextClassifier,
        texts: LabelledTexts,
        config: FinetuningConfig,
        hardware: Hardware,
        processes: Processes = ALONE,
    ) -> None:
        self.model = model
        self._texts = texts
        self._config = config
        self._hardware = hardware
        self._processes = processes
        self._sides = Sides(texts.held_out, config)
        self.steps_per_epoch = self._sides.steps_per_epoch
        weights = texts.class_weights(config.class_weights)
        self._weights = torch.from_numpy(weights).to(hardware.device)
        tokens = texts.windows.mean_lengths[self._sides.train].sum()
        self.tokens_per_step = int(tokens) // self.steps_per_epoch

    def backward(self, step: int) -> tuple[torch.Tensor, int]:
        """One window of each of the step's documents."""
        quiet_frozen(self.model.encoder)
        documents = self._sides.step(step)
        windows = self._drawn(documents, step)
        classes = self._texts.classes[documents]
        batches = batches_of(windows, self._hardware)
        targets = torch.from_numpy(classes).to(self._hardware.device)
        total = self._weights[targets].sum()
        loss = torch.zeros((), device=self._hardware.device)
        for index in range(self._processes.rank, len(batches), self._processes.size):
            batch = batches[index]
            # Of the batch's place alone, whichever process works on it.
            torch.manual_seed(torch_seed(self._config.seed, _DROPOUT, step, index))
            with self._hardware.autocast():
                scores = self.model(*to_device(batch, self._hardware)).float()
            batch_loss = functional.cross_entropy(
                scores, targets[batch.owners[0] : batch.owners[-1] + 1], self._weights,
                reduction="sum",
            ) / total  # fmt: skip
            batch_loss.backward()  # type: ignore[no-untyped-call]
            loss += batch_loss.detach()
        return loss, sum(map(len, windows))

    def _drawn(self, documents: Int64Array, step: int) -> list[Int32Array]:
        random = generator(self._config.seed, _WINDOWS, step)
        windows = self._texts.windows
        numbers = random.integers(windows.counts[documents])
        return [
            windows.window(*pair) for pair in zip(documents.tolist(), numbers.tolist(), strict=True)
        ]

    def evaluate(self) -> Mapping[str, float]:
        """On some of the held-out documents, each by its first window; the same ones each time."""
        few = self._sides.held_out[:_ON_THE_WAY]
        scores = self._window_scores([self._texts.windows.window(row, 0) for row in few.tolist()])
        return scores_of(scores, self._texts.classes[few])

    def held_out(self) -> tuple[Int64Array, FloatArray]:
        """Classes of all held-out documents, and (documents, num_classes) their probabilities."""
        rows = self._sides.held_out
        return self._texts.classes[rows], self.probabilities(rows)

    def probabilities(self, rows: Int64Array) -> FloatArray:
        """(rows, num_classes) of documents, read whole."""
        own = [self._texts.windows.of(row) for row in rows.tolist()]
        scores = self._window_scores([window for windows in own for window in windows])
        ends = np.cumsum([len(windows) for windows in own])
        parts = zip(np.split(scores, ends[:-1]), own, strict=True)
        # As `lexbeam run` has them.
        found = [document_probabilities(part, np.array(list(map(len, w)))) for part, w in parts]
        return np.array(found, np.float32)

    @torch.inference_mode()
    def _window_scores(self, windows: Sequence[Int32Array]) -> FloatArray:
        self.model.eval()
        scores = np.empty((len(windows), self._texts.num_classes), np.float32)
        for batch in sorted_batches(windows, self._hardware):
            with self._hardware.autocast():
                found = self.model(*to_device(batch, self._hardware))
            scores[batch.owners] = found.float().cpu().numpy()
        return scores

    def start_head(self) -> None:
        """Fit the head to the encoder as it is, by logistic regression on its first tokens.

        A random head would pull the encoder about before it knows anything (Kumar et al. 2022).
        The dense layer standardises, so that what the activation gives is nearly linear in it.
        """
        from sklearn.linear_model import LogisticRegression

        rows = self._sides.train[:_FITTED]
        first = self._first_tokens(rows)
        center, spread = first.mean(axis=0), np.maximum(first.std(axis=0), 1e-6)
        head = self.model.head
        with torch.inference_mode(False), torch.no_grad():
            head.dense.weight.copy_(torch.diag(torch.from_numpy(_SPREAD / spread)))
            head.dense.bias.copy_(torch.from_numpy(-_SPREAD * center / spread))
            head.eval()
            features = head.features(torch.from_numpy(first).to(self._hardware.device))
            weight = None if self._config.class_weights == "none" else "balanced"
            fitted = LogisticRegression(C=1.0, max_iter=1000, class_weight=weight)
            fitted.fit(features.cpu().numpy(), self._texts.classes[rows])
            weights, bias = fitted.coef_, fitted.intercept_
            if len(weights) == 1:  # two classes have the difference of their scores
                weights = np.concatenate([-weights, weights]) / 2
                bias = np.concatenate([-bias, bias]) / 2
            head.output.weight.copy_(torch.from_numpy(weights.astype(np.float32)))
            head.output.bias.copy_(torch.from_numpy(bias.astype(np.float32)))

    @torch.inference_mode()
    def _first_tokens(self, rows: Int64Array) -> FloatArray:
        """(rows, hidden_size) of each document's first window."""
        self.model.eval()
        windows = [self._texts.windows.window(row, 0) for row in rows.tolist()]
        size = self.model.encoder.config.hidden_size
        found = np.empty((len(rows), size), np.float32)
        for batch in sorted_batches(windows, self._hardware):
            ids, layout = to_device(batch, self._hardware)
            with self._hardware.autocast():
                states = first_tokens(self.model.encoder(ids, layout), layout)
            found[batch.owners] = states.float().cpu().numpy()
        return found


def scores_of(scores: FloatArray, classes: Int64Array) -> dict[str, float]:
    """Mean cross-entropy in nats, and the share that is right."""
    chosen = np.log(np.maximum(softmax(scores)[np.arange(len(classes)), classes], 1e-30))
    right = scores.argmax(axis=1) == classes
    return {"loss": float(-chosen.mean()), "accuracy": float(right.mean())}
