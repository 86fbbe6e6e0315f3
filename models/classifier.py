"""Classes of documents beside their embeddings: a classifier's head over the encoder's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lexbeam.models.encoder_spec import ModelSpec, damaged, read_json

if TYPE_CHECKING:
    from lexbeam.models.transformer.classifier import ClassificationHead

Float32Array = npt.NDArray[np.float32]

# Pooled vectors of a classifier that pools by the mean: the mean, then the first token's state.
MEAN_AND_FIRST = "mean+first"


@dataclass(frozen=True)
class Label:
    """The class of a document.

    Attributes:
        name: of the class.
        score: its probability, as the classifier has it.
    """

    name: str
    score: float


def with_labels(spec: ModelSpec) -> ModelSpec:
    """The model as a classifier: it tells classes beside the embedding.

    Raises ModelError where it has no head of classes, or more than one class may hold.
    """
    from lexbeam.models.transformer.checkpoints import read_labels

    config = read_json(spec.directory, "config.json")
    labels = read_labels(config)
    if len(labels) < 2:
        found = ", ".join(map(str, config.get("architectures") or ["no architecture"]))
        reason = f"no classifier: {found} instead of …ForSequenceClassification with two classes"
        raise damaged(spec.directory, "config.json", reason)
    if config.get("problem_type") == "multi_label_classification":
        raise damaged(spec.directory, "config.json", "a document may have several of its classes")
    return replace(spec, labels=labels)


def max_seq_length_of(spec: ModelSpec) -> int:
    """Tokens a window that a model was trained with, or its longest window."""
    name = "sentence_bert_config.json"
    if not (spec.directory / name).is_file():
        return spec.max_positions
    value = read_json(spec.directory, name).get("max_seq_length")
    return min(value, spec.max_positions) if isinstance(value, int) else spec.max_positions


def graph_pooling(spec: ModelSpec, pooling: str) -> str:
    """What a forward pass gives for each window, where classes are asked for, too."""
    return MEAN_AND_FIRST if spec.labels and pooling == "mean" else pooling


class Labeller:
    """Tells the class of a document from its windows.

    Args:
        spec: with labels.

    Raises:
        ModelError: its head is missing or damaged.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._labels = spec.labels
        self._head = _read_head(spec.directory)

    def label(self, first: Float32Array, weights: npt.NDArray[np.integer]) -> Label:
        """(windows, d) states of the first tokens, and (windows,) tokens, to the class.

        The scores are the windows' mean, each weighted by its tokens.
        """
        import torch

        with torch.inference_mode():
            scores = self._head(torch.from_numpy(np.ascontiguousarray(first)))
        mean = np.average(scores.numpy().astype(np.float64), axis=0, weights=weights)
        shares = np.exp(mean - mean.max())
        shares /= shares.sum()
        chosen = int(shares.argmax())
        return Label(self._labels[chosen], float(shares[chosen]))


def _read_head(directory: Path) -> ClassificationHead:
    from lexbeam.models.transformer.checkpoints import read_classification_head

    return read_classification_head(directory)


def names_and_scores(
    labels: Sequence[Label | None],
) -> tuple[list[str | None], list[float | None]]:
    """Columns of labels."""
    names = [None if each is None else each.name for each in labels]
    return names, [None if each is None else each.score for each in labels]
