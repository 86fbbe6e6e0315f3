"""What machines read of a job: JSON lines, summary.json, Prometheus metrics, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lexbeam.pipeline import metrics
from lexbeam.pipeline.options import wanted_log_format
from lexbeam.pipeline.supervisor import Outcome
from tests.conftest import ROOT
from tests.pipeline.conftest import good_documents, only_run, read_manifest, write_jsonl

SAMPLE = ROOT / "examples" / "corpus"


def shell(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def samples(path: Path) -> dict[tuple[str, str], float]:
    """Every sample of a metrics file by name and label values, read by Prometheus' own parser."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8"))
        for sample in family.samples
    }


def events(text: str) -> list[dict[str, Any]]:
    """Every line must be an object."""
    return [json.loads(line) for line in text.splitlines()]


class TestJson:
    def test_every_line_is_an_object(self, tmp_path):
        done = shell("run", "--input", SAMPLE, "--output", tmp_path, "--features", "tfidf",
                     "--log_format", "json")  # fmt: skip
        assert done.returncode == 0
        found = events(done.stderr)
        for event in found:
            assert set(event) >= {"time", "level", "event", "message"}
            assert "[#" not in event["message"]
        ended = [event["stage"] for event in found if event["event"] == "stage"]
        assert ended[0] == "tokenize"
        assert ended[-1] == "extract"
        assert all(event["succeeded"] for event in found if event["event"] == "stage")
        last = found[-1]
        assert last["event"] == "done"
        assert last["output"] == str(only_run(tmp_path))
        summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
        assert last["summary"] == summary

    @pytest.mark.parametrize("flag", [("--log_format", "json"), ("--log-format=json",)])
    def test_wrong_usage_is_an_object_too(self, tmp_path, flag):
        done = shell("run", "--input", "nowhere", "--output", tmp_path, *flag)
        assert done.returncode == 2
        (event,) = events(done.stderr)
        assert (event["level"], event["exit_code"]) == ("error", 2)
        assert "nowhere" in event["message"]

    def test_of_two_formats_the_last_counts(self):
        assert wanted_log_format(["--log_format", "json", "--log-format=text"]) == "text"
        assert wanted_log_format(["--log_format"]) == "text"

    def test_a_failure_carries_its_traceback(self, tmp_path):
        source = write_jsonl(tmp_path / "in.jsonl", good_documents())
        (tmp_path / "out").mkdir()
        # Where the tokens should go there is a file.
        blocked = tmp_path / "out" / "runs" / "night" / "intermediate"
        blocked.parent.mkdir(parents=True)
        blocked.write_text("in the way")
        done = shell("run", "--input", source, "--output", tmp_path / "out", "--run_id", "night",
                     "--features", "tfidf", "--log_format", "json")  # fmt: skip
        assert done.returncode == 1
        last = events(done.stderr)[-1]
        assert last["exit_code"] == 1
        assert "NotADirectoryError" in last["message"]
        assert "Traceback" in last["traceback"]


class TestSummary:
    def test_it_says_what_the_manifest_says(self, lexbeam, tmp_path):
        documents = [*good_documents(), {"id": "empty", "text": " "}]
        source = write_jsonl(tmp_path / "in.jsonl", documents)
        result = lexbeam("run", "--input", source, "--output", tmp_path / "out",
                         "--features", "tfidf,lda", "--num_topics", "2")  # fmt: skip
        assert result.code == 0, result.err
        run = only_run(tmp_path / "out")
        summary = json.loads((run / "summary.json").read_text())
        manifest = read_manifest(run)
        assert summary["documents"] == {
            "in": 5, "out": 4, "rejected": 1,
            "by_language": {"en": 2, "zh": 2}, "by_reason": {"empty-text": 1},
        }  # fmt: skip
        assert summary["terms"] == manifest["corpus_model"]["num_terms"]
        assert summary["topics"] == 2
        assert [entry["stage"] for entry in summary["stages"]][:2] == ["tokenize", "duplicates"]
        assert summary["run_id"] == run.name

    def test_it_is_made_again_where_it_is_missing(self, lexbeam, tmp_path):
        source = write_jsonl(tmp_path / "in.jsonl", good_documents())
        arguments = ["run", "--input", source, "--output", tmp_path / "out",
                     "--features", "tfidf", "--run_id", "night"]  # fmt: skip
        assert lexbeam(*arguments).code == 0
        run = only_run(tmp_path / "out")
        before = (run / "summary.json").read_bytes()
        (run / "summary.json").unlink()
        assert lexbeam(*arguments).code == 0
        assert (run / "summary.json").read_bytes() == before


class TestMetrics:
    def test_a_job_that_succeeds_and_one_that_does_not(self, tmp_path):
        path = tmp_path / "lexbeam.prom"
        job = ["run", "--output", tmp_path / "out", "--features", "tfidf", "--metrics_file", path]
        before = time.time()
        assert shell(*job, "--input", SAMPLE).returncode == 0
        found = samples(path)
        assert found["lexbeam_exit_code", "run"] == 0
        assert found["lexbeam_restarts", "run"] == 0
        assert found["lexbeam_duration_seconds", "run"] > 0
        assert found["lexbeam_documents", "out"] == 48
        assert found["lexbeam_documents", "rejected"] == 0
        assert found["lexbeam_documents_by_language", "zh"] == 24
        assert found["lexbeam_stage_duration_seconds", "tokenize"] > 0
        succeeded = found["lexbeam_last_success_timestamp_seconds", ""]
        assert before <= succeeded <= time.time()

        assert shell(*job, "--input", tmp_path / "nowhere").returncode == 2
        found = samples(path)
        assert found["lexbeam_exit_code", "run"] == 2
        assert found["lexbeam_last_success_timestamp_seconds", ""] == succeeded
        assert ("lexbeam_documents", "out") not in found

    def test_labels_are_escaped(self, tmp_path):
        path = tmp_path / "a.prom"
        summary = {
            "documents": {"in": 1, "by_reason": {'a "b" \\ c\nd': 1}},
            "terms": 1, "topics": 0, "stages": [],
        }  # fmt: skip
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        metrics.write_metrics(str(path), "run", Outcome(0, run=str(tmp_path)), 1.0)
        assert samples(path)["lexbeam_documents_by_reason", 'a "b" \\ c\nd'] == 1

    @pytest.mark.parametrize("name", ["m.txt", "missing/m.prom"])
    def test_a_file_that_cannot_be_is_found_before_anything_runs(self, tmp_path, name):
        done = shell("run", "--input", SAMPLE, "--output", tmp_path / "out",
                     "--metrics_file", tmp_path / name)  # fmt: skip
        assert done.returncode == 2
        assert "--metrics_file" in done.stderr
        assert not (tmp_path / "out").exists()
