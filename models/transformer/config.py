"""Sizes and choices of a Transformer."""

from __future__ import annotations

from dataclasses import dataclass

from lexbeam.models.config import require, require_at_least, require_choice

POSITION_ENCODINGS = ("learned", "sinusoidal", "relative", "rotary")
LAYER_NORMS = ("post", "pre")
ACTIVATIONS = ("gelu", "relu")


@dataclass(frozen=True)
class TransformerConfig:
    """An encoder, or a decoder, which has the same sizes.

    Attributes:
        vocab_size: tokens that have an embedding.
        hidden_size: of a token's vector; the model dimension d of the literature.
        num_layers: layers of the stack.
        num_heads: of each attention; a head has hidden_size / num_heads dimensions.
        intermediate_size: inner width of the feed-forward network.
        max_positions: tokens of the longest text; rotary and relative positions have no table,
            and take it as what the model was made for.
        type_vocab_size: rows of the table of token types; 0: there is none.
        pad_token_id: of padding.
        first_position: row of the position table for a text's first token (RoBERTa: pad + 1).
        position_encoding: `learned` (Devlin et al. 2019), `sinusoidal` (Vaswani et al. 2017),
            `relative`, a bias on the scores by distance (Shaw et al. 2018, in the form of
            Raffel et al. 2020), or `rotary` (Su et al. 2021).
        absolute_positions: beside relative ones a learned table as well (MPNet).
        layer_norm: `post`, behind each residual sum, as in BERT; `pre`, before each sublayer
            (Xiong et al. 2020).
        layer_norm_eps: added to the variance.
        activation: of the feed-forward network.
        dropout: share of the hidden values dropped while training.
        attention_dropout: share of the attention weights dropped while training.
        relative_buckets: rows of the table of relative distances.
        relative_distance: from there on all distances share a row.
    """

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0
    first_position: int = 0
    position_encoding: str = "learned"
    absolute_positions: bool = False
    layer_norm: str = "post"
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    relative_buckets: int = 32
    relative_distance: int = 128

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size",
            "max_positions",
        ):  # fmt: skip
            require_at_least(name, getattr(self, name), 1)
        require_choice("position_encoding", self.position_encoding, POSITION_ENCODINGS)
        require_choice("layer_norm", self.layer_norm, LAYER_NORMS)
        require_choice("activation", self.activation, ACTIVATIONS)
        reason = f"must be a multiple of --num_heads {self.num_heads}"
        require(self.hidden_size % self.num_heads == 0, "hidden_size", self.hidden_size, reason)
        if self.position_encoding in ("rotary", "sinusoidal"):
            reason = "pairs of dimensions turn together: it must be even"
            size = self.head_size if self.position_encoding == "rotary" else self.hidden_size
            require(size % 2 == 0, "hidden_size", self.hidden_size, reason)
        for name in ("dropout", "attention_dropout"):
            require(
                0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "must lie in [0, 1)"
            )

    @property
    def head_size(self) -> int:
        """Dimensions of a head."""
        return self.hidden_size // self.num_heads
