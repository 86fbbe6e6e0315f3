"""Runs the command line inside the test process, and reads what it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lexbeam.pipeline import quiet
from lexbeam.pipeline.cli import main

TEXT_FEATURES = "tfidf,textrank,lda"


@dataclass(frozen=True)
class Result:
    """What a command gave back."""

    code: int
    out: str
    err: str


Lexbeam = Callable[..., Result]


@pytest.fixture
def lexbeam(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lexbeam:
    """`lexbeam(*arguments)`: exit code, standard output and standard error."""
    # pytest turns warnings into errors; the command line must not switch that off again.
    monkeypatch.setattr(quiet, "quiet_libraries", lambda verbose: None)

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        try:
            # The job in this process, where a test can reach into it.
            code = main([str(argument) for argument in arguments], supervise=False)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def write_jsonl(path: Path, documents: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def only_run(output: Path) -> Path:
    """The one run of an output folder."""
    (run,) = (output / "runs").iterdir()
    return run


def read_dataset(run: Path, name: str) -> pa.Table:
    """All parts of a dataset, in order."""
    parts = sorted((run / name).glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest."""
    return dict(json.loads((run / "manifest.json").read_text(encoding="utf-8")))


def content_of(run: Path) -> dict[str, str]:
    """SHA-256 of every published file; the plan alone may differ, by its times."""
    files = {entry["path"]: entry["sha256"] for entry in read_manifest(run)["files"]}
    del files["plan.json"]
    return files


def terms_of(keywords: Sequence[dict[str, Any]]) -> list[str]:
    """The terms of a keyword list."""
    return [keyword["term"] for keyword in keywords]


TEA = "乌龙茶的发酵程度介于绿茶和红茶之间，茶叶的香气随发酵加深而变化。水温越高，茶汤越浓。"
ORBIT = "The probe entered orbit around the planet. Its telescope mapped the orbit of each moon."
RAIL = "Engineers welded the track. The train crossed the new bridge, and the track held well."


def good_documents() -> list[dict[str, Any]]:
    """Four documents that every job accepts."""
    return [
        {"id": "tea", "title": "乌龙茶", "text": TEA},
        {"id": "orbit", "title": "In orbit", "text": ORBIT},
        {"id": "rail", "title": "Track and bridge", "text": RAIL},
        {"id": "tea-2", "text": TEA + "泡茶的水温和茶叶的品质都很重要。"},
    ]
