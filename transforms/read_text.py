"""The record of a text file that is one document."""

from __future__ import annotations

from collections.abc import Iterator

from lexbeam.transforms.read_jsonl import invalid_utf8, too_large
from lexbeam.transforms.read_rows import Record
from lexbeam.transforms.read_stream import MAX_DOCUMENT_BYTES, UTF8_BOM, whole
from lexbeam.transforms.sources import InputConfig, Source


def text_records(source: Source, start: int, stop: int, config: InputConfig) -> Iterator[Record]:
    """The whole file as one record; an empty file is a document without text.

    Raises UnreadableFile as `chunks` does.
    """
    data = whole(source)
    if len(data) > MAX_DOCUMENT_BYTES:
        yield too_large(0)
        return
    try:
        text = data.removeprefix(UTF8_BOM).decode()
    except UnicodeDecodeError as error:
        yield invalid_utf8(0, error)
        return
    yield Record(0, len(data), {config.text_key: text})
