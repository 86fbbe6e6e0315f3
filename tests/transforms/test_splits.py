"""What is found for --input, how it is cut, and that cuts depend on one file alone."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models.config import ConfigError
from lexbeam.transforms import readers, sources, splits, storage
from lexbeam.transforms.splits import InputConfig, Layout, Piece, Source, Split

MB = 1 << 20


def write(folder: Path, name: str, text: str = '{"text": "a"}\n') -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def listed(*inputs: object, notes: list[str] | None = None, **options: object) -> list[str]:
    config = InputConfig(inputs=tuple(map(str, inputs)), **options)  # type: ignore[arg-type]
    return [source.relative for source in splits.list_sources(config, notes)]


def source(name: str, size: int, format: str = "jsonl", compression: str = "") -> Source:
    return Source(f"/{name}", name, size, "1", format, compression)


def cuts(*found: Source, size: int | str = "auto") -> list[list[tuple[str, int, int]]]:
    return [
        [(found[piece.source].relative, piece.start, piece.stop) for piece in split.pieces]
        for split in splits.cut_splits(found, size)
    ]


# --- configuration


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"inputs": ()}, "input", ()),
        ({"inputs": ("a", " ")}, "input", " "),
        ({"text_key": ""}, "text_key", ""),
        ({"id_key": "text"}, "id_key", "text"),
        ({"id_scope": "folder"}, "id_scope", "folder"),
        ({"limit": 0}, "limit", 0),
        ({"keep_columns": ("a", "a")}, "keep_columns", "a"),
        ({"keep_columns": ("doc_id",)}, "keep_columns", "doc_id"),
        ({"keep_columns": ("text",)}, "keep_columns", "text"),
        ({"keep_columns": ("tokens",)}, "keep_columns", "tokens"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], option: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        InputConfig(**{"inputs": ("a.jsonl",), **options})  # type: ignore[arg-type]
    assert (caught.value.option, caught.value.value) == (option, value)


# --- sources


def test_order_of_inputs_then_of_paths(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/10.jsonl", "a/x.txt", "a/sub/y.csv.gz"):
        write(tmp_path, name, "text\nword\n")
    assert listed(tmp_path / "b/*.jsonl", tmp_path / "a/x.txt") == [
        "b/10.jsonl",
        "b/2.jsonl",
        "a/x.txt",
    ]
    assert listed(tmp_path) == ["a/sub/y.csv.gz", "a/x.txt", "b/10.jsonl", "b/2.jsonl"]


def test_a_file_matched_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    write(tmp_path, "b.jsonl")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    assert listed(tmp_path / "b.jsonl", tmp_path / "*.jsonl", tmp_path) == ["b.jsonl", "a.jsonl"]


def test_formats_by_extension_in_any_case(tmp_path: Path) -> None:
    names = ["a.JSONL", "b.ndjson.GZ", "c.txt.zst", "d.tsv.bz2"]
    for name in names:
        write(tmp_path, name)
    config = InputConfig(inputs=(str(tmp_path),))
    found = splits.list_sources(config)
    assert [(each.format, each.compression) for each in found] == [
        ("jsonl", ""),
        ("jsonl", "gz"),
        ("txt", "zst"),
        ("tsv", "bz2"),
    ]
    found = splits.list_sources(InputConfig(inputs=(str(tmp_path),), text_lines=True))
    assert found[2].format == "lines"


def test_other_formats_in_a_folder_are_noted(tmp_path: Path) -> None:
    for name in ("a.jsonl", "README.md", "_SUCCESS", ".hidden.jsonl"):
        write(tmp_path, name)
    notes: list[str] = []
    assert listed(tmp_path / "*", notes=notes) == ["a.jsonl"]
    assert len(notes) == 1
    assert "left out 2 of other formats" in notes[0]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("none*.jsonl", "matches no file"),
        ("none.jsonl", "matches no file"),
        ("a.md", "unsupported extension; supported are .jsonl, .ndjson, .parquet"),
        ("*.md", "no file with a supported extension"),
        ("empty", "no file with a supported extension"),
    ],
)
def test_inputs_that_give_nothing(tmp_path: Path, pattern: str, reason: str) -> None:
    write(tmp_path, "a.md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=reason) as caught:
        listed(tmp_path / pattern)
    assert caught.value.option == "input"
    assert caught.value.value == str(tmp_path / pattern)


@pytest.mark.parametrize("pattern", ["**/*.jsonl", ""])
def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    write(tmp_path, "a.jsonl")
    write(tmp_path, "closed/b.jsonl")
    original = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ConfigError, match="cannot be listed: .*closed"):
        listed(tmp_path / pattern)


def test_unknown_scheme_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match="ftp:// is not supported"):
        listed("ftp://host/a.jsonl")


def test_a_name_with_glob_characters_is_taken_literally_where_it_exists(tmp_path: Path) -> None:
    write(tmp_path, "a[1].jsonl")
    write(tmp_path, "a1.jsonl")
    assert listed(tmp_path / "a[1].jsonl") == ["a[1].jsonl"]


def test_names_follow_from_the_inputs_not_from_what_they_match(tmp_path: Path) -> None:
    write(tmp_path, "2025/a.jsonl")
    before = listed(tmp_path / "**/*.jsonl")
    write(tmp_path, "2026/b.jsonl")
    assert before == ["2025/a.jsonl"]
    assert listed(tmp_path / "**/*.jsonl") == ["2025/a.jsonl", "2026/b.jsonl"]


def test_relative_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/b.jsonl")
    monkeypatch.chdir(tmp_path / "a")
    config = InputConfig(inputs=("../a/*.jsonl",))
    (found,) = splits.list_sources(config)
    assert found.path == str(tmp_path / "a/b.jsonl")
    assert found.relative == "b.jsonl"


@pytest.mark.parametrize(
    ("inputs", "root"),
    [
        (["/x/a/1.jsonl"], "/x/a/"),
        (["/x/a/1.jsonl", "/x/ab/*.jsonl"], "/x/"),
        (["s3://bucket/a/*.txt", "s3://bucket/b/c/*.txt"], "s3://bucket/"),
        (["/x/a.jsonl", "s3://bucket/b.jsonl"], ""),
        (["/a.jsonl", "/b/c.jsonl"], "/"),
    ],
)
def test_common_root(inputs: list[str], root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "exists", lambda path: not storage.is_glob(path))
    monkeypatch.setattr(storage, "is_folder", lambda path: False)
    assert splits.common_root(inputs) == root


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.jsonl")).write_text("")
    with pytest.raises(ConfigError, match="not UTF-8"):
        listed(tmp_path)


def test_urls() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    storage.put_if_absent(f"{root}/x/a.jsonl", b'{"text": "a"}\n')
    storage.put_if_absent(f"{root}/y/b.txt", b"word")
    config = InputConfig(inputs=(f"{root}/**/*.jsonl", f"{root}/y/b.txt"))
    layout = splits.plan_layout(config)
    assert [each.relative for each in layout.sources] == ["x/a.jsonl", "y/b.txt"]
    splits.check_unchanged(layout.sources[0])
    rows = list(readers.read_split(layout.splits[0], layout.sources, config))
    assert rows[0]["content"].to_pylist() == ["a", "word"]


def test_parquet_and_csv_without_the_text_column_name_their_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "body": ["x"]}), tmp_path / "a.parquet")
    write(tmp_path, "a.csv", "id,body\n1,x\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(ConfigError, match=r"no such column; it has: id, body") as caught:
            listed(tmp_path / name)
        assert caught.value.option == "text_key"
        assert listed(tmp_path / name, text_key="body") == [name]


@pytest.mark.parametrize(
    ("columns", "option"),
    [
        ({"text": [1, 2]}, "text_key"),
        ({"text": ["a"], "title": [True]}, "title_key"),
        ({"text": ["a"], "id": [1.5]}, "id_key"),
    ],
)
def test_parquet_columns_of_a_wrong_type(
    tmp_path: Path, columns: dict[str, list[object]], option: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="the column holds") as caught:
        listed(tmp_path)
    assert caught.value.option == option


def test_csv_headers_that_are_none(tmp_path: Path) -> None:
    for text, reason in (("text,a,a\n", "stand twice: a"), ('"text\nx', "no header row")):
        write(tmp_path, "a.csv", text)
        with pytest.raises(ConfigError, match=reason):
            listed(tmp_path)


def test_files_that_cannot_be_read_are_left_to_the_reader(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.csv.gz", "c.csv", "d.jsonl"):
        (tmp_path / name).write_bytes(b"\x1f\x8bxx" if name.endswith("gz") else b"")
    config = InputConfig(inputs=(str(tmp_path),))
    layout = splits.plan_layout(config)
    assert [each.relative for each in layout.sources] == [
        "a.parquet",
        "b.csv.gz",
        "c.csv",
        "d.jsonl",
    ]
    rows = [
        row
        for split in layout.splits
        for batch in readers.read_split(split, layout.sources, config)
        for row in batch.to_pylist()
    ]
    assert [(row["source"], row["error_type"]) for row in rows] == [
        ("a.parquet", "unreadable-file"),
        ("b.csv.gz", "unreadable-file"),
    ]


def test_check_unchanged(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", "1\n")
    (found,) = splits.list_sources(InputConfig(inputs=(str(path),)))
    splits.check_unchanged(found)
    path.write_text("12\n")
    with pytest.raises(sources.SourceChanged, match=r"a\.jsonl: 2 bytes have become 3"):
        splits.check_unchanged(found)
    time.sleep(0.02)  # a file system's clock ticks
    path.write_text("2\n")
    with pytest.raises(sources.SourceChanged, match=r"a\.jsonl: the file was written again"):
        splits.check_unchanged(found)
    path.unlink()
    with pytest.raises(sources.SourceChanged, match=r"a\.jsonl: the file has gone"):
        splits.check_unchanged(found)


# --- cuts


def test_large_files_are_cut_at_multiples_of_the_size() -> None:
    assert cuts(source("a", 40 * MB)) == [
        [("a", 0, 16 * MB)],
        [("a", 16 * MB, 32 * MB)],
        [("a", 32 * MB, 40 * MB)],
    ]
    assert cuts(source("a", 10), size=4) == cuts(source("a", 10), size="4")
    assert cuts(source("a", 10), size=4) == [[("a", 0, 4)], [("a", 4, 8)], [("a", 8, 10)]]


def test_what_cannot_be_cut_is_one_piece() -> None:
    kinds = [("csv", ""), ("tsv", ""), ("txt", ""), ("jsonl", "gz"), ("lines", "zst")]
    found = [source(str(i), 40 * MB, *kind) for i, kind in enumerate(kinds)]
    assert cuts(*found) == [[(each.relative, 0, splits.END)] for each in found]


def test_small_files_are_grouped_in_order() -> None:
    found = [source("a", 6), source("b", 4), source("c", 1, "txt"), source("d", 20), source("e", 1)]
    assert cuts(*found, size=10) == [
        [("a", 0, 6), ("b", 0, 4)],
        [("c", 0, splits.END)],
        [("d", 0, 10)],
        [("d", 10, 20)],
        [("e", 0, 1)],
    ]


def test_at_most_a_thousand_files_a_split() -> None:
    found = [source(str(index), 1, "txt") for index in range(2500)]
    assert [len(pieces) for pieces in cuts(*found)] == [1000, 1000, 500]


def test_row_groups_are_grouped_by_bytes() -> None:
    groups = tuple((10, size) for size in (5, 5, 5, 50, 1, 1))
    found = Source("/p", "p", 99, "1", "parquet", "", groups)
    assert cuts(found, size=10) == [[("p", 0, 2)], [("p", 2, 3)], [("p", 3, 4)], [("p", 4, 6)]]


def test_nothing_to_read_is_one_empty_split() -> None:
    assert splits.cut_splits([]) == [Split(0, ())]
    assert splits.cut_splits([source("a", 0)]) == [Split(0, ())]


def test_auto_doubles_the_size_above_fifty_thousand_splits() -> None:
    assert len(cuts(source("a", 50_000 * 16 * MB))) == 50_000
    assert len(cuts(source("a", 50_001 * 16 * MB))) == 25_001


@pytest.mark.parametrize("size", [0, -1, "x", "1.5", "", True])
def test_wrong_split_sizes(size: int | str) -> None:
    with pytest.raises(ConfigError, match="--split_size"):
        splits.cut_splits([source("a", 10)], size)


def test_too_many_splits() -> None:
    with pytest.raises(ConfigError, match="makes over 1,000,000 splits"):
        splits.cut_splits([source("a", 1 << 40)], 1)


def test_large_files_that_cannot_be_cut_are_noted() -> None:
    notes: list[str] = []
    row_group = Source("/p", "p", 99, "1", "parquet", "", ((10, 2 * 10**9),))
    found = [source("a", 2 * 10**9), source("b", 2 * 10**9, "csv"), row_group]
    splits.cut_splits(found, "auto", notes)
    assert [note.split(":")[0] for note in notes] == ["b", "p"]


sizes = st.lists(st.tuples(st.integers(0, 100), st.sampled_from(["jsonl", "csv"])), max_size=8)


@settings(deadline=None)
@given(sizes, st.integers(1, 40), st.integers(0, 100))
def test_a_file_added_at_the_end_leaves_earlier_splits(
    files: list[tuple[int, str]], size: int, added: int
) -> None:
    found = [source(str(index), *file) for index, file in enumerate(files)]
    before = splits.cut_splits(found, size)
    after = splits.cut_splits([*found, source("new", added)], size)
    assert before[:-1] == after[: len(before) - 1]
    assert before[-1].pieces == after[len(before) - 1].pieces[: len(before[-1].pieces)]


@settings(deadline=None)
@given(sizes, st.integers(1, 40))
def test_pieces_cover_every_file_once_and_in_order(files: list[tuple[int, str]], size: int) -> None:
    found = [source(str(index), *file) for index, file in enumerate(files)]
    done = splits.cut_splits(found, size)
    assert [split.index for split in done] == list(range(len(done)))
    pieces = [piece for split in done for piece in split.pieces]
    for index, each in enumerate(found):
        own = [(piece.start, piece.stop) for piece in pieces if piece.source == index]
        if each.format == "csv":
            assert own == [(0, splits.END)]
        else:
            assert own == [(at, min(at + size, each.size)) for at in range(0, each.size, size)]
    assert [piece.source for piece in pieces] == sorted(piece.source for piece in pieces)


# --- limit and plan


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 8, 9, 100])
@pytest.mark.parametrize("split_size", [1, 20, "auto"])
def test_limit_keeps_the_first_rows(tmp_path: Path, limit: int, split_size: int | str) -> None:
    write(tmp_path, "a.jsonl", '{"text": "1"}\n\nbad\n{"text": "3"}\n')
    pq.write_table(pa.table({"text": ["4", "5"]}), tmp_path / "b.parquet", row_group_size=1)
    write(tmp_path, "c.csv", "text\n6\n7\n8\n")
    everything = read_all(splits.plan_layout(InputConfig(inputs=(str(tmp_path),)), split_size))
    assert len(everything) == 8
    config = InputConfig(inputs=(str(tmp_path),), limit=limit)
    layout = splits.plan_layout(config, split_size)
    assert read_all(layout) == everything[:limit]


def read_all(layout: Layout) -> list[dict[str, object]]:
    return [
        row
        for split in layout.splits
        for batch in readers.read_split(split, layout.sources, layout.config)
        for row in batch.to_pylist()
    ]


def test_a_plan_survives_json(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"text": "1"}\n{"text": "2"}\n')
    pq.write_table(pa.table({"text": ["4", "5"]}), tmp_path / "b.parquet")
    config = InputConfig(inputs=(str(tmp_path),), keep_columns=("k",), limit=3)
    layout = splits.plan_layout(config, 14)
    assert layout.splits[-1].pieces == (Piece(1, 0, 1, 1),)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({**layout.to_json(), "other": 1}))
    loaded = splits.load_layout(str(plan))
    assert loaded == layout
    assert [each.relative for each in loaded.sources_of(0)] == ["a.jsonl"]
    assert read_all(loaded) == read_all(layout)
