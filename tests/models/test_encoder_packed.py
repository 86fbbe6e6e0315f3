"""Packed batches: nothing padded goes through the layers, and the answer is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lexbeam.models import encoder_packed, varlen
from lexbeam.models.encoder import Encoder
from lexbeam.models.encoder_packed import PACKED_FAMILIES, pack
from lexbeam.models.encoder_torch import TorchForward, load_module
from tests.models.conftest import SpecMaker
from tests.models.test_encoder import CONFIG
from tests.models.tiny_models import ENGLISH, FAMILIES

MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
CPU = torch.device("cpu")


def test_where_tokens_lie() -> None:
    packing = pack(MASK, CPU)
    assert packing.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert packing.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0]]
    assert packing.places.tolist() == [[0, 1, 2, 2], [3, 4, 5, 6], [7, 7, 7, 7]]
    assert packing.bounds.tolist() == [0, 3, 7, 8]
    assert packing.bounds.dtype == torch.int32
    assert packing.cuts == [(0, 3), (3, 7), (7, 8)]
    assert packing.longest == 4
    values = torch.arange(16).reshape(8, 2)
    assert packing.unpack(values)[1, 2].tolist() == [10, 11]
    assert packing.unpack(values[None]).shape == (1, 3, 4, 2)


@pytest.mark.parametrize("family", PACKED_FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_equals_the_padded_pass(
    tiny_model: SpecMaker, own_cache: Path, family: str, pooling: str
) -> None:
    spec = tiny_model(family)
    ids = np.random.default_rng(0).integers(6, 90, MASK.shape)
    inputs = torch.from_numpy(ids), torch.from_numpy(MASK)
    with torch.inference_mode():
        padded = load_module(spec, pooling=pooling)(*inputs)
        module = load_module(spec, pooling=pooling, packed=True)
        packed = module.forward_packed(*inputs, pack(MASK, CPU))
    for got, expected in zip(packed, padded, strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_see_no_padding(
    tiny_model: SpecMaker, own_cache: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TorchForward(tiny_model(family), CONFIG, 2)
    assert forward.pads == (family not in PACKED_FAMILIES)
    assert forward.num_slots == 2
    sizes: list[int] = []
    first = next(m for m in forward.module.model.modules() if isinstance(m, torch.nn.Linear))
    first.register_forward_hook(lambda _m, inputs, _o: sizes.append(inputs[0][..., 0].numel()))
    forward(np.full(MASK.shape, 7), MASK)
    assert sizes == [MASK.size if forward.pads else MASK.sum()]


def test_padding_ratio_is_that_of_the_work_done(tiny_model: SpecMaker, own_cache: Path) -> None:
    texts = [ENGLISH[: 7 * n] for n in range(1, 20)]
    ratios = {}
    for family in ("bert", "mpnet"):
        encoder = Encoder(tiny_model(family), dataclasses.replace(CONFIG, dtype="float32"))
        encoder.encode(texts)
        ratios[family] = encoder.stats.padding_ratio
    assert ratios["bert"] == 1.0
    assert 1.0 < ratios["mpnet"] <= 1.10


def test_the_kernel_gets_rows_of_tokens_and_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel written by hand in the place of torch's gives what the loop gives."""

    def by_hand(query, key, value, bounds, same, longest, also, *, scale, window_size):
        assert same is bounds
        assert window_size == (-1, -1)
        assert longest == also == 4
        output = torch.empty_like(query)
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
            shares = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
            output[start:end] = (shares @ v).transpose(0, 1)
        return output

    monkeypatch.setattr(varlen, "_kernel", by_hand)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 4, 8, 6) for _ in range(3))
    outputs = []
    for has_kernel in (False, True):
        packing = pack(MASK, CPU, has_kernel=has_kernel)
        output, weights = encoder_packed.packed_attention(
            None, query, key, value, None, packing=packing, scaling=0.4
        )
        assert weights is None
        outputs.append(output.numpy())
    assert outputs[0].shape == (1, 8, 4, 6)
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)
