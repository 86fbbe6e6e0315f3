"""Parquet: row groups, types, damaged files and strings that are no UTF-8."""

from __future__ import annotations

import datetime
import decimal
import gzip
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lexbeam.transforms import read_parquet, readers, splits, storage
from lexbeam.transforms.splits import InputConfig


def read(
    path: Path | str, split_size: int | str = "auto", block_rows: int = 256, **options: Any
) -> list[dict[str, Any]]:
    config = InputConfig(inputs=(str(path),), **options)
    layout = splits.plan_layout(config, split_size)
    rows = []
    for split in layout.splits:
        for batch in readers.read_split(split, layout.sources, config, block_rows):
            batch.validate(full=True)
            rows += batch.to_pylist()
    return rows


def written(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def test_rows_do_not_depend_on_splits_and_blocks(tmp_path: Path) -> None:
    texts = [None if i % 7 == 3 else f"text {i}" for i in range(100)]
    path = written(tmp_path, {"id": range(100), "text": texts}, row_group_size=9)
    expected = read(path)
    assert column(expected, "position") == list(range(100))
    assert column(expected, "content") == texts
    assert column(expected, "doc_id") == [str(i) for i in range(100)]
    assert {row["error_type"] for row in expected if row["content"] is None} == {"missing-text"}
    for split_size in (1, 300, 1000):
        for block_rows in (1, 7, 512):
            assert read(path, split_size, block_rows) == expected


TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
]


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_text_types(tmp_path: Path, kind: pa.DataType) -> None:
    values: list[Any] = ["一", "b\0c", None, "", "一"]
    path = written(
        tmp_path,
        {name: pa.array(values).cast(kind) for name in ("id", "text")} | {"title": ["T"] * 5},
    )
    rows = read(path)
    assert column(rows, "content") == ["T\n一", "T\nb\0c", None, None, "T\n一"]
    assert column(rows, "doc_id") == ["一", "b\0c", None, None, "一"]
    assert column(rows, "error_type") == [None, None, "missing-text", "invalid-id", None]


def invalid_strings(values: list[bytes]) -> pa.Array[Any]:
    raw = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2])


def test_strings_that_are_no_utf8_cost_their_row(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "id": ["1", "2", "3", "4"],
            "text": invalid_strings([b"good", b"bad\xff", b"good", b"good"]),
            "x": invalid_strings([b"good", b"good", b"\xc0", b"good"]),
            "y": pa.ListArray.from_arrays([0, 1, 2, 3, 4], invalid_strings([b"a"] * 3 + [b"\xff"])),
        },
    )
    rows = read(path, keep_columns=("x", "y"))
    assert column(rows, "error_type") == [None, "invalid-utf8", "invalid-utf8", "invalid-utf8"]
    assert column(rows, "doc_id") == ["1", "2", "3", "4"]
    assert "column text: invalid start byte at byte 3: ff" in rows[1]["error_message"]
    assert rows[0]["y"] == '["a"]'
    assert column(read(path), "error_type") == [None, "invalid-utf8", None, None]


def test_all_null_text_and_absent_id_and_title(tmp_path: Path) -> None:
    rows = read(written(tmp_path, {"text": pa.nulls(2)}))
    assert column(rows, "error_type") == ["missing-text"] * 2
    rows = read(written(tmp_path, {"text": ["a", "b"]}))
    assert [len(row["doc_id"]) for row in rows] == [32, 32]
    assert column(rows, "title") == [None, None]


def test_ids_of_any_integer_type(tmp_path: Path) -> None:
    for kind, value in ((pa.int8(), -3), (pa.uint64(), 2**64 - 1), (pa.int64(), 7)):
        path = written(tmp_path, {"id": pa.array([value, None], kind), "text": ["a", "b"]})
        rows = read(path)
        assert rows[0]["doc_id"] == str(value)
        assert len(rows[1]["doc_id"]) == 32


KEPT = [
    (pa.string(), "s", "s"),
    (pa.int64(), 5, "5"),
    (pa.float64(), 0.5, "0.5"),
    (pa.float64(), float("nan"), None),
    (pa.bool_(), True, "true"),
    (pa.date32(), datetime.date(2026, 1, 2), "2026-01-02"),
    (pa.timestamp("ns"), 1_000_000_001, "1970-01-01T00:00:01"),
    (pa.timestamp("s", "UTC"), 60, "1970-01-01T00:01:00+00:00"),
    (pa.decimal128(5, 2), decimal.Decimal("1.50"), "1.50"),
    (pa.binary(), b"\xff", "/w=="),
    (pa.duration("ns"), 1_500_000_000, "1.5"),
    (pa.list_(pa.string()), ["é", None], '["é",null]'),
    (pa.list_(pa.timestamp("ns")), [1_000_000_001], '["1970-01-01T00:00:01"]'),
    (pa.struct([("b", pa.int8()), ("a", pa.float32())]), {"b": 1, "a": None}, '{"a":null,"b":1}'),
    (pa.map_(pa.string(), pa.int8()), [("k", 1)], '[["k",1]]'),
    (pa.dictionary(pa.int8(), pa.string()), "d", "d"),
]


