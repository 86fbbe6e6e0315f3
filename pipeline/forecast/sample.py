"""A sample of the input: some documents from places all over it, and how many there are in all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from lexbeam.models.config import ConfigError
from lexbeam.transforms import readers
from lexbeam.transforms.splits import END, Layout, Piece, Source, Split, read_bytes

# A text of this size is a whole split, so that a stage's buffers are as full as they get.
SAMPLE_BYTES = 16 << 20
_PIECES = 64
_FILES = 4_000  # of a document each
_PROBED_ROWS = 8_192
_LEAST_PROBED_ROWS = 64


@dataclass(frozen=True)
class Probe:
    """What the first rows of a piece say of it.

    Attributes:
        piece: where it stands.
        num_documents: in the piece, about.
        text_bytes: UTF-8 bytes of a document's content, on average.
    """

    piece: Piece
    num_documents: float
    text_bytes: float


@dataclass(frozen=True)
class Sample:
    """Documents of the input, from places all over it.

    Attributes:
        layout: the input.
        probes: where the sample is read from.
        text_bytes: UTF-8 bytes of a document's content, on average.
        num_documents: how many documents the whole input has, about.
    """

    layout: Layout
    probes: tuple[Probe, ...]
    text_bytes: float
    num_documents: int

    def of_size(self, num_documents: int) -> Layout:
        """One split with about so many documents of the sample."""
        share = num_documents / sum(probe.num_documents for probe in self.probes)
        chosen = []
        for probe in self.probes:
            rows = max(1, round(share * probe.num_documents))
            chosen.append(replace(probe.piece, max_rows=min(rows, probe.piece.max_rows or rows)))
        split = Split(0, tuple(chosen))
        return Layout(self.layout.config, self.layout.sources, (split,))


def draw(layout: Layout) -> Sample:
    """Look at the input in many places; raises ConfigError where it has no document."""
    sources = layout.sources
    pieces = [piece for split in layout.splits for piece in split.pieces]
    are_documents = all(sources[piece.source].format == "txt" for piece in pieces)
    chosen = _spread(pieces, _FILES if are_documents else _PIECES)
    num_rows = max(_LEAST_PROBED_ROWS, _PROBED_ROWS // max(1, len(chosen)))
    found = [_probe(piece, layout, num_rows) for piece in chosen]
    # Between two beginnings of a long document there may be a piece without one.
    probes = tuple(probe for probe in found if probe.num_documents)
    if not any(probe.text_bytes for probe in probes):
        raise ConfigError("input", layout.config.inputs[0], "holds no document to measure")
    num_documents = sum(probe.num_documents for probe in probes)
    text = sum(probe.num_documents * probe.text_bytes for probe in probes)
    total = _documents_of(pieces, layout, found)
    if layout.config.limit is not None:
        total = min(total, layout.config.limit)
    return Sample(layout, probes, text / num_documents, max(1, round(total)))


def _spread(pieces: Sequence[Piece], most: int) -> list[Piece]:
    step = max(1.0, len(pieces) / most)
    return [pieces[int(place * step)] for place in range(min(most, len(pieces)))]


def _probe(piece: Piece, layout: Layout, num_rows: int) -> Probe:
    """What the first rows of a piece say of it."""
    source = layout.sources[piece.source]
    limit = min(num_rows, piece.max_rows or num_rows)
    probed = Split(0, (replace(piece, max_rows=limit),))
    positions: list[int] = []
    text = 0
    for batch in readers.read_split(probed, layout.sources, layout.config):
        positions += batch["position"].to_pylist()
        text += pc.sum(pc.binary_length(batch["content"])).as_py() or 0
    rows = len(positions)
    known = _rows_of(piece, source)
    if known is None and rows == limit and rows > 1 and positions[-1] > positions[0]:
        # Where the last one ends is not known.
        bytes_of_one = (positions[-1] - positions[0]) / (rows - 1)
        known = max(rows, _bytes_of(piece, source) / bytes_of_one)
    number = rows if known is None or not rows else known
    return Probe(piece, min(number, piece.max_rows or number), text / max(1, rows))


def _documents_of(pieces: Sequence[Piece], layout: Layout, probes: Sequence[Probe]) -> float:
    """About how many documents all pieces have: those that were not probed are like the others."""
    probed = {probe.piece: probe.num_documents for probe in probes}
    bytes_by_format: dict[str, float] = defaultdict(float)
    rows_by_format: dict[str, float] = defaultdict(float)
    for piece, num_documents in probed.items():
        source = layout.sources[piece.source]
        bytes_by_format[source.format] += _bytes_of(piece, source)
        rows_by_format[source.format] += num_documents
    total = 0.0
    for piece in pieces:
        source = layout.sources[piece.source]
        found = probed.get(piece, _rows_of(piece, source))
        if found is None and bytes_by_format[source.format]:
            density = rows_by_format[source.format] / bytes_by_format[source.format]
            found = _bytes_of(piece, source) * density
        total += min(found or 0.0, piece.max_rows or found or 0.0)
    return total


def _rows_of(piece: Piece, source: Source) -> float | None:
    """How many documents a piece has, where that is known without reading it."""
    if source.row_groups is None:
        return 1.0 if source.format == "txt" else None
    return float(sum(num_rows for num_rows, _ in _groups_of(piece, source.row_groups)))


def _bytes_of(piece: Piece, source: Source) -> int:
    """About how many bytes a piece has, uncompressed."""
    if source.row_groups is not None:
        return sum(num_bytes for _, num_bytes in _groups_of(piece, source.row_groups))
    return read_bytes(source) if piece.stop == END else piece.stop - piece.start


def _groups_of(piece: Piece, groups: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Rows and bytes of the row groups of a piece."""
    return groups[piece.start : None if piece.stop == END else piece.stop]
