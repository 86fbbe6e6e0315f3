"""`--metrics_file`: how the last job went, for the textfile collector of Prometheus' node exporter.

Written once at the end of every job that was launched, also of one that failed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lexbeam.models.config import require
from lexbeam.pipeline.errors import EXIT_DONE
from lexbeam.pipeline.runs import read_json
from lexbeam.pipeline.supervisor import Outcome
from lexbeam.transforms import local_files, storage

_LAST_SUCCESS = "lexbeam_last_success_timestamp_seconds"


def check_metrics_file(path: str) -> None:
    """Raise ConfigError unless the file can be written."""
    folder = os.path.dirname(os.path.abspath(path))
    require(path.endswith(".prom"), "metrics_file", path, "must end with .prom")
    require(os.path.isdir(folder), "metrics_file", path, f"{folder} is no folder")
    require(os.access(folder, os.W_OK), "metrics_file", path, f"{folder} cannot be written")


def write_metrics(path: str, command: str, outcome: Outcome, seconds: float) -> None:
    """Replace the file at once.

    Args:
        path: of the file.
        command: `run`, `fit` or `transform`.
        outcome: how the job ended.
        seconds: wall time of the job.

    Raises:
        OSError: the file cannot be written.
    """
    now = time.time()
    last_success = now if outcome.code == EXIT_DONE else _earlier_success(path)
    gauges = [*_of_job(command, outcome, seconds, now)]
    if last_success is not None:
        gauges.append((_LAST_SUCCESS, "When a job last succeeded.", {}, last_success))
    if outcome.code == EXIT_DONE and outcome.run is not None:
        summary = storage.join(outcome.run, "summary.json")
        # A training has none.
        gauges += _of_run(read_json(summary)) if storage.exists(summary) else []
    local_files.replace("".join(_lines(gauges)).encode(), os.path.abspath(path))


Gauge = tuple[str, str, Mapping[str, str], float]
"""Name, help, labels and value."""


def _of_job(command: str, outcome: Outcome, seconds: float, now: float) -> Iterator[Gauge]:
    labels = {"command": command}
    yield "lexbeam_exit_code", "Exit code of the last job.", labels, outcome.code
    yield "lexbeam_end_timestamp_seconds", "When the last job ended.", labels, now
    yield "lexbeam_duration_seconds", "Wall time of the last job.", labels, seconds
    yield "lexbeam_restarts", "How often its processes died.", labels, outcome.restarts


def _of_run(summary: Mapping[str, Any]) -> Iterator[Gauge]:
    documents = "Documents of the last run, by what became of them."
    for state, count in summary["documents"].items():
        if isinstance(count, int):
            yield "lexbeam_documents", documents, {"state": state}, count
    for name, label in (("by_language", "language"), ("by_reason", "reason")):
        for value, count in summary["documents"].get(name, {}).items():
            help_text = f"Documents of the last run, by {label}."
            yield f"lexbeam_documents_{name}", help_text, {label: value}, count
    yield "lexbeam_terms", "Terms of the vocabulary.", {}, summary["terms"]
    yield "lexbeam_topics", "Topics of the LDA.", {}, summary["topics"]
    for stage in summary["stages"]:
        labels = {"stage": stage["stage"]}
        yield "lexbeam_stage_duration_seconds", "Wall time of a stage.", labels, stage["seconds"]


def _lines(gauges: list[Gauge]) -> Iterator[str]:
    """The text format; samples of one name stand together, below its help and type."""
    for name in dict.fromkeys(gauge[0] for gauge in gauges):
        samples = [gauge for gauge in gauges if gauge[0] == name]
        yield f"# HELP {name} {samples[0][1]}\n# TYPE {name} gauge\n"
        for _, _, labels, value in samples:
            pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{name}{'{' + pairs + '}' if pairs else ''} {value!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _earlier_success(path: str) -> float | None:
    """When a job last succeeded, as the file that is there says."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.search(rf"^{_LAST_SUCCESS} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else None
