"""The parts of a Transformer's layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.layouts import Layout
from lexbeam.models.transformer.positions import Rotary


class MultiHeadAttention(nn.Module):
    """Concat(head₁ … headₕ) Wᴼ with headᵢ = Attention(Q Wᵢ, K Wᵢ, V Wᵢ). Vaswani et al., 3.2.2.

    Args:
        config: of the stack.
        causal: a token sees itself and what stands before it.
    """

    def __init__(self, config: TransformerConfig, *, causal: bool = False) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.causal = causal
        self.dropout = config.attention_dropout
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def forward(
        self,
        hidden: torch.Tensor,
        layout: Layout,
        states: torch.Tensor | None = None,
        states_layout: Layout | None = None,
        *,
        bias: torch.Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> torch.Tensor:
        """Self-attention, or cross-attention over `states` where these are given.

        Args:
            hidden: (…, tokens, hidden_size): gives the queries.
            layout: of its texts.
            states: (…, tokens, hidden_size): give keys and values; None: `hidden` does.
            states_layout: of their texts.
            bias: (heads, longest, longest), added to the scores.
            rotary: turns queries and keys.

        Returns:
            (…, tokens, hidden_size).
        """
        if states is None or states_layout is None:
            states, states_layout = hidden, layout
        query = self._split(self.query(hidden))
        key, value = self._split(self.key(states)), self._split(self.value(states))
        if rotary is not None:
            query, key = rotary.rotate(query), rotary.rotate(key)
        dropout = self.dropout if self.training else 0.0
        heads = layout.attend(
            states_layout, query, key, value, bias, causal=self.causal, dropout=dropout
        )
        output: torch.Tensor = self.output(heads.transpose(-3, -2).flatten(-2))
        return output

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        """(…, tokens, hidden_size) to (…, heads, tokens, head_size)."""
        heads = projected.reshape(*projected.shape[:-1], self.num_heads, -1)
        return heads.transpose(-3, -2)


class FeedForward(nn.Module):
    """W₂ f(W₁ x + b₁) + b₂, for each token by itself. Vaswani et al. 2017, eq. 2."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = activation(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, hidden_size) to the same shape."""
        output: torch.Tensor = self.contract(self.activation(self.expand(hidden)))
        return output


def activation(config: TransformerConfig) -> nn.Module:
    """The configured function; GELU is the exact one, x Φ(x)."""
    return nn.GELU() if config.activation == "gelu" else nn.ReLU()


class Residual(nn.Module):
    """x + sublayer(x) with LayerNorm behind the sum (post-LN) or before the sublayer (pre-LN)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.is_pre = config.layer_norm == "pre"

    def forward(
        self, hidden: torch.Tensor, sublayer: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """(…, hidden_size) to the same shape."""
        if self.is_pre:
            output: torch.Tensor = hidden + self.dropout(sublayer(self.norm(hidden)))
            return output
        output = self.norm(hidden + self.dropout(sublayer(hidden)))
        return output


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each within a residual."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(
        self,
        hidden: torch.Tensor,
        layout: Layout,
        bias: torch.Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> torch.Tensor:
        """(…, tokens, hidden_size) to the same shape."""

        def attend(inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.attention(inputs, layout, bias=bias, rotary=rotary)
            return output

        hidden = self.attention_residual(hidden, attend)
        output: torch.Tensor = self.feed_forward_residual(hidden, self.feed_forward)
        return output


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the encoder's states, and a feed-forward network."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config, causal=True)
        self.attention_residual = Residual(config)
        self.cross_attention = MultiHeadAttention(config)
        self.cross_attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(
        self,
        hidden: torch.Tensor,
        layout: Layout,
        states: torch.Tensor,
        states_layout: Layout,
        bias: torch.Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> torch.Tensor:
        """(…, tokens, hidden_size) to the same shape; `states` are the encoder's."""

        def attend(inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.attention(inputs, layout, bias=bias, rotary=rotary)
            return output

        def attend_across(inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.cross_attention(inputs, layout, states, states_layout)
            return output

        hidden = self.attention_residual(hidden, attend)
        hidden = self.cross_attention_residual(hidden, attend_across)
        output: torch.Tensor = self.feed_forward_residual(hidden, self.feed_forward)
        return output
