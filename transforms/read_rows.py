"""From the records of any format to rows: the rules that make a document, or reject it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from lexbeam.models import schemas
from lexbeam.transforms.sources import InputConfig

_SHOWN_CHARS = 80


class Record(NamedTuple):
    """A document as it stands in a file.

    Attributes:
        position: byte or row where it starts.
        size: its bytes, about.
        values: its fields by name, as far as they could be read.
        error_type: why it is no document, or None.
        error_message: what was found.
    """

    position: int
    size: int
    values: Mapping[str, Any]
    error_type: str | None = None
    error_message: str | None = None


class Row(NamedTuple):
    """A row of a block; `kept` are the kept columns."""

    doc_id: str | None
    position: int
    title: str | None
    content: str | None
    error_type: str | None
    error_message: str | None
    kept: tuple[str | None, ...]
    size: int


class _Rejected(Exception):
    def __init__(self, error_type: str, message: str) -> None:
        self.error_type = error_type
        self.message = message
        super().__init__(message)


def shorten(value: Any) -> str:
    """A value as a message shows it: 80 characters at most."""
    text = value if isinstance(value, str) else _json_text(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def describe(value: Any) -> str:
    """A value's kind, in JSON's words, and the value itself, shortened."""
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return f"{name}: {shorten(value)}"
    return "null" if value is None else f"{type(value).__name__}: {shorten(value)}"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)


def make_content(title: str | None, text: str) -> str:
    """Title, line break, text; the text alone without a title or where it begins with it."""
    if not title or not title.strip() or text.startswith(title):
        return text
    return f"{title}\n{text}"


def missing_id(source: str, position: int) -> str:
    """The id of a document that has none: 32 hexadecimal digits from source and position."""
    return hashlib.sha256(f"{source}\0{position}".encode()).hexdigest()[:32]


def kept_text(value: Any) -> str | None:
    """A kept column's value: strings as they are, null as null, all else as JSON text.

    What JSON lacks is a string first: dates and times in ISO 8601, decimals in digits, bytes in
    base64, time spans in seconds. NaN and infinities are null, as in JavaScript.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return _json_text(value)
    return _plain(value)


def _json_text(value: Any) -> str:
    try:
        return _dumps(value)
    except ValueError:
        return _dumps(_finite(value))


def _dumps(value: Any) -> str:
    return json.dumps(
        value,
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
        default=_plain,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return value


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "total_seconds"):
        return str(value.total_seconds())
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def to_row(record: Record, source: str, config: InputConfig) -> Row:
    """The row of a record of the file whose relative path is `source`."""
    if record.error_type is not None:
        return _rejected(record, source, config, record.error_type, record.error_message or "")
    try:
        given = _given_id(record.values, config.id_key)
        text = _text(record.values, config.text_key)
        title = _title(record.values, config.title_key)
        content = _content(title, text, config)
        kept = tuple(_kept(record.values, name, config) for name in config.keep_columns)
    except _Rejected as rejected:
        return _rejected(record, source, config, rejected.error_type, rejected.message)
    doc_id = missing_id(source, record.position) if given is None else given
    return Row(
        doc_id=_scoped(doc_id, source, config),
        position=record.position,
        title=title,
        content=content,
        error_type=None,
        error_message=None,
        kept=kept,
        size=record.size,
    )


def _rejected(
    record: Record, source: str, config: InputConfig, error_type: str, message: str
) -> Row:
    try:
        given = _given_id(record.values, config.id_key)
    except _Rejected:
        given = None
    doc_id = None if given is None else _scoped(given, source, config)
    nothing = (None,) * len(config.keep_columns)
    size = len(message)
    return Row(doc_id, record.position, None, None, error_type, message, nothing, size)


def _scoped(doc_id: str, source: str, config: InputConfig) -> str:
    return f"{source}:{doc_id}" if config.id_scope == "file" else doc_id


def _given_id(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if isinstance(value, str) and value:
        return value
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = "an empty string" if value == "" else describe(value)
    raise _Rejected("invalid-id", f"'{shorten(key)}' is {found}")


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if value is None:
        if key in values:
            raise _Rejected("missing-text", f"'{shorten(key)}' is null")
        names = ", ".join(values) or "nothing"
        raise _Rejected("missing-text", f"no '{shorten(key)}' among: {shorten(names)}")
    if not isinstance(value, str):
        raise _Rejected("text-not-a-string", f"'{shorten(key)}' is {describe(value)}")
    if not value.strip():
        raise _Rejected("empty-text", f"'{shorten(key)}' is {shorten(_json_text(value))}")
    return value


def _title(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise _Rejected("invalid-title", f"'{shorten(key)}' is {describe(value)}")
    return value if value and value.strip() else None


def _content(title: str | None, text: str, config: InputConfig) -> str:
    if not config.title_apart:
        return make_content(title, text)
    if title is None:
        raise _Rejected("missing-title", f"no '{shorten(config.title_key)}' to pair the text with")
    rest = text.removeprefix(title).lstrip()
    if not rest:
        raise _Rejected("empty-text", f"'{shorten(config.text_key)}' is the title: {shorten(text)}")
    return rest


def _kept(values: Mapping[str, Any], name: str, config: InputConfig) -> str | None:
    value = values.get(name)
    if name == config.label_key:
        return _label(value, name)
    if name == config.pair_key and not (isinstance(value, str) and value.strip()):
        raise _Rejected("missing-pair", f"'{shorten(name)}' is {_found(values, name)}")
    return kept_text(value)


def _label(value: Any, name: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        found = "null, or not there" if value is None else shorten(_json_text(value))
        raise _Rejected("missing-label", f"'{shorten(name)}' is {found}")
    if isinstance(value, (list, tuple, dict)):
        reason = "a document has one class, as a string, a number or a boolean"
        raise _Rejected("invalid-label", f"'{shorten(name)}' is {describe(value)}; {reason}")
    label = kept_text(value)
    if label is None:
        raise _Rejected("invalid-label", f"'{shorten(name)}' is {describe(value)}")
    return label.strip()


def _found(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "not there"
    value = values[name]
    return shorten(_json_text(value)) if isinstance(value, str) else describe(value)


class BlockBuilder:
    """Collects the rows of one or more files into blocks of bounded size."""

    def __init__(self, config: InputConfig, block_rows: int, block_bytes: int) -> None:
        self._schema = schemas.read_schema(config.keep_columns)
        self._num_kept = len(config.keep_columns)
        self._block_rows = block_rows
        self._block_bytes = block_bytes
        self._rows: list[Row] = []
        self._sources: list[str] = []
        self._num_bytes = 0

    def add(self, row: Row, source: str) -> Iterator[pa.RecordBatch]:
        """Take a row; gives the block before it where that is full."""
        if len(self._rows) == self._block_rows or (
            self._rows and self._num_bytes + row.size > self._block_bytes
        ):
            yield self.flush()
        self._rows.append(row)
        self._sources.append(source)
        self._num_bytes += row.size

    def flush(self) -> pa.RecordBatch:
        """The rows that are held, as a block."""
        rows = self._rows
        columns: list[list[Any]] = [
            [row.doc_id for row in rows],
            self._sources,
            [row.position for row in rows],
            [row.title for row in rows],
            [row.content for row in rows],
            [row.error_type for row in rows],
            [row.error_message for row in rows],
            *([row.kept[index] for row in rows] for index in range(self._num_kept)),
        ]
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._rows, self._sources, self._num_bytes = [], [], 0
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def rest(self) -> Iterator[pa.RecordBatch]:
        """The last block, if there is any row left."""
        if self._rows:
            yield self.flush()
