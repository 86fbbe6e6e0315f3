"""Look-up of strings: as a dictionary finds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import string_kernels
from lexbeam.models.string_index import StringIndex

STRINGS = st.text("ab中𠀀\x00 ", max_size=4)


@settings(deadline=None)
@given(st.lists(STRINGS, unique=True, max_size=60), st.lists(STRINGS, max_size=40))
def test_finds_what_a_dictionary_finds(strings: list[str], wanted: list[str]) -> None:
    rows = {string: row for row, string in enumerate(strings)}
    for kind in (pa.string(), pa.large_string()):
        found = StringIndex(pa.array(strings, kind)).find(pa.array(wanted, pa.string()))
        assert found.tolist() == [rows.get(string, -1) for string in wanted]


@pytest.mark.parametrize("distinct_hashes", [1, 7])
def test_strings_that_share_a_hash(monkeypatch: pytest.MonkeyPatch, distinct_hashes: int) -> None:
    real = string_kernels.hash_strings

    def weak(*strings: Any) -> Any:
        return (real(*strings) % np.uint64(distinct_hashes)) << np.uint64(32)

    monkeypatch.setattr(string_kernels, "hash_strings", weak)
    strings = [f"t{number}" for number in range(40)]
    index = StringIndex(pa.array(strings))
    found = index.find(pa.array(["s1", *reversed(strings), "t40", "t"]))
    assert found.tolist() == [-1, *reversed(range(40)), -1, -1]


def test_slices_and_many_strings() -> None:
    strings = pa.array([f"t{number}" for number in range(50_000)])
    index = StringIndex(strings.slice(10))
    assert index.find(strings.slice(5, 10)).tolist() == [-1] * 5 + [0, 1, 2, 3, 4]
    assert index.find(strings).tolist() == [-1] * 10 + list(range(49_990))


@pytest.mark.parametrize("strings", [[], ["a"]])
def test_nothing_to_find(strings: list[str]) -> None:
    index = StringIndex(pa.array(strings, pa.string()))
    assert index.find(pa.array([], pa.string())).tolist() == []
    assert index.find(pa.array(["b", ""])).tolist() == [-1, -1]
