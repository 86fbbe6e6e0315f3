"""Pieces met so far: found again by text and group, judged once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models import piece_table
from lexbeam.models.piece_table import PieceTable
from lexbeam.models.segment import code_points

Piece = tuple[str, int]
BLOCKS = st.lists(
    st.lists(st.tuples(st.text("ab中𠀀", min_size=1, max_size=3), st.integers(0, 2)), unique=True),
    max_size=5,
)


def kind_of(piece: str, group: int) -> int:
    return (len(piece) * 7 + group) % 100


def judge(piece: str, group: int) -> tuple[str, int]:
    return f"{piece.upper()}{group}", kind_of(piece, group)


def look_up(table: PieceTable, pieces: list[Piece]) -> list[tuple[str, int]]:
    ends = np.cumsum([len(piece) for piece, _ in pieces], dtype=np.int64)
    groups = np.array([group for _, group in pieces], np.int8)
    codes = code_points("".join(piece for piece, _ in pieces))
    kinds, tokens = table.look_up(codes, ends, groups)
    tokens.validate(full=True)
    return list(zip(tokens.to_pylist(), kinds.tolist(), strict=True))


@given(BLOCKS)
def test_every_piece_is_judged_once(blocks: list[list[Piece]]) -> None:
    calls: Counter[Piece] = Counter()

    def counting(piece: str, group: int) -> tuple[str, int]:
        calls[piece, group] += 1
        return judge(piece, group)

    table = PieceTable(counting)
    for block in blocks:
        assert look_up(table, block) == [judge(*piece) for piece in block]
    assert set(calls.values()) <= {1}


def test_many_pieces_and_growth() -> None:
    table = PieceTable(judge)
    pieces = [(f"p{number}", number % 3) for number in range(20_000)]
    for first in range(0, len(pieces), 700):
        block = pieces[max(0, first - 300) : first + 700]
        assert look_up(table, block) == [judge(*piece) for piece in block]


@pytest.mark.parametrize("limit", ["_MAX_PIECES", "_MAX_CODES"])
def test_a_full_table_begins_anew(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(piece_table, limit, 2)
    table = PieceTable(judge)
    for block in ([("ab", 0), ("c", 1), ("d", 1)], [("c", 1)], [("e", 0), ("ab", 0)]):
        assert look_up(table, block) == [judge(*piece) for piece in block]
    assert table._num_pieces <= 3


def test_tokens_that_no_array_holds_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_table, "_MAX_BYTES", 7)
    table = PieceTable(judge)
    with pytest.raises(ValueError, match="take 9 bytes"):
        look_up(table, [("ab", 0), ("c", 1), ("abc", 2)])
    assert look_up(table, [("ab", 0), ("c", 1)]) == [
        ("AB0", kind_of("ab", 0)),
        ("C1", kind_of("c", 1)),
    ]


def test_threads_share_a_table() -> None:
    table = PieceTable(judge)
    blocks = [
        [(f"p{number % 5000}", 0) for number in range(n, n + 400)] for n in range(0, 9000, 90)
    ]
    with ThreadPoolExecutor(4) as pool:
        for block, found in zip(blocks, pool.map(lambda b: look_up(table, b), blocks), strict=True):
            assert found == [judge(*piece) for piece in block]
