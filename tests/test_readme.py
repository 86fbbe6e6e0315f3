"""The README's snippets run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipeline.conftest import TEXT_FEATURES


@pytest.fixture(scope="module")
def folder_with_a_sample_run(tmp_path_factory) -> Path:
    from lexbeam.pipeline.cli import main

    folder = tmp_path_factory.mktemp("readme")
    arguments = ["run", "--quiet", "--input", str(ROOT / "examples" / "corpus")]
    arguments += ["--output", str(folder / "out" / "sample"), "--num_topics", "6"]
    assert main([*arguments, "--features", TEXT_FEATURES], supervise=False) == 0
    return folder


def snippet(language: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return found


def test_pandas(folder_with_a_sample_run, monkeypatch, capsys):
    monkeypatch.chdir(folder_with_a_sample_run)
    exec(compile(snippet("python"), "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "zh-tea-1" in shown
    assert "en-rail-1" in shown


def test_duckdb(folder_with_a_sample_run, monkeypatch):
    import duckdb

    monkeypatch.chdir(folder_with_a_sample_run)
    rows = duckdb.sql(snippet("sql")).fetchall()
    assert len(rows) == 10
    assert rows[0][1] >= rows[-1][1] >= 1


def test_datasets_and_pyarrow(folder_with_a_sample_run, tmp_path):
    import datasets
    import pyarrow.dataset

    parts = sorted(map(str, folder_with_a_sample_run.glob("out/sample/runs/*/documents/*.parquet")))
    loaded = datasets.load_dataset("parquet", data_files=parts, cache_dir=str(tmp_path))["train"]
    table = pyarrow.dataset.dataset(parts).to_table()
    assert loaded["doc_id"][:] == table["doc_id"].to_pylist()
    assert len(loaded) == 48


def test_every_test_that_the_docs_name_is_there():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:test_|Test)\w+\b(?!\.py)", text))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = set(re.findall(r"(?:def|class) (test_\w+|Test\w+)", "\n".join(sources)))
    assert len(named) > 25
    assert named <= there
