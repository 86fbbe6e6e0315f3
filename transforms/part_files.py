"""Parts: the files through which stages hand documents on, one for every split.

A part is committed whole, under a name that follows from its split alone, by put-if-absent:
of two workers that wrote the same part the later one discards its file. A stage that is run again
starts from the parts that are still missing.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lexbeam.transforms import checksums, storage
from lexbeam.transforms.block_size import BLOCK_ROWS
from lexbeam.transforms.died import DiedRow, DiedRows
from lexbeam.transforms.threads import kernel_threads

# A row group ends after so many rows, or the row that fills so many bytes: a rule on rows alone, so
# that a part's bytes do not depend on the size of the blocks that were written.
ROWS_PER_ROW_GROUP = 4096
BYTES_PER_ROW_GROUP = 32 << 20
# Blocks are read back with about as many bytes, so that long documents do not fill the memory.
BYTES_PER_BLOCK = 4 << 20
STATISTICS_KEY = b"lexbeam.statistics"

_PART_NAME = re.compile(r"^part-(\d{5,})-of-(\d{5,})\.[a-z]+$")


@dataclass(frozen=True)
class PartFolder:
    """The parts of one stage: `path`/part-i-of-n.parquet.

    Attributes:
        path: a local folder or URL.
        num_parts: as many as there are splits.
        suffix: of the files' names.
    """

    path: str
    num_parts: int
    suffix: str = "parquet"

    def part(self, index: int) -> str:
        """Path of the part of split `index`."""
        return storage.join(self.path, f"part-{index:05d}-of-{self.num_parts:05d}.{self.suffix}")

    def parts(self) -> list[str]:
        """Paths of all parts, in the order of the splits."""
        return [self.part(index) for index in range(self.num_parts)]

    def missing(self) -> list[int]:
        """Indices of the splits whose part is not there yet."""
        found = set()
        for file in storage.list_tree(self.path):
            match = _PART_NAME.match(file.path.rsplit("/", 1)[-1])
            if match and int(match[2]) == self.num_parts:
                found.add(int(match[1]))
        return [index for index in range(self.num_parts) if index not in found]

    def is_complete(self) -> bool:
        """Whether every part is there."""
        return not self.missing()


class PartWriter:
    """Writes one part: batches in, a committed file out.

    The bytes of the file depend on the rows and the statistics alone. Where there is more than one
    core a thread compresses a row group while the next one comes together.
    """

    def __init__(self, path: str, schema: pa.Schema, rows_per_row_group: int | None = None) -> None:
        self.path = path
        self._rows_per_row_group = rows_per_row_group or ROWS_PER_ROW_GROUP
        self.num_rows = 0
        self._schema = schema.remove_metadata()
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        storage.make_parent(path)
        descriptor, self._temporary = tempfile.mkstemp(
            prefix=".part-", suffix=".tmp", dir=_temporary_folder(path)
        )
        os.close(descriptor)
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        self._thread = ThreadPoolExecutor(1) if kernel_threads() > 1 else None
        self._being_written: Future[None] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; raises ValueError where the batch's schema is not the part's."""
        batch = batch.replace_schema_metadata(None)
        if not batch.schema.equals(self._schema):
            raise ValueError(f"{self.path}: rows of schema {batch.schema}, not {self._schema}")
        self.num_rows += batch.num_rows
        sizes = row_bytes(batch)
        while batch.num_rows:
            filled = np.cumsum(sizes) + self._pending_bytes >= BYTES_PER_ROW_GROUP
            until_full = int(np.argmax(filled)) + 1 if filled.any() else batch.num_rows
            taken = min(until_full, self._rows_per_row_group - self._pending_rows, batch.num_rows)
            self._pending.append(batch.slice(0, taken))
            self._pending_rows += taken
            self._pending_bytes += int(sizes[:taken].sum())
            batch, sizes = batch.slice(taken), sizes[taken:]
            is_full = self._pending_bytes >= BYTES_PER_ROW_GROUP
            if is_full or self._pending_rows == self._rows_per_row_group:
                self._flush()

    def commit(self, statistics: Mapping[str, Any] | None = None) -> bool:
        """Finish the file and publish it; False where another writer was first."""
        self._flush()
        self._wait()
        if statistics:
            text = json_text(statistics)
            self._writer.add_key_value_metadata({STATISTICS_KEY: text.encode()})
        self._writer.close()
        try:
            return checksums.commit_file(self._temporary, self.path)
        finally:
            self._remove()

    def abandon(self) -> None:
        """Leave nothing behind."""
        try:
            if self._being_written is not None:
                wait([self._being_written])
            self._writer.close()
        finally:
            self._remove()

    def _flush(self) -> None:
        if not self._pending_rows:
            return
        self._wait()
        table = pa.Table.from_batches(self._pending, self._schema)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
        if self._thread is None:
            self._write_row_group(table)
        else:
            self._being_written = self._thread.submit(self._write_row_group, table)

    def _write_row_group(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=self._rows_per_row_group)

    def _wait(self) -> None:
        """Until the row group before is written; raises what went wrong."""
        if self._being_written is not None:
            self._being_written.result()
            self._being_written = None

    def _remove(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        Path(self._temporary).unlink(missing_ok=True)


def row_bytes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """About how many bytes each row takes: its texts, and eight for each item of its lists."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if pa.types.is_string(column.type):
            lengths = pc.binary_length(column)
        elif pa.types.is_list(column.type):
            lengths = pc.multiply(pc.list_value_length(column), 8)
        else:
            continue
        sizes += lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return sizes


def json_text(value: Any) -> str:
    """JSON with sorted keys: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _temporary_folder(path: str) -> str | None:
    """Beside a local part, so that it can be linked to its name; else the temporary folder."""
    return os.path.dirname(storage.local_path(path)) if storage.is_local(path) else None


def write_part(path: str, table: pa.Table, statistics: Mapping[str, Any] | None = None) -> bool:
    """Write a whole table as one part; False where another writer was first."""
    writer = PartWriter(path, table.schema)
    try:
        for batch in table.to_batches():
            writer.write(batch)
        return writer.commit(statistics)
    except BaseException:
        writer.abandon()
        raise


def write_row_groups(path: str, tables: Iterable[pa.Table], distinct: Sequence[str] = ()) -> bool:
    """Write tables of one schema, as they come, as the row groups of one part, empty ones included.

    Args:
        path: the part.
        tables: at least one; the part is published when all have been written.
        distinct: columns of values that mostly differ: no dictionary of them is tried.

    Returns:
        False where another writer was first.
    """
    storage.make_parent(path)
    descriptor, temporary = tempfile.mkstemp(
        prefix=".part-", suffix=".tmp", dir=_temporary_folder(path)
    )
    os.close(descriptor)
    try:
        tables = iter(tables)
        first = next(tables)
        repeated = [name for name in first.schema.names if name not in distinct]
        with pq.ParquetWriter(
            temporary, first.schema, compression="zstd", use_dictionary=repeated
        ) as writer:
            for table in itertools.chain([first], tables):
                # One call makes one row group unless the table is larger than this.
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        return checksums.commit_file(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_arrow(path: str, table: pa.Table) -> bool:
    """Write a table as one Arrow IPC file, to be mapped; False where another writer was first."""
    storage.make_parent(path)
    descriptor, temporary = tempfile.mkstemp(
        prefix=".part-", suffix=".tmp", dir=_temporary_folder(path)
    )
    os.close(descriptor)
    try:
        with pa.ipc.new_file(temporary, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return checksums.commit_file(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_arrow(path: str) -> pa.Table:
    """The table of an Arrow IPC file; the pages of the file where that is local."""
    if storage.is_local(path):
        source = pa.memory_map(storage.local_path(path))
    else:
        source = pa.BufferReader(storage.read_bytes(path))
    return pa.ipc.open_file(source).read_all().combine_chunks()


class _RemotePart(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file that closes what it reads from, which the store's client waits for."""

    def close(self, force: bool = True) -> None:
        super().close(force=force)


def open_part(path: str) -> pq.ParquetFile:
    """A part, ready to be read; local files are memory-mapped."""
    if storage.is_local(path):
        return pq.ParquetFile(storage.local_path(path), memory_map=True)
    return _RemotePart(storage.open_read(path))


def num_rows(path: str) -> int:
    """Rows of a Parquet file, from its footer."""
    with open_part(path) as part:
        return int(part.metadata.num_rows)


def read_part(path: str, columns: list[str] | None = None) -> pa.Table:
    """A whole part, or some columns of it."""
    with open_part(path) as part:
        return part.read(columns=columns)


def part_statistics(path: str) -> dict[str, Any]:
    """What a transform reported of this split; empty where it reported nothing."""
    with open_part(path) as part:
        metadata = part.metadata.metadata or {}
    return dict(json.loads(metadata.get(STATISTICS_KEY, b"{}")))


class BlockSource(Protocol):
    """Where a map stage reads the blocks of a split from."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the blocks."""
        ...

    def batches(self, split: int) -> Iterator[pa.RecordBatch]:
        """The rows of one split, in order."""
        ...


@dataclass(frozen=True)
class Columns:
    """Some columns of a stage's parts, renamed where a name would stand twice."""

    folder: PartFolder
    schema: pa.Schema
    names: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()

    def fields(self) -> list[pa.Field]:
        """The columns' fields under their new names."""
        new_names = dict(self.renamed)
        return [self.schema.field(name).with_name(new_names.get(name, name)) for name in self.names]


@dataclass(frozen=True)
class ZippedParts:
    """Row-aligned parts of several stages, side by side.

    Where `dropped` names the folder of dropped rows, the column `dropped` (bool) says which rows
    are not to be worked on: later documents of an id, with `first_source` and `first_position`
    where the first stands; and documents that made a process die, with `died_stage` and
    `died_message`.
    """

    columns: tuple[Columns, ...]
    dropped: PartFolder | None = None
    block_rows: int = BLOCK_ROWS
    died: DiedRows | None = None

    @property
    def schema(self) -> pa.Schema:
        """Schema of the zipped blocks."""
        fields = [field for columns in self.columns for field in columns.fields()]
        if self.dropped:
            fields += _DROPPED_FIELDS
        return pa.schema(fields)

    def batches(self, split: int) -> Iterator[pa.RecordBatch]:
        """The split's rows in blocks; raises ValueError where the parts differ in rows."""
        rows_per_block = self._rows_per_block(split)
        readers = [self._column_batches(columns, split, rows_per_block) for columns in self.columns]
        dropped = self._dropped_rows(split)
        died = self.died.of_split(split) if self.died else {}
        first_row = 0
        for batches in itertools.zip_longest(*readers):
            num_rows = max(batch.num_rows for batch in batches if batch is not None)
            if any(batch is None or batch.num_rows != num_rows for batch in batches):
                raise ValueError(f"parts of split {split} are not row-aligned at row {first_row}")
            arrays = [array for batch in batches for array in batch.columns]
            if self.dropped:
                rows = range(first_row, first_row + num_rows)
                arrays += _dropped_columns(dropped, died, rows)
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
            first_row += num_rows

    def _rows_per_block(self, split: int) -> int:
        """Rows a block, the same for every zipped part: fewer where documents are long."""
        smallest = self.block_rows
        for columns in self.columns:
            with open_part(columns.folder.part(split)) as part:
                smallest = min(smallest, _rows_of_bytes(part, BYTES_PER_BLOCK))
        return max(1, smallest)

    def _column_batches(
        self, columns: Columns, split: int, num_rows: int
    ) -> Iterator[pa.RecordBatch]:
        with open_part(columns.folder.part(split)) as part:
            for batch in part.iter_batches(num_rows, columns=list(columns.names)):
                yield batch.select(list(columns.names))

    def _dropped_rows(self, split: int) -> dict[int, tuple[str, int]]:
        if self.dropped is None:
            return {}
        columns = read_part(self.dropped.part(split)).to_pydict()
        places = zip(columns["first_source"], columns["first_position"], strict=True)
        return dict(zip(columns["row"], places, strict=True))


def _rows_of_bytes(part: pq.ParquetFile, num_bytes: int) -> int:
    """Rows that take about so many bytes where they take the most."""
    groups = [part.metadata.row_group(index) for index in range(part.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=0)
    return int(num_bytes / max(1.0, largest)) + 1


_DROPPED_FIELDS = [
    pa.field("dropped", pa.bool_()),
    pa.field("first_source", pa.string()),
    pa.field("first_position", pa.int64()),
    pa.field("died_stage", pa.string()),
    pa.field("died_message", pa.string()),
]


def _dropped_columns(
    dropped: Mapping[int, tuple[str, int]], died: Mapping[int, DiedRow], rows: range
) -> list[pa.Array]:
    firsts = [dropped.get(row) for row in rows]
    deaths = [died.get(row) for row in rows]
    columns = (
        [row in dropped or row in died for row in rows],
        [first and first[0] for first in firsts],
        [first and first[1] for first in firsts],
        [death and death.stage for death in deaths],
        [death and death.message for death in deaths],
    )
    return [
        pa.array(column, field.type) for column, field in zip(columns, _DROPPED_FIELDS, strict=True)
    ]
