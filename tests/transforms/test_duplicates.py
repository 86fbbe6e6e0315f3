import apache_beam as beam
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models import schemas
from lexbeam.transforms.duplicates import DropDuplicateIds, later_places
from lexbeam.transforms.part_files import PartFolder, read_part, write_part
from lexbeam.transforms.tokenize import id_hash


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
    return [read_part(part).to_pylist() for part in dropped.parts()]


def test_the_first_document_of_an_id_stays(tmp_path):
    found = drop(tmp_path, [["a", "b", "a"], ["b", None, "c"], [], ["a", "c", None]])
    a = {"first_source": "file0.jsonl", "first_position": 0}
    b = {"first_source": "file0.jsonl", "first_position": 10}
    c = {"first_source": "file1.jsonl", "first_position": 20}
    assert found == [[{"row": 2, **a}], [{"row": 0, **b}], [], [{"row": 0, **a}, {"row": 1, **c}]]


def test_without_duplicates_every_split_still_has_its_part(tmp_path):
    assert drop(tmp_path, [["a"], ["b"], []]) == [[], [], []]


@given(st.lists(st.integers(0, 4), max_size=30))
def test_later_places_are_all_but_the_first_of_each_id(ids):
    rows = sorted((id_hash(str(number)), row) for row, number in enumerate(ids))
    places = pa.table(
        {
            "id_hash": pa.array([h for h, _ in rows], pa.binary(16)),
            "split": pa.array([0] * len(rows), pa.int32()),
            "row": pa.array([row for _, row in rows], pa.int64()),
            "source": pa.array(["s"] * len(rows), pa.string()),
            "position": pa.array([row for _, row in rows], pa.int64()),
        }
    )
    found = later_places(places)
    expected = {row for row, number in enumerate(ids) if number in ids[:row]}
    assert set(found["row"].to_pylist()) == expected
    assert all(
        first == ids.index(ids[row])
        for row, first in zip(
            found["row"].to_pylist(), found["first_position"].to_pylist(), strict=True
        )
    )


def test_the_transform_is_labelled_for_people(tmp_path):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    folder = PartFolder(str(tmp_path), 1)
    _ = pipeline | DropDuplicateIds(folder, folder)
    assert "DropDuplicateIds/FindDuplicates" in pipeline.applied_labels
