"""An encoder that tells the class of a text."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from lexbeam.models.transformer.layouts import Packed
from lexbeam.models.transformer.model import Encoder, initialise

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
}


class ClassificationHead(nn.Module):
    """Scores of classes for a text's first token: V f(W h + b) + c. Devlin et al. 2019, 4.1.

    Args:
        hidden_size: of h.
        num_labels: classes.
        activation: f; `tanh`, `relu` or `gelu`.
    """

    def __init__(self, hidden_size: int, num_labels: int, activation: str = "tanh") -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_labels)
        self.dropout = nn.Dropout(0.0)  # before and behind W; a training sets it
        self._activation = _ACTIVATIONS[activation]
        self.apply(initialise)

    def features(self, first: torch.Tensor) -> torch.Tensor:
        """f(W h + b); (…, hidden_size) to the same."""
        return self._activation(self.dense(self.dropout(first)))

    def forward(self, first: torch.Tensor) -> torch.Tensor:
        """(…, hidden_size) to (…, num_labels) scores before the softmax."""
        scores: torch.Tensor = self.output(self.dropout(self.features(first)))
        return scores


class TextClassifier(nn.Module):
    """An encoder with a head of classes."""

    def __init__(self, encoder: Encoder, head: ClassificationHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, ids: torch.Tensor, layout: Packed) -> torch.Tensor:
        """(t,) int64 ids of packed texts to (texts, num_labels)."""
        scores: torch.Tensor = self.head(first_tokens(self.encoder(ids, layout), layout))
        return scores


def first_tokens(hidden: torch.Tensor, layout: Packed) -> torch.Tensor:
    """(t, hidden_size) to (texts, hidden_size)."""
    places = torch.tensor([start for start, _ in layout.cuts], device=hidden.device)
    return hidden.index_select(0, places)


def mean_tokens(hidden: torch.Tensor, layout: Packed) -> torch.Tensor:
    """(t, hidden_size) to the mean over each text's tokens, (texts, hidden_size)."""
    return torch.stack([hidden[start:end].mean(dim=0) for start, end in layout.cuts])
