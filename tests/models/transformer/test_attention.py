"""Attention: the equation, masks, and texts end to end."""

from __future__ import annotations

import math

import pytest
import torch

from lexbeam.models.transformer.attention import (
    as_bias,
    packed_attention,
    scaled_dot_product_attention,
)


@pytest.fixture
def qkv() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))


def by_hand(query, key, value, bias=0.0):
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    return weights @ value


def test_it_is_the_equation(qkv):
    torch.testing.assert_close(scaled_dot_product_attention(*qkv), by_hand(*qkv))


def test_of_two_equal_keys_each_gets_half():
    query, key = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 2, 2)
    value = torch.tensor([[[[1.0, 0.0], [3.0, 4.0]]]])
    output = scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(output, torch.tensor([[[[2.0, 2.0]]]]))


def test_minus_infinity_hides_a_key(qkv):
    query, key, value = qkv
    seen = torch.tensor([[True, True, True, False, False]])
    bias = as_bias(seen, torch.float32)
    assert bias.tolist() == [[0.0, 0.0, 0.0, -math.inf, -math.inf]]
    output = scaled_dot_product_attention(query, key, value, bias)
    torch.testing.assert_close(output, by_hand(query, key[..., :3, :], value[..., :3, :]))
    # Not even what is no number gets through.
    value = value.clone()
    key = key.clone()
    key[..., 3:, :] = 1e30
    torch.testing.assert_close(scaled_dot_product_attention(query, key, value, bias), output)


@pytest.mark.parametrize("with_bias", [False, True])
def test_causal_query_i_sees_the_keys_up_to_i(qkv, with_bias):
    query, key, value = qkv
    bias = torch.randn(3, 5, 5) if with_bias else None
    output = scaled_dot_product_attention(query, key, value, bias, causal=True)
    for i in range(5):
        upto = slice(0, i + 1)
        corner = bias[:, i : i + 1, upto] if bias is not None else 0.0
        alone = by_hand(query[..., i : i + 1, :], key[..., upto, :], value[..., upto, :], corner)
        torch.testing.assert_close(output[..., i : i + 1, :], alone)


@pytest.mark.parametrize("causal", [False, True])
def test_packed_is_a_block_diagonal_mask_and_so_are_its_gradients(causal):
    lengths, total = [3, 1, 4], 8
    cuts = [(0, 3), (3, 4), (4, 8)]
    owners = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    seen = owners[:, None] == owners[None, :]
    if causal:
        seen = seen.tril()
    tensors = [torch.randn(2, total, 4, requires_grad=True) for _ in range(3)]
    dense = scaled_dot_product_attention(*tensors, as_bias(seen, torch.float32))
    packed = packed_attention(*tensors, cuts, cuts, causal=causal)
    torch.testing.assert_close(packed, dense)
    weights = torch.randn_like(dense)
    expected = torch.autograd.grad((dense * weights).sum(), tensors)
    for gradient, wanted in zip(
        torch.autograd.grad((packed * weights).sum(), tensors), expected, strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_each_text_sees_its_own_keys_and_its_corner_of_the_bias():
    query, key, value = (torch.randn(2, n, 4) for n in (5, 7, 7))
    bias = torch.randn(2, 4, 4)
    packed = packed_attention(query, key, value, [(0, 2), (2, 5)], [(0, 4), (4, 7)], bias)
    first = by_hand(query[:, :2], key[:, :4], value[:, :4], bias[:, :2, :4])
    second = by_hand(query[:, 2:], key[:, 4:], value[:, 4:], bias[:, :3, :3])
    torch.testing.assert_close(packed, torch.cat([first, second], dim=1))
