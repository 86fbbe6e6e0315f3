"""Position encodings."""

from __future__ import annotations

import math

import pytest
import torch

from lexbeam.models.transformer.layouts import Packed
from lexbeam.models.transformer.positions import (
    PositionTable,
    RelativeBias,
    Rotary,
    sinusoidal_table,
)


def test_sinusoidal_values_by_hand():
    table = sinusoidal_table(4, 4)
    assert table[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(table[3], torch.tensor(expected))


def test_rotary_turns_pairs_by_hand():
    heads = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]])
    turned = Rotary(torch.tensor([2]), 4).rotate(heads)
    expected = [math.cos(2), math.sin(2), -math.sin(0.02), math.cos(0.02)]
    torch.testing.assert_close(turned.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("shift", [1, 7, 100])
def test_rotary_scores_depend_on_distances_alone(shift):
    query, key = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    near, far = (Rotary(torch.arange(6) + by, 8) for by in (0, shift))
    scores = [r.rotate(query) @ r.rotate(key).transpose(-1, -2) for r in (near, far)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores[0], query @ key.transpose(-1, -2))


def test_relative_buckets_are_exact_near_by_and_logarithmic_beyond():
    bias = RelativeBias(2, num_buckets=32, max_distance=128)
    distances = torch.tensor([0, -1, -7, -8, -127, -128, -5000, 1, 7, 5000])
    assert bias.buckets(distances).tolist() == [0, 1, 7, 8, 15, 15, 15, 17, 23, 31]


def test_relative_bias_is_the_same_along_diagonals():
    bias = RelativeBias(2)(6)
    assert bias.shape == (2, 6, 6)
    for offset in range(-5, 6):
        values = bias.diagonal(offset, dim1=1, dim2=2)
        torch.testing.assert_close(values, values[:, :1].expand_as(values))


def test_positions_begin_anew_with_each_packed_text_and_at_the_first_row():
    table = PositionTable(8, 3, first=2)
    layout = Packed.of_lengths([2, 3])
    assert layout.positions.tolist() == [0, 1, 0, 1, 2]
    torch.testing.assert_close(table(layout), table.weight[[2, 3, 2, 3, 4]])


def test_a_text_beyond_the_table_is_an_error_that_gives_both_lengths():
    with pytest.raises(ValueError, match="a text of 7 tokens; the position table has 6"):
        PositionTable(8, 3, first=2)(Packed.of_lengths([7]))
