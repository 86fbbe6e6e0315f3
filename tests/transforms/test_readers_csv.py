"""CSV and TSV: quoting, positions, and bad records that cost themselves only."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.transforms import read_csv, readers, splits
from lexbeam.transforms.splits import InputConfig

BOM = b"\xef\xbb\xbf"


def read(
    folder: Path, data: bytes, name: str = "a.csv", block_rows: int = 256, **options: Any
) -> list[dict[str, Any]]:
    (folder / name).write_bytes(data)
    config = InputConfig(inputs=(str(folder / name),), **options)
    layout = splits.plan_layout(config, 5)
    return [
        row
        for split in layout.splits
        for batch in readers.read_split(split, layout.sources, config, block_rows)
        for row in batch.to_pylist()
    ]


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def test_quotes_line_breaks_and_positions(tmp_path: Path) -> None:
    records = [
        b"id,text,title\r\n",
        b'1,"a ""quoted"", comma",T\r\n',
        b'2,"two\r\nlines\n\n",\r\n',
        b"\r\n",
        b'3,5" disk,"T"\n',
        ',"中, 文",""\n'.encode(),
        b'4,"",x\n',
        b'5,"a\0b",x',
    ]
    rows = read(tmp_path, BOM + b"".join(records))
    assert column(rows, "content") == [
        'T\na "quoted", comma',
        "two\r\nlines\n\n",
        'T\n5" disk',
        "中, 文",
        None,
        "x\na\0b",
    ]
    starts = [3 + sum(map(len, records[:index])) for index in (1, 2, 4, 5, 6, 7)]
    assert column(rows, "position") == starts
    assert column(rows, "doc_id")[:3] == ["1", "2", "3"]
    assert len(rows[3]["doc_id"]) == 32
    assert column(rows, "error_type") == [None] * 4 + ["empty-text", None]
    for block_rows in (1, 7):
        again = read(tmp_path, BOM + b"".join(records), block_rows=block_rows)
        assert again == rows


@pytest.mark.parametrize(
    ("record", "error_type", "doc_id", "message"),
    [
        (b"8,\xff\n", "invalid-utf8", "8", "of column text: ff"),
        (b"8\n", "invalid-csv", None, "1 fields below a header of 2: 8"),
        (b"8,a,b\n", "invalid-csv", None, "3 fields below a header of 2: 8 | a | b"),
        (b'8,"a" b\n', "invalid-csv", None, "text after a closing quote:  b"),
        (b'8,"never closed\n', "invalid-csv", None, "text after a closing quote"),
    ],
)
def test_a_bad_record_costs_itself_only(
    tmp_path: Path, record: bytes, error_type: str, doc_id: str | None, message: str
) -> None:
    rows = read(tmp_path, b'id,text\n1,a\n%s2,b\n3,"c"\n' % record)
    assert column(rows, "content") == ["a", None, "b", "c"]
    assert column(rows, "position") == [8, 12, 12 + len(record), 16 + len(record)]
    assert rows[1]["error_type"] == error_type
    assert rows[1]["doc_id"] == doc_id
    assert message in rows[1]["error_message"]


def test_a_quote_that_is_never_closed_costs_its_first_line(tmp_path: Path) -> None:
    rows = read(tmp_path, b'id,text\n1,"a\n2,b\n3,c\n')
    assert column(rows, "content") == [None, "b", "c"]
    assert rows[0]["error_message"] == "a quote is never closed"


def test_a_record_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_csv, "MAX_RECORD_BYTES", 20)
    rows = read(tmp_path, b'id,text\n1,"a\n' + b"2,bcdefgh\n" * 5 + b'3,"\n\n\n"\n4,"\n"\n')
    assert column(rows, "content")[:6] == [None] + ["bcdefgh"] * 5
    assert "not closed within 20 bytes" in rows[0]["error_message"]
    assert column(rows, "error_type")[6:] == ["empty-text", "empty-text"]


def test_tsv_differs_in_the_delimiter_only(tmp_path: Path) -> None:
    rows = read(tmp_path, b'id\ttext\n1\ta, b\n2\t"tab\there\nline"\n', "a.tsv")
    assert column(rows, "content") == ["a, b", "tab\there\nline"]


def test_kept_columns_are_strings_as_they_are(tmp_path: Path) -> None:
    data = b"text,x\na,1\nb,\n"
    rows = read(tmp_path, data, keep_columns=("x", "missing"))
    assert column(rows, "x") == ["1", ""]
    assert column(rows, "missing") == [None, None]


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, b"id,text\n") == []


def test_a_large_field_of_many_quoted_lines(tmp_path: Path) -> None:
    text = 'He said "no" and left.\n' * 100_000
    data = b'id,text\n1,"%s"\n2,b\n' % text.replace('"', '""').encode()
    rows = read(tmp_path, data)
    assert column(rows, "content") == [text, "b"]


def test_a_truncated_gz_ends_at_the_record_it_cuts(tmp_path: Path) -> None:
    body = b"".join(b'%d,"line\nof %x"\n' % (i, i**9) for i in range(2, 20_000))
    packed = gzip.compress(b"id,text\n" + body)
    rows = read(tmp_path, packed[: len(packed) // 2], "a.csv.gz")
    assert rows[-1]["error_type"] == "unreadable-file"
    assert column(rows[:-1], "error_type") == [None] * (len(rows) - 1)
    assert column(rows[:-1], "doc_id") == [str(i) for i in range(2, len(rows) + 1)]
    assert (b"id,text\n" + body)[rows[-1]["position"] :].startswith(b"%d," % (len(rows) + 1))


def test_a_header_that_cannot_be_read_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff,text\n1,a\n")
    source = splits.Source(str(path), "a.csv", 13, "1", "csv")
    split = splits.Split(0, (splits.Piece(0),))
    (batch,) = readers.read_split(split, [source], InputConfig(inputs=(str(path),)))
    assert batch["error_type"].to_pylist() == ["unreadable-file"]


fields = st.text(st.sampled_from('a,"\n\r\t 文'), max_size=6)


@settings(deadline=None)
@given(st.lists(st.tuples(fields, fields, fields), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_what_the_standard_library_writes_is_read_back(
    records: list[tuple[str, str, str]], line_end: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerow(("id", "text", "x"))
    writer.writerows(records)
    with tempfile.TemporaryDirectory() as folder:
        rows = read(Path(folder), text.getvalue().encode(), keep_columns=("x",))
    assert len(rows) == len(records)
    for row, (doc_id, body, kept) in zip(rows, records, strict=True):
        if body.strip():
            assert (row["content"], row["x"]) == (body, kept)
            assert not doc_id or row["doc_id"] == doc_id
        else:
            assert row["error_type"] == "empty-text"


@settings(deadline=None)
@given(st.binary(max_size=40).map(lambda data: data.replace(b"a", b'"').replace(b"b", b"\n")))
def test_every_line_of_any_file_is_accounted_for(data: bytes) -> None:
    """Rows start at lines, in order, and no line outside a record's quotes is skipped."""
    with tempfile.TemporaryDirectory() as folder:
        rows = read(Path(folder), b"text,x\n" + data)
    starts, position = [], 7
    for line in data.split(b"\n"):
        if line not in (b"", b"\r"):
            starts.append(position)
        position += len(line) + 1
    positions = column(rows, "position")
    assert positions == sorted(set(positions))
    assert set(positions) <= set(starts)
    if b'"' not in data:
        assert positions == starts
    if starts:
        assert positions[0] == starts[0]
