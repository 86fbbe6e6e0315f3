"""The input, cut once and for all into splits: the units of work, of commit and of resume.

Cuts follow from one file alone, never from the number of workers or from the other files: byte
ranges of JSONL and text lines at multiples of the split size (a line belongs to the range in which
it starts), row groups of Parquet, else the whole file. Only files smaller than a split meet: in
input order they are grouped until the next one would exceed the size. So a file added at the end
leaves the splits before it as they are; one added in the middle moves the bounds of the groups
between it and the next larger file, never the cuts of a larger file.

No import beyond the standard library at the top: the command line starts with this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lexbeam.models.config import require
from lexbeam.transforms import storage
from lexbeam.transforms.sources import (
    InputConfig,
    Source,
    SourceChanged,
    check_unchanged,
    common_root,
    list_sources,
)

__all__ = [
    "InputConfig",
    "Layout",
    "Piece",
    "Source",
    "SourceChanged",
    "Split",
    "check_unchanged",
    "common_root",
    "cut_splits",
    "limit_splits",
    "list_sources",
    "load_layout",
    "read_bytes",
    "plan_layout",
]

AUTO_SPLIT_BYTES = 16 << 20
MAX_AUTO_SPLITS = 50_000
MAX_SPLITS = 1_000_000
FILES_PER_SPLIT = 1_000
UNSPLIT_WARNING_BYTES = 10**9
END = -1
"""`Piece.stop` of a file that is read to its end, whatever that is."""

# How much larger than its file a compressed text is taken to be when files are grouped.
COMPRESSION_RATIO = 4


@dataclass(frozen=True)
class Piece:
    """A part of one file.

    Attributes:
        source: index of the source.
        start, stop: half-open range of bytes (JSONL, lines) or row groups (Parquet); stop is END
            for a file that is read whole.
        max_rows: no more than so many documents, the first ones; None for all.
        rows: the documents to read, ascending, counted from the first one of the range; None for
            all.
    """

    source: int
    start: int = 0
    stop: int = END
    max_rows: int | None = None
    rows: tuple[int, ...] | None = None

    def to_json(self) -> list[Any]:
        """Its values, without those at the end that say nothing."""
        values = [self.source, self.start, self.stop, self.max_rows, self.rows]
        while values[-1] is None:
            values.pop()
        return values

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Piece:
        """The piece that to_json gave."""
        piece = cls(*values)
        return piece if piece.rows is None else replace(piece, rows=tuple(piece.rows))


@dataclass(frozen=True)
class Split:
    """A unit of work: pieces that are read one after the other."""

    index: int
    pieces: tuple[Piece, ...]

    def to_json(self) -> list[list[Any]]:
        """The pieces as lists of numbers."""
        return [piece.to_json() for piece in self.pieces]

    @classmethod
    def from_json(cls, index: int, value: Sequence[Sequence[Any]]) -> Split:
        """The split that to_json gave."""
        return cls(index, tuple(map(Piece.from_json, value)))


@dataclass(frozen=True)
class Layout:
    """The input as planned: `input`, `sources` and `splits` of plan.json."""

    config: InputConfig
    sources: tuple[Source, ...]
    splits: tuple[Split, ...]

    def sources_of(self, split: int) -> list[Source]:
        """The files that a split is read from, in order, each once."""
        indices = dict.fromkeys(piece.source for piece in self.splits[split].pieces)
        return [self.sources[index] for index in indices]

    def to_json(self) -> dict[str, Any]:
        """The plan's keys `input`, `sources` and `splits`."""
        return {
            "input": self.config.to_json(),
            "sources": [source.to_json() for source in self.sources],
            "splits": [split.to_json() for split in self.splits],
        }

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> Layout:
        """The layout in a plan; its other keys do not matter."""
        return cls(
            config=InputConfig.from_json(plan["input"]),
            sources=tuple(Source.from_json(value) for value in plan["sources"]),
            splits=tuple(Split.from_json(i, value) for i, value in enumerate(plan["splits"])),
        )


@lru_cache(maxsize=2)
def load_layout(plan_path: str) -> Layout:
    """The layout in a plan file, read once a process: a plan is never changed."""
    return Layout.from_json(json.loads(storage.read_bytes(plan_path)))


def plan_layout(
    config: InputConfig, split_size: int | str = "auto", notes: list[str] | None = None
) -> Layout:
    """List the input, cut it and apply the limit; warnings are appended to `notes`.

    Raises:
        ConfigError: naming `--input`, `--text_key` … and what is wrong with it.
    """
    sources = list_sources(config, notes)
    splits = cut_splits(sources, split_size, notes)
    if config.limit is not None:
        splits = limit_splits(splits, sources, config)
    return Layout(config, sources, tuple(splits))


