import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import schemas
from lexbeam.transforms import duplicates
from lexbeam.transforms.duplicates import (
    DROPPED,
    LATER,
    PLACES,
    DropDuplicateIds,
    ReadIdsDoFn,
    later_places,
    places_of,
    rows_of_part,
)
from lexbeam.transforms.part_files import ROWS_PER_ROW_GROUP, PartFolder, read_part, write_part
from lexbeam.transforms.tokenize import id_hash


def hashes_of(ids: list[str | None]) -> pa.Array:
    """Hashes of ids; None is a rejected row."""
    return pa.array([None if i is None else id_hash(i) for i in ids], pa.binary(16))


def write_ids(folder: PartFolder, split: int, ids: list[str | None]) -> None:
    """Tokens parts with nothing but ids; None is a rejected row."""
    rows = [
        {
            "doc_id": doc_id,
            "id_hash": None if doc_id is None else id_hash(doc_id),
            "source": f"file{split}.jsonl",
            "position": 10 * row,
        }
        for row, doc_id in enumerate(ids)
    ]
    write_part(folder.part(split), pa.Table.from_pylist(rows, schema=schemas.tokens_schema()))


def drop(tmp_path, splits: list[list[str | None]]) -> list[list[dict[str, object]]]:
    tokens = PartFolder(str(tmp_path / "tokens"), len(splits))
    dropped = PartFolder(str(tmp_path / "dropped"), len(splits))
    for split, ids in enumerate(splits):
        write_ids(tokens, split, ids)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | "Drop" >> DropDuplicateIds(tokens, dropped)
    tables = [read_part(part) for part in dropped.parts()]
    assert all(table.schema == DROPPED for table in tables)
    return [table.to_pylist() for table in tables]


def test_the_first_document_of_an_id_stays(tmp_path):
    found = drop(tmp_path, [["a", "b", "a"], ["b", None, "c"], [], ["a", "c", None]])
    a = {"first_source": "file0.jsonl", "first_position": 0}
    b = {"first_source": "file0.jsonl", "first_position": 10}
    c = {"first_source": "file1.jsonl", "first_position": 20}
    assert found == [[{"row": 2, **a}], [{"row": 0, **b}], [], [{"row": 0, **a}, {"row": 1, **c}]]


def test_without_duplicates_every_split_still_has_its_part(tmp_path):
    assert drop(tmp_path, [["a"], ["b"], []]) == [[], [], []]


def test_rejected_rows_alone(tmp_path):
    assert drop(tmp_path, [[None, None], [None]]) == [[], []]


@settings(deadline=None, max_examples=8)
@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=9), min_size=1, max_size=4)
)
def test_any_split_names_the_first_place(tmp_path_factory, splits):
    ids = [[None if i is None else str(i) for i in split] for split in splits]
    firsts: dict[str, dict[str, object]] = {}
    expected: list[list[dict[str, object]]] = [[] for _ in ids]
    for split, split_ids in enumerate(ids):
        for row, doc_id in enumerate(split_ids):
            place = {"first_source": f"file{split}.jsonl", "first_position": 10 * row}
            if doc_id is not None and firsts.setdefault(doc_id, place) is not place:
                expected[split].append({"row": row, **firsts[doc_id]})
    assert drop(tmp_path_factory.mktemp("drop"), ids) == expected


def test_rows_are_numbered_over_the_blocks_that_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "_ROWS_READ", 3)
    found = drop(tmp_path, [["a", None, "b", "c", "d", None, "a", "b"]])
    rows = [(row["row"], row["first_position"]) for row in found[0]]
    assert rows == [(6, 0), (7, 20)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=30), st.randoms())
def test_later_places_are_all_but_the_first_of_each_id(documents, rng):
    ids = [number for number, _ in documents]
    splits = sorted(split for _, split in documents)
    parts = [
        places_of(hashes_of([str(number)]), split, row)
        for row, (number, split) in enumerate(zip(ids, splits, strict=True))
    ]
    rng.shuffle(parts)
    found_splits, later = later_places(np.concatenate([np.empty(0, PLACES), *parts]))
    assert later.dtype == LATER
    found = {
        row: (split, first_split, first_row)
        for split, (row, first_split, first_row) in zip(
            found_splits.tolist(), later.tolist(), strict=True
        )
    }
    expected = {}
    for row, number in enumerate(ids):
        first = ids.index(number)
        if first < row:
            expected[row] = (splits[row], splits[first], first)
    assert found == expected


def test_ids_whose_hashes_share_a_half_are_different():
    halves = [(1, 2), (1, 3), (4, 2), (1, 2)]
    places = np.array([(*half, 0, row) for row, half in enumerate(halves)], dtype=PLACES)
    _, later = later_places(places)
    assert later.tolist() == [(3, 0, 0)]


def test_hashes_of_a_slice():
    whole = hashes_of(["a", None, "b", "c"])
    places = places_of(whole[1:], 7, 5)
    assert places[["split", "row"]].tolist() == [(7, 6), (7, 7)]
    assert places.tobytes() == b"".join(
        id_hash(i) + (7).to_bytes(4, "little") + row.to_bytes(4, "little")
        for i, row in (("b", 6), ("c", 7))
    )


def test_more_rows_than_32_bits_can_number():
    with pytest.raises(ValueError, match="split 3"):
        places_of(hashes_of(["a", "b"]), 3, 2**31 - 2)


def test_rows_of_a_part_come_from_their_row_groups_alone(tmp_path, monkeypatch):
    path = str(tmp_path / "part.parquet")
    num_rows = 3 * ROWS_PER_ROW_GROUP + 7
    write_part(path, pa.table({"row": range(num_rows), "other": [0] * num_rows}))
    read: list[int] = []
    real = pq.ParquetFile.read_row_group

    def read_row_group(part, group, **options):
        read.append(group)
        return real(part, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    rows = [0, 5, ROWS_PER_ROW_GROUP - 1, 2 * ROWS_PER_ROW_GROUP, num_rows - 1]
    assert rows_of_part(path, np.array(rows), ["row"]).to_pydict() == {"row": rows}
    assert read == [0, 2, 3]


def test_little_is_shuffled_for_a_document(tmp_path):
    tokens = PartFolder(str(tmp_path), 1)
    ids = [str(number) for number in range(20_000)]
    write_ids(tokens, 0, ids)
    shuffled = list(ReadIdsDoFn(tokens).process(0))
    assert sum(len(places) for _, places in shuffled) == 24 * len(ids)
    assert len({partition for partition, _ in shuffled}) == 64


def test_the_transform_is_labelled_for_people(tmp_path):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    folder = PartFolder(str(tmp_path), 1)
    _ = pipeline | DropDuplicateIds(folder, folder)
    assert "DropDuplicateIds/FindDuplicates" in pipeline.applied_labels
