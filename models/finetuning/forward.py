"""Windows through an encoder in training: packed, with some of it frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from lexbeam.models.config import require
from lexbeam.models.finetuning.config import FinetuningConfig
from lexbeam.models.finetuning.examples import Batch, Int32Array, batch_of
from lexbeam.models.training.batches import cut_by_tokens, spans
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.transformer.layouts import Packed
from lexbeam.models.transformer.model import Encoder


def freeze(encoder: Encoder, config: FinetuningConfig) -> None:
    """Let the embeddings and the first layers stay as they are.

    Raises ConfigError where the encoder has no such layers.
    """
    count, frozen = len(encoder.layers), config.frozen_layers
    require(frozen <= count, "frozen_layers", frozen, f"the model has {count} layers")
    still: list[nn.Module] = [] if config.train_embeddings else [encoder.embeddings]
    if frozen and encoder.relative is not None:
        still.append(encoder.relative)
    still += list(encoder.layers)[:frozen]
    for module in still:
        module.requires_grad_(False)


def quiet_frozen(encoder: Encoder) -> None:
    """No dropout in what is frozen: noise there teaches nothing."""
    for module in (encoder.embeddings, *encoder.layers):
        if not any(each.requires_grad for each in module.parameters()):
            module.eval()


def batches_of(windows: Sequence[Int32Array], hardware: Hardware) -> list[Batch]:
    """Windows in batches that fit the memory; owners are the windows' numbers."""
    lengths = np.array([len(window) for window in windows], np.int64)
    return [
        batch_of(windows[first:last], np.arange(first, last))
        for first, last in spans(cut_by_tokens(lengths, hardware.max_batch_tokens))
    ]


def to_device(batch: Batch, hardware: Hardware) -> tuple[torch.Tensor, Packed]:
    """Tokens and layout of a batch."""
    device = hardware.device
    layout = Packed.of_lengths(batch.lengths, device, has_kernel=hardware.has_kernel)
    return torch.from_numpy(batch.ids).to(device), layout


def sorted_batches(windows: Sequence[Int32Array], hardware: Hardware) -> Iterator[Batch]:
    """As `batches_of`, the longest windows first, for a pass without gradients."""
    order = sorted(range(len(windows)), key=lambda number: -len(windows[number]))
    numbers = np.array(order, np.int64)
    for batch in batches_of([windows[number] for number in order], hardware):
        yield Batch(batch.ids, batch.lengths, numbers[batch.owners])
