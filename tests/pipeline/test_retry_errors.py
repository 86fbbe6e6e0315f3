"""`lexbeam retry-errors`: the rows of errors/ lead to the input, and are read again after a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import (
    ORBIT,
    TEA,
    good_documents,
    read_dataset,
    read_manifest,
    write_jsonl,
)

BROKEN = {"invalid-json": '{"id": "broken", "text": ', "empty-text": '{"id": "empty", "text": ""}'}


@pytest.fixture
def failed(lexbeam, tmp_path) -> Path:
    """A run over two files, one of which has a broken line and an empty text."""
    write_jsonl(tmp_path / "in" / "good.jsonl", [{"id": "x", "text": ORBIT}, {"text": TEA}])
    lines = [json.dumps(entry, ensure_ascii=False) for entry in good_documents()]
    lines[1:1] = BROKEN.values()
    lines.append(json.dumps({"text": ORBIT + " A document without an id."}))
    (tmp_path / "in" / "bad.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = ["run", "--input", tmp_path / "in", "--output", tmp_path / "out", "--run_id", "r"]
    result = lexbeam(*arguments, "--features", "tfidf,textrank", "--keep_text")
    assert result.code == 0, result.err
    run = tmp_path / "out" / "runs" / "r"
    assert read_dataset(run, "errors").num_rows == 2
    return run


def mend(run: Path, replacements: dict[str, str]) -> None:
    """Change the lines that the errors of a run lead to: by source and position."""
    by_type = {row["error_type"]: row for row in read_dataset(run, "errors").to_pylist()}
    for error_type, text in replacements.items():
        # The mended line is longer, so that what stands behind it moves.
        row = by_type[error_type]
        path = run.parent.parent.parent / "in" / row["source"]
        data = path.read_bytes()
        old = BROKEN[error_type].encode()
        start = data.index(old)
        mended = json.dumps({"id": row["doc_id"] or "broken", "text": text}, ensure_ascii=False)
        path.write_bytes(data[:start] + mended.encode() + data[start + len(old) :])


def documents(run: Path) -> dict[str, dict[str, Any]]:
    return {row["doc_id"]: row for row in read_dataset(run, "documents").to_pylist()}


def test_errors_say_where_the_document_stands(failed, tmp_path):
    for row in read_dataset(failed, "errors").to_pylist():
        data = (tmp_path / "in" / row["source"]).read_bytes()
        assert data[row["position"] :].startswith(BROKEN[row["error_type"]].encode())


def test_what_was_mended_makes_a_run_of_its_own(lexbeam, failed, tmp_path):
    mend(failed, {"invalid-json": "The mended probe orbits.", "empty-text": TEA + "茶"})
    result = lexbeam("retry-errors", failed, "--run_id", "again")
    assert result.code == 0, result.err
    again = tmp_path / "out" / "runs" / "again"
    found = documents(again)
    assert set(found) == {"broken", "empty"}
    assert not read_dataset(again, "errors").num_rows
    assert found["broken"]["text"] == "The mended probe orbits."
    assert {row["source"] for row in found.values()} == {"bad.jsonl"}
    manifest = read_manifest(again)
    assert manifest["identity"]["retry_of"] == "r"
    assert manifest["model_source"] == str(failed / "model")
    assert lexbeam("verify", again).code == 0
    # The run that everybody reads is still the latest one.
    assert json.loads((tmp_path / "out" / "latest.json").read_text()) == {"run_id": "r"}
    assert "complete already" in lexbeam("retry-errors", failed, "--run_id", "again").err


def test_the_features_are_those_of_a_transform(lexbeam, failed, tmp_path):
    mend(failed, {"invalid-json": "The mended probe orbits.", "empty-text": TEA})
    assert lexbeam("retry-errors", failed, "--run_id", "again").code == 0
    source = write_jsonl(tmp_path / "one.jsonl", [{"id": "empty", "text": TEA}])
    other = tmp_path / "other"
    result = lexbeam("transform", "--input", source, "--model", failed, "--output", other,
                     "--run_id", "t")  # fmt: skip
    assert result.code == 0, result.err
    mine = documents(tmp_path / "out" / "runs" / "again")["empty"]
    theirs = documents(other / "runs" / "t")["empty"]
    for column in ("keywords_tfidf", "keywords_textrank", "keywords", "num_terms"):
        assert mine[column] == theirs[column], column


def test_what_is_still_wrong_is_an_error_again(lexbeam, failed, tmp_path):
    mend(failed, {"empty-text": TEA})
    result = lexbeam("retry-errors", failed, "--run_id", "again", "--output", tmp_path / "else")
    assert result.code == 0, result.err
    again = tmp_path / "else" / "runs" / "again"
    assert set(documents(again)) == {"empty"}
    (error,) = read_dataset(again, "errors").to_pylist()
    assert error["error_type"] == "invalid-json"


def test_of_an_output_folder_the_latest_run_is_retried(lexbeam, failed, tmp_path):
    mend(failed, {"empty-text": TEA})
    assert lexbeam("retry-errors", tmp_path / "out", "--run_id", "again").code == 0
    assert set(documents(tmp_path / "out" / "runs" / "again")) == {"empty"}


def test_a_run_without_errors_is_wrong_usage(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    assert lexbeam("run", "--input", source, "--output", tmp_path / "out",
                   "--features", "tfidf").code == 0  # fmt: skip
    result = lexbeam("retry-errors", tmp_path / "out")
    assert result.code == 2
    assert "has no errors" in result.err


def test_a_file_that_is_gone_is_named(lexbeam, failed, tmp_path):
    (tmp_path / "in" / "bad.jsonl").unlink()
    result = lexbeam("retry-errors", failed)
    assert result.code == 2
    assert "bad.jsonl has gone" in result.err


def test_a_fit_is_not_retried(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [*good_documents(), {"id": "e", "text": ""}])
    assert lexbeam("fit", "--input", source, "--output", tmp_path / "out",
                   "--features", "tfidf").code == 0  # fmt: skip
    result = lexbeam("retry-errors", tmp_path / "out")
    assert result.code == 2
    assert "wrote no documents" in result.err
