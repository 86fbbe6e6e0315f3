"""The DoFn that writes parts: whole splits, committed when the bundle ends, or nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lexbeam.transforms import blocks, part_files, parts
from lexbeam.transforms.part_files import PartFolder, PartWriter, part_statistics, read_part
from lexbeam.transforms.parts import WritePartDoFn

SCHEMA = pa.schema([("number", pa.int64())])


def split_of(numbers: list[int], split: int) -> list[pa.RecordBatch]:
    batch = pa.RecordBatch.from_pylist([{"number": n} for n in numbers], SCHEMA)
    marked = blocks.last_block(SCHEMA, split, {"rows": len(numbers)})
    return [blocks.of_split(batch, split), marked]


@pytest.fixture(params=[1, 2])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The DoFn, with and without threads of its own, in its first bundle."""
    for module in (parts, part_files):
        monkeypatch.setattr(module, "kernel_threads", lambda: request.param)
    do_fn = WritePartDoFn(PartFolder(str(tmp_path), 5), SCHEMA, "test")
    do_fn.setup()
    do_fn.start_bundle()
    yield do_fn
    do_fn.teardown()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".sums")


def test_every_split_has_its_part_when_the_bundle_ends(writer: WritePartDoFn, tmp_path: Path):
    folder = PartFolder(str(tmp_path), 5)
    for split in range(5):
        for block in split_of([split, split + 1], split):
            writer.process(block)
    writer.finish_bundle()
    for split in range(5):
        assert read_part(folder.part(split)).to_pydict() == {"number": [split, split + 1]}
        assert part_statistics(folder.part(split)) == {"rows": 2}
    assert names_in(tmp_path) == [Path(path).name for path in folder.parts()]


def test_a_split_without_its_end_is_an_error_and_leaves_nothing(
    writer: WritePartDoFn, tmp_path: Path
):
    for block in [*split_of([1], 0), split_of([2], 1)[0]]:
        writer.process(block)
    with pytest.raises(RuntimeError, match=r"splits \[1\] ended before"):
        writer.finish_bundle()
    assert names_in(tmp_path) == ["part-00000-of-00005.parquet"]


def test_a_part_that_cannot_be_committed_fails_the_bundle(
    writer: WritePartDoFn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full_disk(*arguments: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(part_files.storage, "commit_file", full_disk)

    def bundle() -> None:
        for block in split_of([1], 0):
            writer.process(block)
        writer.finish_bundle()

    with pytest.raises(OSError, match="No space left"):
        bundle()
    writer.start_bundle()
    assert names_in(tmp_path) == []


def test_an_error_in_a_row_group_is_not_lost(
    writer: WritePartDoFn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(part_files, "ROWS_PER_ROW_GROUP", 2)

    def fail(self: PartWriter, table: pa.Table) -> None:
        raise ValueError("cannot be encoded")

    monkeypatch.setattr(PartWriter, "_write_row_group", fail)

    def bundle() -> None:
        for block in split_of(list(range(7)), 0):
            writer.process(block)
        writer.finish_bundle()

    with pytest.raises(ValueError, match="cannot be encoded"):
        bundle()
    writer.start_bundle()
    assert names_in(tmp_path) == []
