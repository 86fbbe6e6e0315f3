"""The models: packed and padded alike, what sees what, and what a configuration must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lexbeam.models.config import ConfigError
from lexbeam.models.transformer.config import LAYER_NORMS, POSITION_ENCODINGS, TransformerConfig
from lexbeam.models.transformer.layouts import Packed, Padded
from lexbeam.models.transformer.model import Encoder, EncoderDecoder, MaskedLanguageModel

SIZES = TransformerConfig(
    vocab_size=40, hidden_size=16, num_layers=2, num_heads=4, intermediate_size=32,
    max_positions=20, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
LENGTHS = [7, 1, 4]


def batch(lengths=LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids and their mask."""
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 40, mask.shape, generator=generator) * mask, mask


def stirred(model):
    """The model with weights that make every part matter."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


@pytest.mark.parametrize("layer_norm", LAYER_NORMS)
@pytest.mark.parametrize("position_encoding", POSITION_ENCODINGS)
def test_packed_equals_padded_forward_and_backward(position_encoding, layer_norm):
    config = replace(SIZES, position_encoding=position_encoding, layer_norm=layer_norm)
    model = stirred(MaskedLanguageModel(config))
    ids, mask = batch()
    padded = model(ids, Padded(mask))[mask]
    packed = model(ids[mask], Packed.of_lengths(LENGTHS))
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    parameters = [each for each in model.parameters() if each.requires_grad]
    gradients = [
        torch.autograd.grad(scores.logsumexp(-1).sum(), parameters, allow_unused=True)
        for scores in (packed, padded)
    ]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("position_encoding", POSITION_ENCODINGS)
def test_the_order_of_tokens_matters(position_encoding):
    encoder = stirred(Encoder(replace(SIZES, position_encoding=position_encoding)))
    layout = Packed.of_lengths([3])
    one, other = (encoder(torch.tensor(ids), layout) for ids in ([5, 6, 7], [7, 6, 5]))
    assert not torch.allclose(one[1], other[1], atol=1e-4)


def test_scores_at_places_are_those_of_all_tokens():
    model = stirred(MaskedLanguageModel(SIZES))
    ids, mask = batch()
    layout = Packed.of_lengths(LENGTHS)
    places = torch.tensor([0, 6, 7, 11])
    torch.testing.assert_close(model(ids[mask], layout, places), model(ids[mask], layout)[places])
    padded = model(ids, Padded(mask), torch.tensor([8]))
    torch.testing.assert_close(padded, model(ids, Padded(mask)).flatten(0, 1)[[8]])


@pytest.mark.parametrize("position_encoding", POSITION_ENCODINGS)
def test_a_decoder_sees_nothing_that_comes_later_and_the_encoder_sees_all(position_encoding):
    config = replace(SIZES, position_encoding=position_encoding)
    model = stirred(EncoderDecoder(config, config))
    source, source_layout = torch.tensor([3, 4, 5]), Packed.of_lengths([3])
    layout = Packed.of_lengths([4])
    before = model(source, source_layout, torch.tensor([9, 8, 7, 6]), layout)
    after = model(source, source_layout, torch.tensor([9, 8, 7, 1]), layout)
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3], after[3])
    other = model(torch.tensor([3, 4, 6]), source_layout, torch.tensor([9, 8, 7, 6]), layout)
    assert (before - other).abs().max(dim=1).values.min() > 1e-4


def test_packed_equals_padded_in_an_encoder_decoder():
    model = stirred(EncoderDecoder(SIZES, replace(SIZES, num_layers=1)))
    ids, mask = batch()
    written, written_mask = batch([2, 5, 3])
    padded = model(ids, Padded(mask), written, Padded(written_mask))[written_mask]
    packed = model(
        ids[mask], Packed.of_lengths(LENGTHS), written[written_mask], Packed.of_lengths([2, 5, 3])
    )
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)


def test_dropout_drops_while_training_alone():
    model = stirred(Encoder(replace(SIZES, dropout=0.5, attention_dropout=0.5)))
    ids, layout = torch.tensor([3, 4, 5]), Packed.of_lengths([3])
    torch.testing.assert_close(model(ids, layout), model(ids, layout))
    model.train()
    assert not torch.allclose(model(ids, layout), model(ids, layout))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "--hidden_size 16: must be a multiple of --num_heads 3"),
        ({"position_encoding": "absolute"}, "--position_encoding 'absolute'"),
        ({"layer_norm": "none"}, "--layer_norm 'none'"),
        ({"activation": "tanh"}, "--activation 'tanh'"),
        ({"num_layers": 0}, "--num_layers 0"),
        ({"dropout": 1.0}, "--dropout 1.0"),
        ({"num_heads": 16, "position_encoding": "rotary"}, "it must be even"),
    ],
)
def test_a_wrong_configuration_names_option_and_value(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SIZES, **change)
