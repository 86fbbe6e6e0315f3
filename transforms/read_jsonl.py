"""Records of JSONL files, and of text files with a document a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lexbeam.transforms.read_rows import Record, describe, shorten
from lexbeam.transforms.read_stream import MAX_DOCUMENT_BYTES, UTF8_BOM, lines
from lexbeam.transforms.sources import InputConfig, Source

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def json_records(source: Source, start: int, stop: int, config: InputConfig) -> Iterator[Record]:
    """A record of each line that is not blank and starts in [start, stop).

    Raises UnreadableFile as `lines` does.
    """
    for position, line in _documents(source, start, stop):
        yield _json_record(position, line)


def line_records(source: Source, start: int, stop: int, config: InputConfig) -> Iterator[Record]:
    """As json_records; the line itself is the text."""
    for position, line in _documents(source, start, stop):
        text = _decoded(position, line)
        if isinstance(text, Record):
            yield text
        else:
            yield Record(position, len(line), {config.text_key: text})


def _documents(source: Source, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, without line ends and byte order mark."""
    for position, line in lines(source, start, stop):
        if position == 0:
            line = line.removeprefix(UTF8_BOM)
        line = line.removesuffix(b"\r")
        if line and not line.isspace():
            yield position, line


def _decoded(position: int, line: bytes) -> str | Record:
    if len(line) > MAX_DOCUMENT_BYTES:
        return too_large(position)
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return invalid_utf8(position, error)


def too_large(position: int) -> Record:
    """The record of a document that is too long to be read."""
    return Record(position, 0, {}, "too-large", f"over {MAX_DOCUMENT_BYTES:,} bytes")


def invalid_utf8(position: int, error: UnicodeDecodeError, what: str = "") -> Record:
    """The record of a document that is not UTF-8; the message shows the bytes at fault."""
    found = error.object[error.start : error.start + 4].hex(" ")
    message = f"{error.reason} at byte {error.start}{what}: {found}"
    return Record(position, len(error.object), {}, "invalid-utf8", message)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def _json_record(position: int, line: bytes) -> Record:
    text = _decoded(position, line)
    if isinstance(text, Record):
        return text
    try:
        value = _decoder.decode(text)
        if _SURROGATE_ESCAPE.search(line):
            # Half a character, which no UTF-8 can hold, passes Python's parser.
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        context = shorten(text[max(0, error.pos - 20) : error.pos + 60])
        message = f"{error.msg.removesuffix(' at')} at character {error.pos}, near: {context}"
    except UnicodeEncodeError as error:
        message = f"a lone surrogate \\u{ord(error.object[error.start]):04x} in a string"
    except ValueError as error:
        message = shorten(str(error))
    except RecursionError:
        message = "nested too deeply"
    else:
        if isinstance(value, dict):
            return Record(position, len(line), value)
        return Record(position, len(line), {}, "not-an-object", f"the line is {describe(value)}")
    return Record(position, len(line), {}, "invalid-json", message)
