"""Position encodings: how the order of tokens enters a Transformer."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from lexbeam.models.transformer.layouts import Layout

_BASE = 10_000.0


def sinusoidal_table(num_positions: int, size: int) -> torch.Tensor:
    """(num_positions, size) float32: sin and cos of position / 10000^(2i/size), interleaved.

    Vaswani et al. 2017, section 3.5. `size` is even.
    """
    angles = _angles(torch.arange(num_positions), size)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).float()


def _angles(positions: torch.Tensor, size: int) -> torch.Tensor:
    """(…, size / 2) float64: position · 10000^(−2i/size)."""
    exponents = torch.arange(0, size, 2, dtype=torch.float64, device=positions.device) / size
    return positions.to(torch.float64)[..., None] * _BASE**-exponents


class Rotary:
    """Rotary positions of a batch's tokens: one rotation for all layers. Su et al. 2021, eq. 34."""

    def __init__(self, positions: torch.Tensor, head_size: int) -> None:
        angles = _angles(positions, head_size)
        self._cos = angles.cos().float()
        self._sin = angles.sin().float()

    def rotate(self, heads: torch.Tensor) -> torch.Tensor:
        """Turn the pairs (x₂ᵢ, x₂ᵢ₊₁) of each token by its angles.

        heads: (…, heads, tokens, head_size). So Q Kᵀ depends on distances alone.
        """
        cos, sin = self._cos.to(heads.dtype), self._sin.to(heads.dtype)
        even, odd = heads[..., 0::2], heads[..., 1::2]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
        return turned.flatten(-2)


class RelativeBias(nn.Module):
    """A learned bias on the scores for each head and bucket of distances, shared by all layers.

    Shaw et al. 2018 made attention depend on distances; the bias and its buckets, exact for the
    near ones and logarithmic beyond, are those of Raffel et al. 2020, section 2.1.

    Args:
        num_heads: heads of each attention.
        num_buckets: rows of the table; half of them for each direction.
        max_distance: from there on all distances share a bucket.
    """

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.table = nn.Embedding(num_buckets, num_heads)
        self.max_distance = max_distance

    def forward(self, length: int) -> torch.Tensor:
        """(heads, length, length): the bias of query i and key j, by j − i."""
        places = torch.arange(length, device=self.table.weight.device)
        buckets = self.buckets(places[None, :] - places[:, None])
        bias: torch.Tensor = self.table(buckets).permute(2, 0, 1)
        return bias

    def buckets(self, distances: torch.Tensor) -> torch.Tensor:
        """Row of the table for each distance j − i; int64 in and out."""
        half = self.table.num_embeddings // 2
        exact = half // 2
        near = distances.abs()
        ratio = near.clamp(min=1).float() / exact
        far = ratio.log() / math.log(self.max_distance / exact) * (half - exact)
        logarithmic = (exact + far.to(torch.int64)).clamp(max=half - 1)
        return torch.where(near < exact, near, logarithmic) + half * (distances > 0)


class PositionTable(nn.Module):
    """A vector for each position, added to the word's: learned, or sinusoidal and fixed."""

    def __init__(self, num_rows: int, size: int, first: int = 0, *, learned: bool = True) -> None:
        super().__init__()
        self.first = first
        self.weight = nn.Parameter(torch.empty(num_rows, size), requires_grad=learned)
        with torch.no_grad():
            if learned:
                nn.init.normal_(self.weight, std=0.02)
            else:
                self.weight.copy_(sinusoidal_table(num_rows, size))

    def forward(self, layout: Layout) -> torch.Tensor:
        """(tokens, size) for the positions of a layout.

        Raises ValueError where a text is longer than the table.
        """
        limit = self.weight.shape[0] - self.first
        if layout.longest > limit:
            raise ValueError(f"a text of {layout.longest} tokens; the position table has {limit}")
        # Not by indexing, whose gradient threads add up in an order of their own.
        return functional.embedding(layout.positions + self.first, self.weight)
