"""Records of Parquet files: the columns that are needed, a row group after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lexbeam.models.config import ConfigError, require
from lexbeam.transforms import storage
from lexbeam.transforms.read_jsonl import invalid_utf8, too_large
from lexbeam.transforms.read_rows import Record, kept_text, shorten
from lexbeam.transforms.read_stream import (
    MAX_DOCUMENT_BYTES,
    UnreadableFile,
    chunks,
    unreadable_or_same,
)
from lexbeam.transforms.sources import InputConfig, Source
from lexbeam.transforms.splits import END

_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 1024
_Damage = (pa.ArrowException, OSError)


@contextmanager
def _opened(source: Source) -> Iterator[pq.ParquetFile]:
    """The file, its footer read; raises UnreadableFile where there is none."""
    if source.compression:
        file: Any = pa.BufferReader(b"".join(chunks(source)))
    else:
        try:
            file = storage.open_read(source.path)
        except OSError as error:
            raise unreadable_or_same(source, error) from error
    with file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
        except _Damage as error:
            raise _unreadable(source, error) from error
        yield parquet


def _unreadable(source: Source, error: Exception) -> Exception:
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable_or_same(source, error)
    # Arrow's own errors, among them OSError without a number, are about what the file holds.
    return UnreadableFile(shorten(str(error)))


def check_columns(source: Source, config: InputConfig) -> tuple[tuple[int, int], ...] | None:
    """Rows and uncompressed bytes of each row group; None for a file that cannot be read.

    Raises:
        ConfigError: no text column, or an id, text or title column of a type that cannot be it.
    """
    try:
        with _opened(source) as parquet:
            schema = parquet.schema_arrow
            _check_schema(schema, source, config)
            needed = set(_needed(schema.names, config))
            return tuple(
                (group.num_rows, _group_bytes(group, needed))
                for group in map(parquet.metadata.row_group, range(parquet.num_row_groups))
            )
    except UnreadableFile:
        return None


def _check_schema(schema: pa.Schema, source: Source, config: InputConfig) -> None:
    doubled = sorted({name for name in schema.names if schema.names.count(name) > 1})
    require(not doubled, "input", source.path, f"column names stand twice: {', '.join(doubled)}")
    require(
        config.text_key in schema.names,
        "text_key",
        config.text_key,
        f"{source.path} has no such column; it has: {', '.join(schema.names)}",
    )
    config.check_named_keys(schema.names, source.path)
    for option in ("text_key", "title_key", "id_key"):
        name = getattr(config, option)
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        integer_id = option == "id_key" and pa.types.is_integer(_plain_type(kind))
        if not (_is_text(kind) or integer_id):
            wanted = "strings or integers" if option == "id_key" else "strings"
            reason = f"the column holds {kind} in {source.path}, not {wanted}"
            raise ConfigError(option, name, reason)


def _needed(names: list[str], config: InputConfig) -> list[str]:
    wanted = (config.id_key, config.text_key, config.title_key, *config.keep_columns)
    return [name for name in dict.fromkeys(wanted) if name in names]


def _group_bytes(group: Any, needed: set[str]) -> int:
    columns = map(group.column, range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] in needed or column.path_in_schema in needed
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, whatever their encoding."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    return _plain_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    plain = _plain_type(kind)
    return plain.id in _TEXT_TYPES or pa.types.is_null(plain)


_TEXT_TYPES = {
    kind.id
    for kind in (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
    )
}
_STRINGS_AS_BYTES = {
    pa.string().id: pa.binary(),
    pa.large_string().id: pa.large_binary(),
    pa.string_view().id: pa.binary_view(),
}


def parquet_records(source: Source, start: int, stop: int, config: InputConfig) -> Iterator[Record]:
    """The rows of the row groups [start, stop).

    What cannot be read of a row group is one rejected record; the next group is read again.

    Raises:
        UnreadableFile: not a Parquet file, truncated, or may not be read.
    """
    with _opened(source) as parquet:
        groups = range(parquet.num_row_groups)
        row = sum(parquet.metadata.row_group(group).num_rows for group in groups[:start])
        for group in groups[start:] if stop == END else groups[start:stop]:
            yield from _group_records(source, parquet, group, row, config)
            row += parquet.metadata.row_group(group).num_rows


def _group_records(
    source: Source, parquet: pq.ParquetFile, group: int, row: int, config: InputConfig
) -> Iterator[Record]:
    end = row + parquet.metadata.row_group(group).num_rows
    batches = _group_batches(parquet, group, config)
    while row < end:
        try:
            batch = next(batches, None)
        except _Damage as error:
            failure = _unreadable(source, error)
            if not isinstance(failure, UnreadableFile):
                raise failure from error
            message = f"rows {row} to {end - 1}: {failure}"
            yield Record(row, 0, {}, "unreadable-file", message)
            return
        if batch is None:
            message = f"rows {row} to {end - 1} are missing"
            yield Record(row, 0, {}, "unreadable-file", message)
            return
        yield from _batch_records(batch, row, config)
        row += batch.num_rows


def _group_batches(
    parquet: pq.ParquetFile, group: int, config: InputConfig
) -> Iterator[pa.RecordBatch]:
    metadata = parquet.metadata.row_group(group)
    names = parquet.schema_arrow.names
    # Without any column that is needed another one tells the number of rows.
    needed = _needed(names, config) or names[:1]
    row_bytes = _group_bytes(metadata, set(needed)) // max(1, metadata.num_rows) + 1
    size = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes))
    yield from parquet.iter_batches(size, row_groups=[group], columns=needed, use_threads=False)


class _Invalid(NamedTuple):
    """Stands for a value that cannot be read."""

    error_type: str
    message: str


def _batch_records(batch: pa.RecordBatch, row: int, config: InputConfig) -> Iterator[Record]:
    keys = (config.id_key, config.text_key, config.title_key)
    wanted = dict.fromkeys((*keys, *config.keep_columns))
    columns = {
        name: _values(batch.column(name), is_key=name in keys)
        for name in wanted
        if name in batch.schema.names
    }
    for index in range(batch.num_rows):
        yield _record(row + index, {name: column[index] for name, column in columns.items()})


def _record(row: int, values: dict[str, Any]) -> Record:
    good = {name: value for name, value in values.items() if not isinstance(value, _Invalid)}
    for name, value in values.items():
        if isinstance(value, _Invalid):
            message = f"column {shorten(name)}: {value.message}"
            return Record(row, 0, good, value.error_type, message)
    size = sum(_utf8_bytes(value) for value in values.values() if isinstance(value, str))
    if size > MAX_DOCUMENT_BYTES:
        return too_large(row)
    return Record(row, size, values)


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _values(array: pa.Array[Any], *, is_key: bool) -> list[Any]:
    """Python values of a column; strings checked, as Arrow does not check what it reads."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    if array.type.id in _STRINGS_AS_BYTES:
        array = array.cast(_STRINGS_AS_BYTES[array.type.id])
    elif not (is_key and array.type.id in _TEXT_TYPES):
        return _objects(array, is_key=is_key)
    return [None if value is None else _decoded(value) for value in array.to_pylist()]


def _decoded(value: bytes) -> str | _Invalid:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        return _Invalid("invalid-utf8", invalid_utf8(0, error).error_message or "")


def _objects(array: pa.Array[Any], *, is_key: bool) -> list[Any]:
    array = array.cast(_python_type(array.type), safe=False)
    values = []
    for scalar in array:
        try:
            value = scalar.as_py()
            values.append(value if is_key else kept_text(value))
        except UnicodeDecodeError as error:
            values.append(_Invalid("invalid-utf8", str(error.reason)))
        except (ValueError, OverflowError) as error:
            values.append(_Invalid("unreadable-value", shorten(str(error))))
    return values


def _python_type(kind: pa.DataType) -> pa.DataType:
    """The type with times in microseconds, the finest that Python's own have."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_python_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_python_type(field.type)) for field in kind])
    return kind
