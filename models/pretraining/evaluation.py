"""How well a model foretells masked tokens of texts that it has not learned from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from lexbeam.models.pretraining.masking import MaskedTokens, mask_tokens
from lexbeam.models.pretraining.store import Int64Array, SequenceStore
from lexbeam.models.pretraining.subwords import SpecialTokens
from lexbeam.models.training.batches import cut_by_tokens, spans
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.random import generator
from lexbeam.models.transformer.layouts import Packed
from lexbeam.models.transformer.model import MaskedLanguageModel

_EVALUATION = 2  # stream of random numbers: masks of the held-out texts


@dataclass(frozen=True)
class MaskedBatch:
    """Sequences end to end, masked.

    Attributes:
        tokens: as the model sees them.
        lengths: of the sequences.
    """

    tokens: MaskedTokens
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class HeldOutScore:
    """Over all masked tokens of the held-out texts.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of the tokens that got the highest score.
        constant_accuracy: what always foretelling their commonest token would have got.
        num_masked: tokens that were to be foretold.
    """

    loss: float
    accuracy: float
    constant_accuracy: float
    num_masked: int


def held_out_batches(
    store: SequenceStore,
    special: SpecialTokens,
    probability: float,
    seed: int,
    max_batch_tokens: int,
    *,
    whole_words: bool,
    most_tokens: int | None = None,
) -> list[MaskedBatch]:
    """The held-out sequences with masks that are the same each time they are asked for.

    The first ones by their random keys, up to about `most_tokens`.
    """
    lengths = store.lengths
    if most_tokens is not None:
        fitting = int(np.searchsorted(np.cumsum(lengths), most_tokens, side="right"))
        lengths = lengths[: max(1, fitting)]
    ids, starts = store.read(np.arange(len(lengths)))
    random = generator(seed, _EVALUATION)
    masked = mask_tokens(ids, starts, special, probability, random, whole_words=whole_words)
    return cut_masked(masked, lengths, max_batch_tokens)


def cut_masked(
    masked: MaskedTokens, lengths: Int64Array, max_batch_tokens: int
) -> list[MaskedBatch]:
    """Masked sequences of these lengths in batches that fit the memory."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    bounds = cut_by_tokens(lengths, max_batch_tokens)
    return [
        MaskedBatch(
            masked.between(int(ends[first]), int(ends[last])), tuple(lengths[first:last].tolist())
        )
        for first, last in spans(bounds)
    ]


def losses(
    model: MaskedLanguageModel, batch: MaskedBatch, hardware: Hardware
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of a batch's masked tokens, and how many were foretold right."""
    device = hardware.device
    layout = Packed.of_lengths(batch.lengths, device, has_kernel=hardware.has_kernel)
    ids, places, labels = (
        torch.from_numpy(array).to(device)
        for array in (batch.tokens.ids, batch.tokens.places, batch.tokens.labels)
    )
    scores = model(ids, layout, places).float()
    loss = functional.cross_entropy(scores, labels, reduction="sum")
    return loss, (scores.argmax(dim=-1) == labels).sum()


@torch.inference_mode()
def evaluate(
    model: MaskedLanguageModel, batches: Sequence[MaskedBatch], hardware: Hardware
) -> HeldOutScore:
    """Score a model on masked batches; it is left in evaluation mode."""
    model.eval()
    loss = correct = 0.0
    for batch in batches:
        batch_loss, batch_correct = losses(model, batch, hardware)
        loss += float(batch_loss)
        correct += float(batch_correct)
    labels = _labels(batches)
    counts = np.bincount(labels)
    return HeldOutScore(
        loss / len(labels), correct / len(labels), float(counts.max() / len(labels)), len(labels)
    )


def _labels(batches: Iterable[MaskedBatch]) -> np.ndarray:
    return np.concatenate([batch.tokens.labels for batch in batches])
