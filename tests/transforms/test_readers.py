"""JSONL, lines and text files: every document is one row, whatever the block and split size."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import schemas
from lexbeam.transforms import read_rows, read_stream, readers, splits
from lexbeam.transforms.splits import InputConfig

BOM = b"\xef\xbb\xbf"


def read(
    folder: Path,
    split_size: int | str = "auto",
    block_rows: int = 256,
    block_bytes: int = 16 << 20,
    **options: Any,
) -> list[dict[str, Any]]:
    """All rows of the files in a folder."""
    config = InputConfig(inputs=(str(folder),), **options)
    layout = splits.plan_layout(config, split_size)
    rows: list[dict[str, Any]] = []
    for split in layout.splits:
        for batch in readers.read_split(split, layout.sources, config, block_rows, block_bytes):
            batch.validate(full=True)
            assert batch.schema.equals(schemas.read_schema(config.keep_columns))
            assert 0 < batch.num_rows <= block_rows
            rows += batch.to_pylist()
    for row in rows:
        assert (row["content"] is None) == (row["error_type"] is not None)
        assert (row["error_message"] is None) == (row["error_type"] is None)
    return rows


def read_lines(folder: Path, *lines: bytes, **options: Any) -> list[dict[str, Any]]:
    (folder / "a.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return read(folder, **options)


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


# --- JSONL


@pytest.mark.parametrize(
    ("line", "error_type", "doc_id", "message"),
    [
        (b'{"id": "7", "text": "\xff"}', "invalid-utf8", None, "invalid start byte at byte 21: ff"),
        (b'{"text": "\xed\xa0\x80"}', "invalid-utf8", None, "ed a0 80"),
        (b'{"text": "a"', "invalid-json", None, "at character"),
        (b"nonsense", "invalid-json", None, "near: nonsense"),
        (b'{"text": "a", "x": NaN}', "invalid-json", None, "NaN is not JSON"),
        (b'{"text": "\\ud800"}', "invalid-json", None, "lone surrogate \\ud800"),
        (b'{"text": "a", "x": ["\\uDFFF"]}', "invalid-json", None, "lone surrogate \\udfff"),
        (b'{"text": "a\x00b"}', "invalid-json", None, "control character"),
        (b"[" * 100_000, "invalid-json", None, "nested too deeply"),
        (b'{"text": "a", "x": ' + b"1" * 5000 + b"}", "invalid-json", None, "4300"),
        (b'["text"]', "not-an-object", None, 'an array: ["text"]'),
        (b"null", "not-an-object", None, "null"),
        (b'"text"', "not-an-object", None, "a string: text"),
        (b'{"id": "7", "body": "a"}', "missing-text", "7", "no 'text' among: id, body"),
        (b'{"id": 7, "text": null}', "missing-text", "7", "'text' is null"),
        (b'{"id": "7", "text": 42}', "text-not-a-string", "7", "'text' is a number: 42"),
        (b'{"id": "7", "text": ["a"]}', "text-not-a-string", "7", 'an array: ["a"]'),
        (b'{"id": "7", "text": ""}', "empty-text", "7", "'text' is \"\""),
        ('{"id": "7", "text": " \\n\u3000"}'.encode(), "empty-text", "7", "\\n"),
        (b'{"id": "7", "title": "t", "text": " "}', "empty-text", "7", '" "'),
        (b'{"id": true, "text": "a"}', "invalid-id", None, "'id' is a boolean: true"),
        (b'{"id": 1.0, "text": "a"}', "invalid-id", None, "a number: 1.0"),
        (b'{"id": "", "text": "a"}', "invalid-id", None, "an empty string"),
        (b'{"id": {"a": 1}, "text": "a"}', "invalid-id", None, 'an object: {"a":1}'),
        (b'{"id": "7", "title": 5, "text": "a"}', "invalid-title", "7", "'title' is a number: 5"),
    ],
)
def test_a_bad_line_is_one_row_and_its_neighbours_come_out(
    tmp_path: Path, line: bytes, error_type: str, doc_id: str | None, message: str
) -> None:
    good = b'{"id": "good", "text": "fine"}'
    rows = read_lines(tmp_path, good, line, good)
    assert column(rows, "content") == ["fine", None, "fine"]
    assert column(rows, "error_type") == [None, error_type, None]
    assert column(rows, "position") == [0, len(good) + 1, len(good) + len(line) + 2]
    assert column(rows, "source") == ["a.jsonl"] * 3
    assert rows[1]["doc_id"] == doc_id
    assert message in rows[1]["error_message"]
    assert len(rows[1]["error_message"]) < 200


def test_messages_are_short(tmp_path: Path) -> None:
    (row,) = read_lines(tmp_path, b'{"text": [%s1]}' % (b"1," * 10_000))
    assert row["error_message"] == "'text' is an array: [" + "1," * 39 + "…"


def test_ids(tmp_path: Path) -> None:
    given_ids = ["a/../b", 12, -0, 2**70, " ", "a\u0000b", None]
    lines = [json.dumps({"id": value, "text": "a"}).encode() for value in given_ids]
    rows = read_lines(tmp_path, *lines, b'{"text": "a"}')
    hashes = [
        hashlib.sha256(f"a.jsonl\0{row['position']}".encode()).hexdigest()[:32] for row in rows
    ]
    assert column(rows, "doc_id") == [
        "a/../b",
        "12",
        "0",
        str(2**70),
        " ",
        "a\u0000b",
        *hashes[-2:],
    ]
    scoped = read(tmp_path, id_scope="file")
    assert column(scoped, "doc_id") == [f"a.jsonl:{doc_id}" for doc_id in column(rows, "doc_id")]


@pytest.mark.parametrize(
    ("title", "text", "kept_title", "content"),
    [
        ("T", "text", "T", "T\ntext"),
        ("T", "T and text", "T", "T and text"),
        (None, " text ", None, " text "),
        ("", "text", None, "text"),
        (" \t", "text", None, "text"),
        ("题", "文", "题", "题\n文"),
    ],
)
def test_content(
    tmp_path: Path, title: str | None, text: str, kept_title: str | None, content: str
) -> None:
    (row,) = read_lines(tmp_path, json.dumps({"title": title, "text": text}).encode())
    assert (row["title"], row["content"]) == (kept_title, content)


def test_keys_may_have_other_names(tmp_path: Path) -> None:
    line = b'{"key": 1, "head": "h", "body": "b", "text": 5}'
    (row,) = read_lines(tmp_path, line, id_key="key", title_key="head", text_key="body")
    assert (row["doc_id"], row["title"], row["content"]) == ("1", "h", "h\nb")


def test_kept_columns_are_strings_or_json(tmp_path: Path) -> None:
    values = ["s", "", None, 1, 1.5, True, [1, "é"], {"b": 1, "a": None}, 10**30]
    lines = [json.dumps({"text": "a", "x": value}).encode() for value in values]
    lines += [b'{"text": "a"}', b'{"text": "a", "x": [1e999, 1]}', b'{"text": "a", "x": -1e999}']
    rows = read_lines(tmp_path, *lines, b'{"text": "", "x": 1}', keep_columns=("x", "y"))
    assert column(rows, "x") == [
        "s",
        "",
        None,
        "1",
        "1.5",
        "true",
        '[1,"é"]',
        '{"a":null,"b":1}',
        str(10**30),
        None,
        "[null,1]",
        None,
        None,
    ]
    assert set(column(rows, "y")) == {None}


def test_line_ends_blank_lines_byte_order_mark_and_missing_last_line_end(tmp_path: Path) -> None:
    data = BOM + b'{"text": "1"}\r\n\r\n \t\n\n{"text": "2"}\n{"text": "3\\u0000"}'
    (tmp_path / "a.jsonl").write_bytes(data)
    for split_size in (1, 2, 3, 4, 7, "auto"):
        rows = read(tmp_path, split_size)
        assert column(rows, "content") == ["1", "2", "3\0"]
        assert column(rows, "position") == [
            0,
            data.index(b'{"text": "2'),
            data.index(b'{"text": "3'),
        ]


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    for name, data in (("a.jsonl", b""), ("b.jsonl", BOM), ("c.jsonl", b"\n\n"), ("d.csv", b"")):
        (tmp_path / name).write_bytes(data)
    assert read(tmp_path) == []


def test_a_line_of_10_mb(tmp_path: Path) -> None:
    text = "长" * 3_500_000
    line = json.dumps({"text": text}, ensure_ascii=False).encode()
    rows = read_lines(tmp_path, b'{"text": "a"}', line, b'{"text": "b"}', split_size=1 << 20)
    assert column(rows, "content") == ["a", text, "b"]


def test_a_line_over_the_limit_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_stream, "_CHUNK_BYTES", 7)
    for module in (read_stream, readers.read_jsonl):
        monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 20)
    lines = [b'{"text": "a"}', b'{"text": "%s"}' % (b"b" * 50), b'{"text": "%s"}' % (b"c" * 8)]
    rows = read_lines(tmp_path, *lines)
    assert column(rows, "content") == ["a", None, "c" * 8]
    assert rows[1]["error_type"] == "too-large"
    assert column(rows, "position") == [0, 14, 14 + len(lines[1]) + 1]


# --- cuts and blocks

odd_lines = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"", b"\r", b" ", b'{"text": "a"}', b'{"id": 1, "text": "b"}\r', BOM, b"[]"]),
)
contents = st.one_of(
    st.binary(max_size=60), st.lists(odd_lines, max_size=8).map(lambda lines: b"\n".join(lines))
)


def simple_lines(data: bytes) -> list[tuple[int, bytes]]:
    """The reference: offsets and lines of the whole content."""
    found, position = [], 0
    for line in data.split(b"\n"):
        found.append((position, line))
        position += len(line) + 1
    return found if found[-1][1] else found[:-1]


@settings(deadline=None)
@given(contents, st.integers(1, 70), st.integers(1, 9))
def test_every_line_is_in_exactly_one_range(data: bytes, size: int, chunk_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_stream, "_CHUNK_BYTES", chunk_bytes)
        path = Path(folder) / "a.jsonl"
        path.write_bytes(data)
        source = splits.Source(str(path), "a.jsonl", len(data), "1", "jsonl")
        found = [
            line
            for start in range(0, len(data), size)
            for line in read_stream.lines(source, start, min(start + size, len(data)))
        ]
        assert found == simple_lines(data)


@settings(deadline=None)
@given(contents, st.integers(1, 70), st.sampled_from([1, 7, 512]), st.booleans())
def test_rows_do_not_depend_on_splits_and_blocks(
    data: bytes, size: int, block_rows: int, as_lines: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = "a.txt" if as_lines else "a.jsonl"
        (Path(folder) / name).write_bytes(data)
        expected = read(Path(folder), text_lines=as_lines)
        assert read(Path(folder), size, block_rows, text_lines=as_lines) == expected
        without_mark = [
            (position, line.removeprefix(BOM) if position == 0 else line)
            for position, line in simple_lines(data)
        ]
        documents = [position for position, line in without_mark if line.strip()]
        assert column(expected, "position") == documents


def test_blocks_are_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(b"%d" % i * 30 + b"\n" for i in range(10)) * 10)
    config = InputConfig(inputs=(str(tmp_path),), text_lines=True)
    layout = splits.plan_layout(config)

    def sizes(rows: int, num_bytes: int) -> list[int]:
        batches = readers.read_split(layout.splits[0], layout.sources, config, rows, num_bytes)
        return [batch.num_rows for batch in batches]

    assert sizes(64, 1 << 20) == [64, 36]
    assert sizes(64, 100) == [3] * 33 + [1]
    assert sizes(64, 10) == [1] * 100
    assert sizes(100, 1 << 20) == [100]


def test_small_files_share_blocks_and_keep_their_names(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b'{"text": "1"}\n{"text": "2"}\n')
    config = InputConfig(inputs=(str(tmp_path),))
    layout = splits.plan_layout(config)
    (batch,) = readers.read_split(layout.splits[0], layout.sources, config)
    assert batch["source"].to_pylist() == ["a.jsonl", "a.jsonl", "b.jsonl", "b.jsonl"]
    assert len(set(batch["doc_id"].to_pylist())) == 4


# --- text files


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BOM + b" one\r\n\0two\n")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"good\n\xffbad")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"packed"))
    rows = read(tmp_path)
    assert column(rows, "content") == [" one\r\n\0two\n", None, None, "packed"]
    assert column(rows, "error_type") == [None, "empty-text", "invalid-utf8", None]
    assert column(rows, "position") == [0] * 4
    assert rows[0]["doc_id"] == read_rows.missing_id("a.txt", 0)


def test_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BOM + b"one\r\n\n two \n\xff\n\xe3\x80\x80\nlast")
    rows = read(tmp_path, text_lines=True)
    assert column(rows, "content") == ["one", " two ", None, None, "last"]
    assert column(rows, "error_type") == [None, None, "invalid-utf8", "empty-text", None]
    assert column(rows, "position") == [0, 9, 15, 17, 21]


# --- compression

COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def documents(count: int) -> bytes:
    """Lines that hardly compress, so that damage hits in the middle."""
    noise = [hashlib.sha512(b"%d" % index).hexdigest() for index in range(count)]
    return b"".join(b'{"text": "%s"}\n' % text.encode() for text in noise)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("parts", [1, 3])
def test_compressed_files_read_like_plain_ones(tmp_path: Path, kind: str, parts: int) -> None:
    data = documents(3000)
    third = len(data) // parts + 1
    members = [data[start : start + third] for start in range(0, len(data), third)]
    (tmp_path / "plain").mkdir()
    (tmp_path / "packed").mkdir()
    (tmp_path / "plain" / "a.jsonl").write_bytes(data)
    packed = tmp_path / "packed" / f"a.jsonl.{kind}"
    packed.write_bytes(b"".join(COMPRESS[kind](member) for member in members))
    fields = ("position", "content", "error_type")
    plain = [[row[name] for name in fields] for row in read(tmp_path / "plain")]
    assert [[row[name] for name in fields] for row in read(tmp_path / "packed")] == plain
    assert len(plain) == 3000


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage-after"])
def test_damage_keeps_the_rows_before_it(tmp_path: Path, kind: str, damage: str) -> None:
    data = documents(20_000)
    packed = bytearray(COMPRESS[kind](data))
    if damage == "truncated":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed += b"garbage"
    (tmp_path / f"a.jsonl.{kind}").write_bytes(packed)
    rows = read(tmp_path)
    lines = data.splitlines(keepends=True)
    good = [row for row in rows if row["error_type"] is None]
    assert rows[-1]["error_type"] == "unreadable-file"
    expected = [json.loads(line)["text"] for line in lines]
    positions = column(rows, "position")
    assert positions == sorted(set(positions))
    if damage == "flipped":
        # Before a checksum is reached a flipped byte may show as other text.
        assert column(good, "content")[:1000] == expected[:1000]
    else:
        assert rows[-1]["position"] == sum(map(len, lines[: len(rows) - 1]))
        assert column(good, "content") == expected[: len(good)]
        assert len(good) == len(rows) - 1 > 5_000
    if damage == "garbage-after":
        assert len(good) == 20_000


@pytest.mark.parametrize("kind", COMPRESS)
def test_any_truncation_is_noticed(tmp_path: Path, kind: str) -> None:
    packed = COMPRESS[kind](documents(3))
    for end in range(1, len(packed)):
        (tmp_path / f"a.jsonl.{kind}").write_bytes(packed[:end])
        assert read(tmp_path)[-1]["error_type"] == "unreadable-file"


def test_padding_after_gz_and_skippable_zst_frames_are_no_damage(tmp_path: Path) -> None:
    data = documents(2)
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"user"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data) + b"\0" * 512)
    (tmp_path / "b.jsonl.zst").write_bytes(skippable + COMPRESS["zst"](data) + skippable)
    assert column(read(tmp_path), "error_type") == [None] * 4


# --- files that cannot be read


def test_a_file_without_permission_is_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (tmp_path / name).write_bytes(b'{"text": "x"}\n')
    original = read_stream.storage.open_read

    def denied(path: str) -> Any:
        if path.endswith("b.jsonl"):
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(read_stream.storage, "open_read", denied)
    rows = read(tmp_path)
    assert column(rows, "error_type") == [None, "unreadable-file", None]
    assert rows[1]["error_message"] == "Permission denied"


def test_a_file_that_has_gone_is_an_error_not_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x"}\n')
    config = InputConfig(inputs=(str(path),))
    layout = splits.plan_layout(config)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl"):
        list(readers.read_split(layout.splits[0], layout.sources, config))


def test_a_store_that_does_not_answer_is_an_error_not_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_answer(path: str) -> Any:
        raise TimeoutError("no answer")

    monkeypatch.setattr(read_stream.storage, "open_read", no_answer)
    source = splits.Source("s3://bucket/a.jsonl", "a.jsonl", 10, "1", "jsonl")
    split = splits.Split(0, (splits.Piece(0, 0, 10),))
    with pytest.raises(TimeoutError):
        list(readers.read_split(split, [source], InputConfig(inputs=("s3://bucket/a.jsonl",))))


def test_real_corpora_lose_nothing(shared_corpora: Path) -> None:
    path = shared_corpora / "zh_csl_dev.jsonl"
    config = InputConfig(inputs=(str(path),))
    expected = [json.loads(line) for line in path.read_bytes().splitlines()]
    for split_size in (50_000, "auto"):
        layout = splits.plan_layout(config, split_size)
        tables = [
            pa.Table.from_batches(
                readers.read_split(split, layout.sources, config),
                schemas.read_schema(),
            )
            for split in layout.splits
        ]
        table = pa.concat_tables(tables)
        assert table["error_type"].null_count == table.num_rows
        assert table["doc_id"].to_pylist() == [document["id"] for document in expected]
        assert table["content"].to_pylist() == [
            read_rows.make_content(document.get("title"), document["text"]) for document in expected
        ]
        assert os.path.basename(table["source"][0].as_py()) == "zh_csl_dev.jsonl"
