"""Records of CSV and TSV files (RFC 4180, the header row first).

A field that starts with `"` ends at the next lone `"`; within it `""` is a quote, and delimiters
and line breaks are text. A quote further on in a field is an ordinary character. TSV differs in
the delimiter only. A record with a quote that never closes, or with text after a closing one, is
rejected as its first line alone; reading goes on at the next line. Lines that are empty are
skipped. An empty id is a missing one: CSV has no null.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from lexbeam.models.config import ConfigError, require
from lexbeam.transforms.read_jsonl import invalid_utf8, too_large
from lexbeam.transforms.read_rows import Record, shorten
from lexbeam.transforms.read_stream import (
    MAX_DOCUMENT_BYTES,
    UTF8_BOM,
    UnreadableFile,
    lines,
)
from lexbeam.transforms.sources import InputConfig, Source

MAX_RECORD_BYTES = 64 << 20
"""A quoted field may run over so many bytes of lines before it counts as never closed."""

_DELIMITERS = {"csv": b",", "tsv": b"\t"}


class InvalidCsv(ValueError):
    """A line that starts no record."""


class _Lines:
    """Lines that can be given back."""

    def __init__(self, found: Iterator[tuple[int, bytes]]) -> None:
        self._found = found
        self._returned: deque[tuple[int, bytes]] = deque()

    def take(self) -> tuple[int, bytes] | None:
        if self._returned:
            return self._returned.popleft()
        return next(self._found, None)

    def give_back(self, taken: list[tuple[int, bytes]]) -> None:
        self._returned.extendleft(reversed(taken))


def split_record(line: bytes, delimiter: bytes, more: Callable[[], bytes]) -> list[bytes]:
    r"""The fields of the record that starts with this line (without its `\n`).

    more: gives the next line, or raises InvalidCsv.
    """
    fields = []
    start = 0
    while True:
        if line[start : start + 1] == b'"':
            field, line, start = _quoted(line, start + 1, more)
            fields.append(field)
            if line[start:] in (b"", b"\r"):
                return fields
            if line[start : start + 1] != delimiter:
                found = shorten(line[start : start + 20].decode(errors="replace"))
                raise InvalidCsv(f"text after a closing quote: {found}")
            start += 1
            continue
        end = line.find(delimiter, start)
        if end < 0:
            return [*fields, line[start:].removesuffix(b"\r")]
        fields.append(line[start:end])
        start = end + 1


def _quoted(line: bytes, start: int, more: Callable[[], bytes]) -> tuple[bytes, bytes, int]:
    """The field, the line that it ends in, and where that goes on after the closing quote."""
    parts = []
    while True:
        end = line.find(b'"', start)
        if end < 0:
            parts += [line[start:], b"\n"]
            line, start = more(), 0
        elif line[end + 1 : end + 2] == b'"':
            parts.append(line[start : end + 1])
            start = end + 2
        else:
            parts.append(line[start:end])
            return b"".join(parts), line, end + 1


def _raw_records(source: Source) -> Iterator[tuple[int, int, list[bytes] | InvalidCsv]]:
    """Position, bytes and fields of each record, or why a line starts none."""
    delimiter = _DELIMITERS[source.format]
    found = _Lines(lines(source))
    while (first := found.take()) is not None:
        position, line = first
        if position == 0:
            line = line.removeprefix(UTF8_BOM)
        if line in (b"", b"\r"):
            continue
        if b'"' not in line:
            yield position, len(line), line.removesuffix(b"\r").split(delimiter)
            continue
        taken: list[tuple[int, bytes]] = []
        try:
            fields = split_record(line, delimiter, _taking(found, taken, position))
        except InvalidCsv as error:
            found.give_back(taken)
            yield position, len(line), error
        except UnreadableFile as error:
            error.position = position
            raise
        else:
            yield position, sum(map(len, fields)), fields


def _taking(found: _Lines, taken: list[tuple[int, bytes]], position: int) -> Callable[[], bytes]:
    def more() -> bytes:
        following = found.take()
        if following is None:
            raise InvalidCsv("a quote is never closed")
        taken.append(following)
        if following[0] + len(following[1]) - position > MAX_RECORD_BYTES:
            raise InvalidCsv(f"a quote is not closed within {MAX_RECORD_BYTES:,} bytes")
        return following[1]

    return more


def csv_records(source: Source, start: int, stop: int, config: InputConfig) -> Iterator[Record]:
    """The records below the header; such a file is always read whole.

    Raises UnreadableFile as `lines` does.
    """
    found = _raw_records(source)
    header_record = next(found, None)
    if header_record is None:
        return
    try:
        header = _header(header_record[2])
    except ValueError as error:
        raise UnreadableFile(f"no header: {error}") from error
    for position, size, fields in found:
        record = _record(position, size, fields, header)
        if record.values.get(config.id_key) == "":
            record = record._replace(values={**record.values, config.id_key: None})
        yield record


def _header(fields: list[bytes] | InvalidCsv) -> list[str]:
    if isinstance(fields, InvalidCsv):
        raise fields
    return [field.decode() for field in fields]


def _record(
    position: int, size: int, fields: list[bytes] | InvalidCsv, header: list[str]
) -> Record:
    if size > MAX_DOCUMENT_BYTES:
        return too_large(position)
    if isinstance(fields, InvalidCsv):
        return Record(position, size, {}, "invalid-csv", str(fields))
    if len(fields) != len(header):
        shown = shorten(b" | ".join(fields)[:400].decode(errors="replace"))
        message = f"{len(fields)} fields below a header of {len(header)}: {shown}"
        return Record(position, size, {}, "invalid-csv", message)
    values: dict[str, str | None] = {}
    for name, field in zip(header, fields, strict=True):
        try:
            values[name] = field.decode()
        except UnicodeDecodeError as error:
            where = f" of column {shorten(name)}"
            return invalid_utf8(position, error, where)._replace(values=values)
    return Record(position, size, values)


def check_header(source: Source, config: InputConfig) -> None:
    """Raise ConfigError unless the header has the text column and no name twice.

    An empty file passes, and one that cannot be read: the reader reports that.
    """
    try:
        found = next(_raw_records(source), None)
    except UnreadableFile:
        return
    if found is None:
        return
    try:
        header = _header(found[2])
    except ValueError as error:
        raise ConfigError("input", source.path, f"no header row: {error}") from None
    doubled = sorted({name for name in header if header.count(name) > 1})
    require(not doubled, "input", source.path, f"column names stand twice: {', '.join(doubled)}")
    require(
        config.text_key in header,
        "text_key",
        config.text_key,
        f"{source.path} has no such column; it has: {', '.join(header)}",
    )
    config.check_named_keys(header, source.path)