@pytest.mark.parametrize(("kind", "value", "text"), KEPT, ids=lambda value: str(value)[:30])
def test_kept_columns(tmp_path: Path, kind: pa.DataType, value: Any, text: str | None) -> None:
    path = written(tmp_path, {"text": ["a", "b"], "x": pa.array([value, None], kind)})
    rows = read(path, keep_columns=("x", "missing"))
    assert column(rows, "error_type") == [None, None]
    assert column(rows, "x") == [text, None]
    assert column(rows, "missing") == [None, None]


def test_a_value_that_python_cannot_hold_costs_its_row(tmp_path: Path) -> None:
    far = pa.array([10**6, 10**8], pa.int32()).cast(pa.date32())
    rows = read(written(tmp_path, {"text": ["a", "b"], "x": far}), keep_columns=("x",))
    assert column(rows, "error_type") == [None, "unreadable-value"]


def test_column_names_with_dots_and_nested_columns(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"a.b": ["dotted"], "text": ["t"], "s": [{"text": "inner", "k": 1}]},
    )
    (row,) = read(path, keep_columns=("a.b", "s", "s.k"))
    assert (row["content"], row["a.b"], row["s.k"]) == ("t", "dotted", None)
    assert row["s"] == '{"k":1,"text":"inner"}'


@pytest.mark.parametrize("keep", [0, 1, 4, 0.5, -1])
def test_a_file_that_is_truncated_is_one_row(tmp_path: Path, keep: float) -> None:
    path = written(tmp_path, {"text": ["a", "b"]})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if keep == 0.5 else int(keep)])
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}\n')
    rows = read(tmp_path)
    assert column(rows, "error_type") == ["unreadable-file", None]
    assert column(rows, "position") == [0, 0]


@pytest.mark.parametrize("split_size", [1, "auto"])
def test_a_damaged_row_group_costs_the_rest_of_itself(
    tmp_path: Path, split_size: int | str
) -> None:
    texts = [f"text number {i}" for i in range(30)]
    path = written(
        tmp_path,
        {"text": texts},
        row_group_size=10,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"text number 15")] ^= 0xFF
    path.write_bytes(data)
    rows = read(path, split_size)
    assert column(rows, "content") == [*texts[:10], None, *texts[20:]]
    assert rows[10]["error_type"] == "unreadable-file"
    assert rows[10]["error_message"].startswith("rows 10 to 19: ")
    assert column(rows, "position") == [*range(11), *range(20, 30)]


def test_batches_shrink_for_large_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{i}" * 1000 for i in range(10)]
    path = written(tmp_path, {"text": texts})
    monkeypatch.setattr(read_parquet, "_BATCH_BYTES", 2500)
    sizes = []
    original = read_parquet._batch_records

    def counted(batch: pa.RecordBatch, row: int, config: InputConfig) -> Any:
        sizes.append(batch.num_rows)
        return original(batch, row, config)

    monkeypatch.setattr(read_parquet, "_batch_records", counted)
    assert column(read(path), "content") == texts
    assert max(sizes) <= 3
    assert sum(sizes) == 10


def test_a_document_over_the_limit_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_parquet, "MAX_DOCUMENT_BYTES", 5)
    rows = read(written(tmp_path, {"text": ["中文", "abcd"]}))
    assert column(rows, "error_type") == ["too-large", None]


def test_empty_and_compressed_files_and_urls(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": pa.array([], pa.string())})
    assert read(path) == []
    path = written(tmp_path, {"text": ["a", "b"]})
    packed = tmp_path / "b.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert column(read(packed), "content") == ["a", "b"]
    url = f"memory://{uuid.uuid4().hex}/a.parquet"
    storage.put_if_absent(url, path.read_bytes())
    assert column(read(url, 1), "content") == ["a", "b"]


def test_a_file_without_any_needed_column_still_counts_its_rows(tmp_path: Path) -> None:
    path = written(tmp_path, {"other": [1, 2]})
    source = splits.Source(str(path), "a.parquet", 1, "1", "parquet")
    split = splits.Split(0, (splits.Piece(0),))
    (batch,) = readers.read_split(split, [source], InputConfig(inputs=(str(path),)))
    assert batch["error_type"].to_pylist() == ["missing-text"] * 2
