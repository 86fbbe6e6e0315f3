"""Encoder, decoder, and the models that are made of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.layers import DecoderLayer, EncoderLayer, activation
from lexbeam.models.transformer.layouts import Layout
from lexbeam.models.transformer.positions import PositionTable, RelativeBias, Rotary

_INITIAL_STD = 0.02  # Devlin et al. 2019


class Embeddings(nn.Module):
    """Sum of a token's word, position and type embeddings, normalised. Devlin et al. 2019, 3."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.word = nn.Embedding(config.vocab_size, size)
        self.position = None
        learned = config.position_encoding == "learned" or config.absolute_positions
        if learned or config.position_encoding == "sinusoidal":
            rows, first = config.max_positions + config.first_position, config.first_position
            self.position = PositionTable(rows, size, first, learned=learned)
        self.token_type = (
            nn.Embedding(config.type_vocab_size, size) if config.type_vocab_size else None
        )
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: torch.Tensor, layout: Layout) -> torch.Tensor:
        """(…, tokens) int64 ids to (…, tokens, hidden_size); all tokens are of type 0."""
        embedded = self.word(ids)
        if self.token_type is not None:
            embedded = embedded + self.token_type.weight[0]
        if self.position is not None:
            embedded = embedded + self.position(layout)
        output: torch.Tensor = self.dropout(self.norm(embedded))
        return output


class _Stack(nn.Module):
    """What encoder and decoder have in common: embeddings, positions, layers."""

    def __init__(self, config: TransformerConfig, layer: type[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(layer(config) for _ in range(config.num_layers))
        self.relative = None
        if config.position_encoding == "relative":
            self.relative = RelativeBias(
                config.num_heads, config.relative_buckets, config.relative_distance
            )
        # With pre-LN nothing has normalised the last sum.
        is_pre = config.layer_norm == "pre"
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if is_pre else None
        self.apply(initialise)

    def _run(self, ids: torch.Tensor, layout: Layout, *states: object) -> torch.Tensor:
        hidden = self.embeddings(ids, layout)
        bias = self.relative(layout.longest) if self.relative is not None else None
        rotary = None
        if self.config.position_encoding == "rotary":
            rotary = Rotary(layout.positions, self.config.head_size)
        for layer in self.layers:
            hidden = layer(hidden, layout, *states, bias, rotary)
        output: torch.Tensor = hidden if self.norm is None else self.norm(hidden)
        return output


class Encoder(_Stack):
    """A stack of layers in which every token of a text sees all of its text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, EncoderLayer)

    def forward(self, ids: torch.Tensor, layout: Layout) -> torch.Tensor:
        """(…, tokens) int64 ids to hidden states (…, tokens, hidden_size).

        Padded: (n, length). Packed: (t,). Raises ValueError for a text longer than the positions.
        """
        return self._run(ids, layout)


class Decoder(_Stack):
    """A stack of layers in which a token sees what stands before it, and the encoder's states."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, DecoderLayer)

    def forward(
        self,
        ids: torch.Tensor,
        layout: Layout,
        states: torch.Tensor,
        states_layout: Layout,
    ) -> torch.Tensor:
        """(…, tokens) int64 ids to hidden states (…, tokens, hidden_size).

        `states` are the encoder's; `states_layout` has as many texts as `layout`.
        """
        return self._run(ids, layout, states, states_layout)


class LanguageModelHead(nn.Module):
    """Scores of every word for a hidden state, by the embeddings themselves (tied weights).

    E · LayerNorm(f(W h + b)) + c. Devlin et al. 2019; Press and Wolf 2017.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.activation = activation(config)
        self.apply(initialise)

    def forward(self, hidden: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """(…, hidden_size) and the table (vocab_size, hidden_size) to (…, vocab_size)."""
        transformed = self.norm(self.activation(self.dense(hidden)))
        return functional.linear(transformed, embeddings, self.bias)


class MaskedLanguageModel(nn.Module):
    """An encoder that foretells masked tokens. Devlin et al. 2019, section 3.1."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.head = LanguageModelHead(config)

    def forward(
        self, ids: torch.Tensor, layout: Layout, places: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores (places, vocab_size) of the tokens at `places`; None: (…, tokens, vocab_size).

        places: int64 indices into the tokens, flattened: the scores of a whole vocabulary are
        computed for them alone, which with 15 % masked is the smaller part.
        """
        hidden = self.encoder(ids, layout)
        if places is not None:
            hidden = hidden.flatten(0, -2).index_select(0, places)
        scores: torch.Tensor = self.head(hidden, self.encoder.embeddings.word.weight)
        return scores


class EncoderDecoder(nn.Module):
    """An encoder that reads a text, and a decoder that writes one. Vaswani et al. 2017, fig. 1."""

    def __init__(self, encoder: TransformerConfig, decoder: TransformerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.decoder = Decoder(decoder)
        self.head = LanguageModelHead(decoder)

    def forward(
        self,
        ids: torch.Tensor,
        layout: Layout,
        written: torch.Tensor,
        written_layout: Layout,
    ) -> torch.Tensor:
        """Scores (…, tokens, vocab_size) of the token that follows each of `written`."""
        states = self.encoder(ids, layout)
        hidden = self.decoder(written, written_layout, states, layout)
        scores: torch.Tensor = self.head(hidden, self.decoder.embeddings.word.weight)
        return scores


def initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02²), biases 0, LayerNorm 1 and 0. Devlin et al. 2019."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_INITIAL_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
