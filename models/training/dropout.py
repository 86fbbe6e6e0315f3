"""Dropout of a model that is to be trained."""

from __future__ import annotations

from torch import nn

from lexbeam.models.transformer.layers import MultiHeadAttention


def set_dropout(model: nn.Module, hidden: float) -> None:
    """Dropout of hidden values; of attention weights none, as fused attention on CPUs asks for."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = hidden
        if isinstance(module, MultiHeadAttention):
            module.dropout = 0.0
