"""How the texts of a batch lie in a tensor: padded to a rectangle, or packed end to end.

Layers do the same for both: what depends on it is where a token stands in its text, and which
tokens see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lexbeam.models.transformer.attention import (
    Cuts,
    as_bias,
    packed_attention,
    scaled_dot_product_attention,
)
from lexbeam.models.varlen import varlen_attention


class Layout(Protocol):
    """Where the texts of a batch lie."""

    @property
    def positions(self) -> torch.Tensor:
        """Place of each token in its text, from 0: (length,) or (t,) int64."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        ...

    def attend(
        self,
        keys: Layout,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        causal: bool,
        dropout: float,
    ) -> torch.Tensor:
        """Attention of these texts over the texts of `keys`, each over its own.

        query, key, value: (…, heads, tokens, d). bias: (heads, longest, longest) or None.
        """
        ...


@dataclass(frozen=True)
class Padded:
    """Texts side by side in a rectangle.

    Attributes:
        mask: (n, length) bool, true for a real token; these come first.
    """

    mask: torch.Tensor

    @property
    def positions(self) -> torch.Tensor:
        """(length,) int64: the same for every text."""
        return torch.arange(self.longest, device=self.mask.device)

    @property
    def longest(self) -> int:
        """Width of the rectangle."""
        return int(self.mask.shape[1])

    def attend(
        self,
        keys: Layout,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        causal: bool,
        dropout: float,
    ) -> torch.Tensor:
        """Padding is no key for anyone: −∞ before the softmax."""
        assert isinstance(keys, Padded)
        scores = as_bias(keys.mask[:, None, None, :], query.dtype)
        scores = scores if bias is None else scores + bias
        return scaled_dot_product_attention(
            query, key, value, scores, causal=causal, dropout=dropout
        )


@dataclass(frozen=True)
class Packed:
    """Texts end to end in one row of t tokens.

    Attributes:
        positions: (t,) int64, place of each token in its text.
        cuts: where each text begins and ends.
        longest: tokens of the longest text.
        bounds: (n + 1,) int32, for the variable-length kernel; None: it is not to be used.
    """

    positions: torch.Tensor
    cuts: Cuts
    longest: int
    bounds: torch.Tensor | None = None

    @classmethod
    def of_lengths(
        cls,
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        has_kernel: bool = False,
    ) -> Packed:
        """Texts of these lengths, all above 0, in this order.

        has_kernel: attention without a bias takes the kernel of `lexbeam.models.varlen`.
        """
        ends = torch.tensor(lengths).cumsum(0).tolist()
        cuts = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        positions = torch.cat([torch.arange(length) for length in lengths])
        bounds = None
        if has_kernel:
            bounds = torch.tensor([0, *ends], dtype=torch.int32, device=device)
        return cls(positions.to(device), cuts, max(lengths), bounds)

    def attend(
        self,
        keys: Layout,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        causal: bool,
        dropout: float,
    ) -> torch.Tensor:
        """A text's tokens see its own tokens alone."""
        assert isinstance(keys, Packed)
        if self.bounds is not None and keys.bounds is not None and bias is None and not dropout:
            return varlen_attention(
                query, key, value, self.bounds, keys.bounds, self.longest, keys.longest,
                causal=causal,
            )  # fmt: skip
        return packed_attention(
            query, key, value, self.cuts, keys.cuts, bias, causal=causal, dropout=dropout
        )
