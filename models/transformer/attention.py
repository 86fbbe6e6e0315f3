"""Scaled dot-product attention, over padded batches and over texts laid end to end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

Cuts = Sequence[tuple[int, int]]
"""Where each text begins and ends in a row of tokens."""


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(Q Kᵀ / √d + bias) V, by torch's fused kernel. Vaswani et al. 2017, eq. 1.

    Args:
        query: (…, heads, m, d).
        key: (…, heads, n, d).
        value: (…, heads, n, d).
        bias: added to the scores, broadcast to (…, heads, m, n): −∞ where a query must not see a
            key, and position biases.
        causal: query i sees the keys up to i.
        dropout: share of the weights dropped.
        scale: of the scores; None: 1 / √d.

    Returns:
        (…, heads, m, d).
    """
    if causal and bias is not None:
        bias, causal = bias + causal_bias(query, key), False
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=causal, dropout_p=dropout, scale=scale
    )


def causal_bias(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(m, n): 0 where query i sees key j, j ≤ i, and −∞ elsewhere."""
    seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
    return as_bias(seen.tril(), query.dtype)


def as_bias(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean mask as what is added to the scores: 0 where true, −∞ elsewhere."""
    zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return zeros.masked_fill(~seen, float("-inf"))


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_cuts: Cuts,
    key_cuts: Cuts,
    bias: torch.Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention within each text: the same as a block-diagonal mask, without its zeros.

    Args:
        query: (…, heads, t, d), the texts end to end.
        key: (…, heads, u, d).
        value: (…, heads, u, d).
        query_cuts: of the texts in `query`.
        key_cuts: of the texts in `key`, as many.
        bias: (heads, longest, longest) by position in the text; each text takes its corner.
        causal: query i of a text sees its keys up to i.
        dropout: share of the weights dropped.
        scale: of the scores; None: 1 / √d.

    Returns:
        (…, heads, t, d).
    """
    outputs = [
        scaled_dot_product_attention(
            query[..., start:end, :],
            key[..., first:last, :],
            value[..., first:last, :],
            None if bias is None else bias[:, : end - start, : last - first],
            causal=causal,
            dropout=dropout,
            scale=scale,
        )
        for (start, end), (first, last) in zip(query_cuts, key_cuts, strict=True)
    ]
    return torch.cat(outputs, dim=-2)
