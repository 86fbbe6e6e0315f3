import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.transforms.part_files import (
    ROWS_PER_ROW_GROUP,
    Columns,
    PartFolder,
    PartWriter,
    ZippedParts,
    part_statistics,
    read_part,
    write_part,
)

SCHEMA = pa.schema([("row", pa.int64()), ("words", pa.list_(pa.string()))])


def batch_of(first: int, number: int) -> pa.RecordBatch:
    rows = range(first, first + number)
    words = [None if row % 7 == 0 else [str(row)] * (row % 3) for row in rows]
    return pa.RecordBatch.from_pydict({"row": list(rows), "words": words}, schema=SCHEMA)


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_a_parts_bytes_do_not_depend_on_the_blocks(tmp_path_factory, sizes):
    folder = PartFolder(str(tmp_path_factory.mktemp("parts")), 2)
    writer = PartWriter(folder.part(0), SCHEMA)
    first = 0
    for size in sizes:
        writer.write(batch_of(first, size))
        first += size
    assert writer.commit({"tokens": 3})
    write_part(folder.part(1), pa.Table.from_batches([batch_of(0, first)]), {"tokens": 3})
    assert digest(folder.part(0)) == digest(folder.part(1))
    assert read_part(folder.part(0))["row"].to_pylist() == list(range(first))


def test_row_groups_have_a_fixed_number_of_rows(tmp_path):
    path = str(tmp_path / "part.parquet")
    write_part(path, pa.Table.from_batches([batch_of(0, 2 * ROWS_PER_ROW_GROUP + 5)]))
    metadata = pq.ParquetFile(path).metadata
    found = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert found == [ROWS_PER_ROW_GROUP, ROWS_PER_ROW_GROUP, 5]


def test_the_second_writer_of_a_part_loses_and_leaves_nothing(tmp_path):
    path = str(tmp_path / "part.parquet")
    assert write_part(path, pa.Table.from_batches([batch_of(0, 3)]))
    before = digest(path)
    assert not write_part(path, pa.Table.from_batches([batch_of(5, 4)]))
    assert digest(path) == before
    assert [entry.name for entry in tmp_path.glob("[!.]*")] == ["part.parquet"]


def test_an_abandoned_part_leaves_nothing(tmp_path):
    writer = PartWriter(str(tmp_path / "part.parquet"), SCHEMA)
    writer.write(batch_of(0, 3))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_schema_are_refused(tmp_path):
    writer = PartWriter(str(tmp_path / "part.parquet"), SCHEMA)
    with pytest.raises(ValueError, match="schema"):
        writer.write(pa.RecordBatch.from_pydict({"row": [1]}))
    writer.abandon()


def test_missing_lists_the_splits_without_a_part(tmp_path):
    folder = PartFolder(str(tmp_path), 3)
    assert folder.missing() == [0, 1, 2]
    write_part(folder.part(1), pa.Table.from_batches([batch_of(0, 1)]))
    # Parts of another plan do not count.
    write_part(PartFolder(str(tmp_path), 5).part(0), pa.Table.from_batches([batch_of(0, 1)]))
    assert folder.missing() == [0, 2]
    assert not folder.is_complete()


def test_statistics_come_back(tmp_path):
    path = str(tmp_path / "part.parquet")
    write_part(path, pa.Table.from_batches([batch_of(0, 1)]), {"real_tokens": 5})
    assert part_statistics(path) == {"real_tokens": 5}


def zipped(tmp_path: Path, rows: tuple[int, int], block_rows: int) -> ZippedParts:
    folders = [PartFolder(str(tmp_path / name), 1) for name in ("a", "b", "dropped")]
    for folder, number in zip(folders, rows, strict=False):
        write_part(folder.part(0), pa.Table.from_batches([batch_of(0, number)]))
    dropped = {"row": [1, 4], "first_source": ["x", "y"], "first_position": [10, 20]}
    write_part(folders[2].part(0), pa.table(dropped))
    columns = (
        Columns(folders[0], SCHEMA, ("row", "words")),
        Columns(folders[1], SCHEMA, ("row",), (("row", "other_row"),)),
    )
    return ZippedParts(columns, folders[2], block_rows)


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_zipped_parts_are_row_aligned_and_marked(tmp_path, block_rows):
    source = zipped(tmp_path, (6, 6), block_rows)
    table = pa.Table.from_batches(list(source.batches(0)), source.schema)
    assert table["row"].to_pylist() == table["other_row"].to_pylist() == list(range(6))
    assert table["dropped"].to_pylist() == [False, True, False, False, True, False]
    assert table["first_source"].to_pylist() == [None, "x", None, None, "y", None]
    assert table["first_position"].to_pylist() == [None, 10, None, None, 20, None]


def test_parts_of_different_lengths_are_an_error(tmp_path):
    source = zipped(tmp_path, (6, 5), 4)
    with pytest.raises(ValueError, match="row-aligned at row 4"):
        list(source.batches(0))
