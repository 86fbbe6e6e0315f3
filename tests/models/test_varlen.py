"""The variable-length kernel: when it is taken, and what it gets."""

from __future__ import annotations

import pytest
import torch

from lexbeam.models import varlen
from lexbeam.models.transformer.attention import packed_attention
from lexbeam.models.transformer.layouts import Packed
from lexbeam.models.varlen import has_varlen_kernel

CPU = torch.device("cpu")


def test_it_is_only_taken_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_varlen_kernel(CPU, torch.float16)
    cuda = torch.device("cuda")
    assert not has_varlen_kernel(cuda, torch.float32)

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no kernel image is available")

    made = torch.zeros(2, 3, 32)
    monkeypatch.setattr(varlen, "_kernel", refuse)
    monkeypatch.setattr(varlen.torch, "zeros", lambda *size, **options: made)
    monkeypatch.setattr(varlen.torch, "tensor", lambda *values, **options: made)
    assert not has_varlen_kernel(cuda, torch.float16)
    monkeypatch.setattr(varlen, "_kernel", lambda *arguments, **options: made)
    monkeypatch.setattr(varlen.torch.cuda, "synchronize", lambda device: None)
    assert has_varlen_kernel(cuda, torch.float16)


@pytest.mark.parametrize("causal", [False, True])
def test_a_packed_layout_gives_it_bounds_and_causality(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    calls = []

    def by_hand(q, k, v, query_bounds, key_bounds, longest_query, longest_key, **options):
        calls.append((longest_query, longest_key, options["window_size"]))
        cuts = [
            list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
            for bounds in (query_bounds, key_bounds)
        ]
        rows = [tensor.transpose(0, 1) for tensor in (q, k, v)]
        causal = options["window_size"] == (-1, 0)
        return packed_attention(*rows, *cuts, causal=causal).transpose(0, 1)

    monkeypatch.setattr(varlen, "_kernel", by_hand)
    query, key, value = torch.randn(2, 5, 4), torch.randn(2, 7, 4), torch.randn(2, 7, 4)
    outputs = [
        Packed.of_lengths([2, 3], has_kernel=has_kernel).attend(
            Packed.of_lengths([4, 3], has_kernel=has_kernel),
            query, key, value, None, causal=causal, dropout=0.0,
        )
        for has_kernel in (False, True)
    ]  # fmt: skip
    torch.testing.assert_close(*outputs)
    assert calls == [(3, 4, (-1, 0) if causal else (-1, -1))]


@pytest.mark.cuda
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_device_it_is_the_loop_forward_and_backward(causal: bool) -> None:
    device = torch.device("cuda")
    assert has_varlen_kernel(device, torch.bfloat16)
    lengths = [40, 1, 77]
    tensors = [
        torch.randn(2, 118, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    results = []
    for has_kernel in (False, True):
        layout = Packed.of_lengths(lengths, device, has_kernel=has_kernel)
        output = layout.attend(layout, *tensors, None, causal=causal, dropout=0.0)
        results.append([output, *torch.autograd.grad(output.float().square().sum(), tensors)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0.05, atol=0.05)
