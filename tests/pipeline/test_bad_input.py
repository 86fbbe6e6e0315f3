"""Every kind of bad input: the good documents come out, the bad one stands in errors/."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.conftest import (
    TEXT_FEATURES,
    good_documents,
    only_run,
    read_dataset,
    read_manifest,
    write_jsonl,
)

GOOD_IDS = [document["id"] for document in good_documents()]


def good_lines() -> list[bytes]:
    return [json.dumps(document, ensure_ascii=False).encode() for document in good_documents()]


def run_text_job(lexbeam, tmp_path: Path, *options: str | Path) -> Path:
    """Run without BERT; returns the run, after checking that nothing was lost."""
    output = tmp_path / "out"
    result = lexbeam(
        "run", "--output", output, "--features", TEXT_FEATURES, "--num_topics", "2", *options
    )
    assert result.code == 0, result.err
    run = only_run(output)
    totals = read_manifest(run)["totals"]
    assert totals["documents_in"] == totals["documents_out"] + totals["documents_rejected"]
    assert lexbeam("verify", run).code == 0
    return run


BAD_LINES = {
    "invalid-utf8": b'{"id": "bad", "text": "caf\xe9 \xff"}',
    "invalid-json": b'{"id": "bad", "text": "unfinished',
    "not-an-object": b'["bad"]',
    "missing-text": b'{"id": "bad", "title": "no text"}',
    "text-not-a-string": b'{"id": "bad", "text": 42}',
    "empty-text": b'{"id": "bad", "text": " \\n\\t "}',
    "invalid-id": b'{"id": ["bad"], "text": "fine"}',
}


@pytest.mark.parametrize(("error_type", "line"), BAD_LINES.items(), ids=list(BAD_LINES))
def test_a_bad_line_costs_only_itself(lexbeam, tmp_path, error_type, line):
    lines = good_lines()
    lines.insert(2, line)
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path / "in.jsonl")
    assert read_dataset(run, "documents")["doc_id"].to_pylist() == GOOD_IDS
    (error,) = read_dataset(run, "errors").to_pylist()
    assert error["error_type"] == error_type
    assert error["stage"] == "read"
    assert error["source"] == "in.jsonl"
    assert error["position"] == len(lines[0]) + len(lines[1]) + 2
    assert error["message"]


def test_a_raw_nul_byte_is_invalid_json_and_an_escaped_one_is_text(lexbeam, tmp_path):
    lines = [
        *good_lines(),
        b'{"id": "raw", "text": "a\x00b"}',
        b'{"id": "nul", "text": "a\\u0000b c"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path / "in.jsonl", "--keep_text")
    documents = read_dataset(run, "documents")
    assert documents["doc_id"].to_pylist() == [*GOOD_IDS, "nul"]
    assert documents["text"].to_pylist()[-1] == "a\x00b c"
    assert read_dataset(run, "errors")["error_type"].to_pylist() == ["invalid-json"]


def test_the_later_document_of_an_id_is_rejected(lexbeam, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", good_documents())
    write_jsonl(
        tmp_path / "b.jsonl",
        [{"id": "orbit", "text": "Another orbit."}, {"id": "new", "text": RAIL}],
    )
    run = run_text_job(
        lexbeam, tmp_path, "--input", tmp_path / "a.jsonl", "--input", tmp_path / "b.jsonl"
    )
    assert read_dataset(run, "documents")["doc_id"].to_pylist() == [*GOOD_IDS, "new"]
    (error,) = read_dataset(run, "errors").to_pylist()
    assert (error["doc_id"], error["error_type"], error["source"]) == (
        "orbit",
        "duplicate-id",
        "b.jsonl",
    )
    assert error["stage"] == "corpus"
    assert "a.jsonl" in error["message"]
    # The rejected document is counted nowhere.
    terms = read_dataset(run, "terms")
    counts = dict(
        zip(terms["term"].to_pylist(), terms["document_frequency"].to_pylist(), strict=True)
    )
    assert "another" not in counts


def test_ids_unique_within_a_file_only(lexbeam, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", good_documents())
    write_jsonl(tmp_path / "b.jsonl", good_documents())
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path / "*.jsonl", "--id_scope", "file")
    ids = read_dataset(run, "documents")["doc_id"].to_pylist()
    assert ids == [f"{name}.jsonl:{doc_id}" for name in "ab" for doc_id in GOOD_IDS]


def test_ids_never_become_paths(lexbeam, tmp_path):
    ids = ["../../escape", "/etc/x", "a/../b", "..", "CON", "\u202e"]
    write_jsonl(tmp_path / "in.jsonl", [{"id": i, "text": RAIL} for i in ids])
    before = {path for path in tmp_path.rglob("*")}
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path / "in.jsonl")
    assert read_dataset(run, "documents")["doc_id"].to_pylist() == ids
    assert all(path.is_relative_to(tmp_path / "out") for path in set(tmp_path.rglob("*")) - before)


def test_documents_without_words_come_out(lexbeam, tmp_path):
    odd = [{"id": "dots", "text": "。。。！！？…… ---"}, {"id": "emoji", "text": "😀🎉👩‍👩‍👧 🚀"}]
    write_jsonl(tmp_path / "in.jsonl", good_documents() + odd)
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path / "in.jsonl")
    rows = {row["doc_id"]: row for row in read_dataset(run, "documents").to_pylist()}
    for name in ("dots", "emoji"):
        assert rows[name]["language"] == "other"
        assert rows[name]["num_terms"] == 0
        assert rows[name]["keywords_tfidf"] == rows[name]["keywords"] == rows[name]["topics"] == []


def test_many_scripts(lexbeam, tmp_path):
    scripts = {
        "traditional": ("烏龍茶的發酵程度介於綠茶和紅茶之間，茶葉的香氣隨發酵加深而變化。", "zh"),
        "japanese": ("このお茶は発酵の程度が緑茶と紅茶の間にあり、とても香りがよいです。", "other"),
        "korean": ("이 차는 발효 정도가 녹차와 홍차 사이에 있어 향이 좋습니다.", "other"),
        "russian": ("Этот чай занимает место между зелёным и чёрным чаем.", "other"),
        "mixed": ("这个 transformer 模型使用 attention 机制处理中文和 English 文本。", "zh"),
    }
    write_jsonl(
        tmp_path / "in.jsonl",
        good_documents() + [{"id": name, "text": text} for name, (text, _) in scripts.items()],
    )
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path / "in.jsonl")
    rows = {row["doc_id"]: row for row in read_dataset(run, "documents").to_pylist()}
    assert {name: rows[name]["language"] for name in scripts} == {
        name: language for name, (_, language) in scripts.items()
    }
    assert all(rows[name]["keywords"] for name in scripts)


def test_a_truncated_gz_gives_what_it_holds(lexbeam, tmp_path):
    lines = good_lines() * 200
    numbered = [line.replace(b'"id": "', b'"id": "%d-' % i) for i, line in enumerate(lines)]
    packed = gzip.compress(b"\n".join(numbered), compresslevel=1)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) * 2 // 3])
    write_jsonl(tmp_path / "good.jsonl", good_documents())
    run = run_text_job(
        lexbeam, tmp_path, "--input", tmp_path / "cut.jsonl.gz", "--input", tmp_path / "good.jsonl"
    )
    documents = read_dataset(run, "documents")
    from_cut = [s for s in documents["source"].to_pylist() if s == "cut.jsonl.gz"]
    assert 0 < len(from_cut) < len(numbered)
    errors = read_dataset(run, "errors").to_pylist()
    assert errors[-1]["error_type"] == "unreadable-file"
    assert errors[-1]["source"] == "cut.jsonl.gz"


def test_a_file_that_is_no_parquet_is_one_error(lexbeam, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not a Parquet file PAR1")
    write_jsonl(tmp_path / "good.jsonl", good_documents())
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path)
    assert read_dataset(run, "documents")["doc_id"].to_pylist() == GOOD_IDS
    (error,) = read_dataset(run, "errors").to_pylist()
    assert (error["source"], error["error_type"]) == ("broken.parquet", "unreadable-file")


def test_a_ten_megabyte_document(lexbeam, tmp_path):
    text = (TEA_LINE + "\n") * (10_000_000 // len((TEA_LINE + "\n").encode()))
    write_jsonl(tmp_path / "in.jsonl", [*good_documents(), {"id": "long", "text": text}])
    run = run_text_job(lexbeam, tmp_path, "--input", tmp_path / "in.jsonl")
    rows = read_dataset(run, "documents").to_pylist()
    assert [row["doc_id"] for row in rows] == [*GOOD_IDS, "long"]
    assert rows[-1]["num_chars"] == len(text)
    assert rows[-1]["keywords"]


TEA_LINE = (
    "茶叶发酵的程度决定茶汤的颜色，水温决定茶汤的浓度；the water temperature decides the taste."
)
RAIL = "Engineers welded the track. The train crossed the new bridge, and the track held well."


def test_an_extra_column_of_mixed_type_is_no_problem(lexbeam, tmp_path):
    values: list[Any] = [1, "two", None, {"three": [3]}]
    documents = [d | {"extra": v} for d, v in zip(good_documents(), values, strict=True)]
    write_jsonl(tmp_path / "in.jsonl", documents)
    run = run_text_job(
        lexbeam, tmp_path, "--input", tmp_path / "in.jsonl", "--keep_columns", "extra,absent"
    )
    table = read_dataset(run, "documents")
    assert table["extra"].to_pylist() == ["1", "two", None, '{"three":[3]}']
    assert table["absent"].to_pylist() == [None] * 4
    assert table.schema.names[-2:] == ["extra", "absent"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--input", "none/*.jsonl"], "none/*.jsonl"),
        (["--input", "in.jsonl", "--run_id", "../x"], "../x"),
        (["--input", "in.jsonl", "--run_id", "a/b"], "a/b"),
        (["--input", "in.jsonl", "--model_id", "../../etc"], "../../etc"),
        (["--input", "in.jsonl", "--model_id", "no/such/model/here"], "no/such/model/here"),
        (["--input", "wrong.parquet"], "body"),
        (["--input", "in.jsonl", "--user_dict", "missing.txt"], "missing.txt"),
        (["--input", "in.jsonl", "--backend", "torch", "--dtype", "int8"], "int8"),
        (["--input", "in.jsonl", "--keep_columns", "topics"], "topics"),
        (["--input", "in.jsonl", "--limit", "0"], "limit"),
    ],
)
def test_wrong_usage_is_found_before_anything_is_written(
    lexbeam, tmp_path, monkeypatch, options, named
):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", good_documents())
    pq.write_table(pa.table({"name": ["a"], "body": ["text"]}), tmp_path / "wrong.parquet")
    before = set(tmp_path.rglob("*"))
    result = lexbeam("run", "--output", tmp_path / "out", *options)
    assert result.code == 2, result.err
    assert named in result.err
    assert set(tmp_path.rglob("*")) == before


def test_an_output_that_cannot_be_written(lexbeam, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", good_documents())
    (tmp_path / "file").write_text("in the way")
    result = lexbeam(
        "run",
        "--input",
        tmp_path / "in.jsonl",
        "--output",
        tmp_path / "file",
        "--features",
        "tfidf",
    )
    assert result.code == 2
    assert "--output" in result.err


def test_a_corrupted_model_directory_is_named(lexbeam, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", good_documents())
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{not json")
    result = lexbeam(
        "run", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out", "--model_id", model
    )
    assert result.code == 2
    assert "config.json" in result.err
    assert not (tmp_path / "out").exists()


def test_too_many_rejected_documents_are_not_published(lexbeam, tmp_path):
    bad = [{"id": f"bad{i}", "text": ""} for i in range(11)]
    write_jsonl(tmp_path / "in.jsonl", good_documents() + bad)
    output = tmp_path / "out"
    arguments = ["run", "--input", tmp_path / "in.jsonl", "--output", output, "--features", "tfidf"]
    result = lexbeam(*arguments)
    assert result.code == 3
    assert "empty-text" in result.err
    assert not (output / "latest.json").exists()
    # The same job with a higher limit goes on from there.
    again = lexbeam(*arguments, "--max_error_fraction", "0.9")
    assert again.code == 0, again.err
    assert read_manifest(only_run(output))["totals"]["documents_rejected"] == 11


@pytest.mark.parametrize("option", ["--id_key", "--title_key"])
def test_a_column_that_was_named_must_be_there(lexbeam, tmp_path, option):
    pq.write_table(pa.table({"id": ["a"], "text": [RAIL]}), tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_text(f'id,text\na,"{RAIL}"\n')
    for name in ("in.parquet", "in.csv"):
        result = lexbeam(
            "run", "--input", tmp_path / name, "--output", tmp_path / "o", option, "nr"
        )
        assert result.code == 2
        assert f"{option} 'nr'" in result.err
        assert "it has: id, text" in result.err