def cut_splits(
    sources: Sequence[Source], split_size: int | str = "auto", notes: list[str] | None = None
) -> list[Split]:
    """Cut the input; at least one split, which is empty where there is nothing to read.

    split_size: bytes; `auto` is 16 MiB, doubled while that makes more than 50,000 splits. A small
    file is grouped with its neighbours, at most 1,000 files a split. Warnings go to `notes`.

    Raises:
        ConfigError: a split size that is not positive, or makes more than a million splits.
    """
    if notes is not None:
        notes += [note for source in sources for note in _unsplit_notes(source)]
    if split_size == "auto":
        size = AUTO_SPLIT_BYTES
        splits = _cut(sources, size)
        while len(splits) > MAX_AUTO_SPLITS:
            size *= 2
            splits = _cut(sources, size)
        return splits
    size = _bytes(split_size)
    estimate = sum(source.size for source in sources) // size
    require(estimate <= MAX_SPLITS, "split_size", split_size, f"makes over {MAX_SPLITS:,} splits")
    return _cut(sources, size)


def _bytes(split_size: int | str) -> int:
    text = str(split_size)
    valid = text.isascii() and text.isdigit() and int(text) >= 1
    require(valid, "split_size", split_size, "must be a positive number of bytes, or auto")
    return int(text)


def _cut(sources: Sequence[Source], size: int) -> list[Split]:
    max_files = max(FILES_PER_SPLIT, FILES_PER_SPLIT * size // AUTO_SPLIT_BYTES)
    groups: list[tuple[Piece, ...]] = []
    small: list[Piece] = []
    held = 0

    def close() -> None:
        nonlocal held
        if small:
            groups.append(tuple(small))
        small.clear()
        held = 0

    for index, source in enumerate(sources):
        pieces = list(_pieces(index, source, size))
        if len(pieces) != 1 or read_bytes(source) >= size:
            close()
            groups += [(piece,) for piece in pieces]
            continue
        if held + read_bytes(source) > size or len(small) >= max_files:
            close()
        small += pieces
        held += read_bytes(source)
    close()
    return [Split(index, pieces) for index, pieces in enumerate(groups or [()])]


def read_bytes(source: Source) -> int:
    """About how much text a file holds."""
    if source.row_groups is not None:
        return sum(num_bytes for _, num_bytes in source.row_groups)
    return source.size * (COMPRESSION_RATIO if source.compression else 1)


def _pieces(index: int, source: Source, size: int) -> Iterator[Piece]:
    if source.row_groups is not None and not source.compression:
        yield from _row_group_pieces(index, source.row_groups, size)
    elif source.format in ("jsonl", "lines") and not source.compression:
        for start in range(0, source.size, size):
            yield Piece(index, start, min(start + size, source.size))
    else:
        yield Piece(index)


def _row_group_pieces(
    index: int, row_groups: tuple[tuple[int, int], ...], size: int
) -> Iterator[Piece]:
    start, held = 0, 0
    for group, (_, num_bytes) in enumerate(row_groups):
        if group > start and held + num_bytes > size:
            yield Piece(index, start, group)
            start, held = group, 0
        held += num_bytes
    if row_groups:
        yield Piece(index, start, len(row_groups))


def _unsplit_notes(source: Source) -> list[str]:
    """Warnings about what is large and cannot be cut."""
    if source.row_groups is not None and not source.compression:
        largest = max((num_bytes for _, num_bytes in source.row_groups), default=0)
        what = "a row group"
    elif source.format in ("jsonl", "lines") and not source.compression:
        return []
    else:
        largest, what = source.size, "a file that cannot be cut"
    if largest <= UNSPLIT_WARNING_BYTES:
        return []
    return [f"{source.relative}: {what} of {largest / 1e9:.1f} GB is read by one worker"]


def limit_splits(
    splits: Sequence[Split], sources: Sequence[Source], config: InputConfig
) -> list[Split]:
    """Keep the first `config.limit` documents in input order, rejected ones included.

    The input is read as far as that, by the same code that reads it later.
    """
    from lexbeam.transforms import readers

    if config.limit is None:
        return list(splits)
    left = config.limit
    kept: list[Split] = []
    for split in splits:
        pieces: list[Piece] = []
        for piece in split.pieces:
            count = readers.count_rows(piece, sources[piece.source], config, left)
            left -= count
            if left == 0:
                pieces.append(replace(piece, max_rows=count))
                return [*kept, Split(split.index, tuple(pieces))]
            pieces.append(piece)
        kept.append(split)
    return kept
