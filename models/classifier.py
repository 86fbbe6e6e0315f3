"""Classes of documents beside their embeddings: a classifier's head over the encoder's states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lexbeam.models.encoder_spec import ModelSpec, damaged, read_json

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

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
        # Only now: it imports torch.
        from lexbeam.models.transformer.checkpoints import read_classification_head

        self._labels = spec.labels
        self._head = read_classification_head(spec.directory)

    def label(self, first: Float32Array, weights: npt.NDArray[np.integer]) -> Label:
        """(windows, d) states of the first tokens, and (windows,) tokens, to the class."""
        import torch

        with torch.inference_mode():
            scores = self._head(torch.from_numpy(np.ascontiguousarray(first)))
        shares = document_probabilities(scores.numpy(), weights)
        chosen = int(shares.argmax())
        return Label(self._labels[chosen], float(shares[chosen]))


def document_probabilities(scores: Float32Array, weights: npt.NDArray[np.integer]) -> Float64Array:
    """(windows, classes) scores of a document and (windows,) tokens to (classes,) probabilities.

    The softmax of the mean over windows, each weighted by its tokens.
    """
    return softmax(np.average(scores.astype(np.float64), axis=0, weights=weights))


def softmax(scores: npt.NDArray[np.floating]) -> Float64Array:
    """Over the last axis, in float64."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    shares: Float64Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares
