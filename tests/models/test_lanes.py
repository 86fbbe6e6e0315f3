"""Sums in lanes: the order laid down, checked against plain loops in that order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lexbeam.models import lanes
from lexbeam.models.compiled import entry


@entry
def _dot4(x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    return lanes.dot4(x, a, b, c, d)


@entry
def _dot4_double(x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    return lanes.dot4_double(x, a, b, c, d)


@entry
def _add_rows4(y: Any, ra: Any, rb: Any, rc: Any, rd: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    lanes.add_rows4(y, ra, rb, rc, rd, a, b, c, d)
    return y


@entry
def _add_rounded(total: Any, factor: Any, a: Any, b: Any) -> Any:
    lanes.prefetch(a)
    lanes.add_rounded(total, factor, a, b)
    return total


def plain_dot(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Any:
    """Eight sums side by side, added up pairwise, as the docstring says."""
    sums = np.zeros(8, x.dtype)
    for first in range(0, len(x), 8):
        sums = sums + x[first : first + 8] * y[first : first + 8]
    four = sums[:4] + sums[4:]
    two = four[:2] + four[2:]
    return two[0] + two[1]


def rows(length: int, dtype: Any, number: int = 5) -> list[npt.NDArray[Any]]:
    generator = np.random.default_rng(length)
    return [generator.normal(size=length).astype(dtype) for _ in range(number)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [8, 16, 56, 1024])
def test_dot_products_add_up_in_the_order_laid_down(length: int, dtype: Any) -> None:
    x, *others = rows(length, dtype)
    assert _dot4(x, *others) == tuple(plain_dot(x, y) for y in others)
    wide = [row.astype(np.float64) for row in (x, *others)]
    assert _dot4_double(x, *others) == tuple(plain_dot(wide[0], y) for y in wide[1:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_added_one_after_the_other(dtype: Any) -> None:
    y, *others = rows(24, dtype)
    factors = [dtype(value) for value in (0.3, -7.0, 1e-3, 2.5)]
    expected = y.copy()
    for factor, row in zip(factors, others, strict=True):
        expected = expected + factor * row
    assert np.array_equal(_add_rows4(y, *factors, *others), expected)


def test_products_are_rounded_half_to_even() -> None:
    a = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.25, 3.0, 2.0**50 + 0.5], np.float64)
    total = np.arange(8, dtype=np.int64) * 10
    expected = total + np.array([0, 2, 2, 0, -2, 0, 3, 2**50], np.int64)
    assert _add_rounded(total, 1.0, a, np.ones(8)).tolist() == expected.tolist()
    # Single-precision factors are multiplied in double precision.
    small = np.full(8, np.float32(1 / 3))
    total = _add_rounded(np.zeros(8, np.int64), 2.0**30, small, small)
    assert total.tolist() == [round(2**30 * float(small[0]) ** 2)] * 8


@pytest.mark.parametrize(("length", "padded"), [(0, 0), (1, 8), (8, 8), (9, 16), (50, 56)])
def test_padded_length(length: int, padded: int) -> None:
    assert lanes.padded_length(length) == padded
