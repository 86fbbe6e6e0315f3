"""Run directories: where each file of a run lies."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from lexbeam.models.config import ConfigError
from lexbeam.pipeline.errors import UsageError
from lexbeam.transforms import storage

DATASETS = ("documents", "terms", "topics", "errors")


@dataclass(frozen=True)
class RunDir:
    """One run: OUT/runs/RUN_ID.

    Attributes:
        output: OUT, a local folder or URL.
        run_id: the run's name.
        folder: of a run that was moved or copied elsewhere; else None.
    """

    output: str
    run_id: str
    folder: str | None = None

    @property
    def path(self) -> str:
        """The run's folder."""
        return self.folder or storage.join(self.output, "runs", self.run_id)

    def file(self, *names: str) -> str:
        """Path of something inside the run's folder."""
        return storage.join(self.path, *names)

    def relative(self, path: str) -> str:
        """The path of one of the run's files as seen from its folder."""
        return path[len(self.path) :].lstrip("/")

    def parts(self, dataset: str) -> list[str]:
        """The Parquet files of a dataset, in order."""
        return [
            file.path
            for file in storage.list_tree(self.file(dataset))
            if file.path.endswith(".parquet")
        ]

    @property
    def plan(self) -> str:
        """Written once, at the start."""
        return self.file("plan.json")

    @property
    def manifest(self) -> str:
        """The commit: a run is complete when this is there."""
        return self.file("manifest.json")

    @property
    def summary(self) -> str:
        """What the run has come to, for machines; made of the manifest."""
        return self.file("summary.json")

    @property
    def model(self) -> str:
        """The corpus models."""
        return self.file("model")

    @property
    def intermediate(self) -> str:
        """Parts of the inner stages."""
        return self.file("intermediate")

    @property
    def reuse(self) -> str:
        """What later runs may take over."""
        return self.file("reuse")

    @property
    def attempts(self) -> str:
        """Marks of splits that are being worked on, by stage."""
        return self.file("intermediate", "attempts")

    @property
    def died(self) -> str:
        """Records of documents that made a process die."""
        return self.file("intermediate", "died")

    def is_complete(self) -> bool:
        """Whether the run has been published."""
        return storage.exists(self.manifest)

    def is_finished(self) -> bool:
        """Whether nothing is left to do, after publishing either."""
        return storage.exists(self.file("_SUCCESS"))


def read_json(path: str) -> dict[str, Any]:
    """A JSON object; raises UsageError naming the file where it holds none."""
    try:
        value = json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path} is not there") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no JSON object")
    return value


def json_bytes(value: Any) -> bytes:
    """Readable JSON; the same value gives the same bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_json(option: str, path: str, value: Any) -> None:
    """Write what an option asks for; raises ConfigError naming it where the file cannot be."""
    try:
        storage.put_overwrite(path, json_bytes(value))
    except (OSError, ValueError) as error:
        raise ConfigError(option, path, f"cannot be written: {error}") from error


def latest_run(output: str) -> RunDir:
    """The run that OUT/latest.json names; raises UsageError where there is none."""
    path = storage.join(output, "latest.json")
    run_id = read_json(path).get("run_id")
    if not isinstance(run_id, str) or "/" in run_id or run_id in ("", ".", ".."):
        raise UsageError(f"{path} names no run")
    return RunDir(output, run_id)


def created_of_latest(output: str) -> str:
    """When the run that latest.json names was begun; empty where there is none."""
    try:
        return str(read_json(latest_run(output).manifest)["created"])
    except (UsageError, KeyError):
        return ""


def absolute(path: str) -> str:
    """A local path from the root, so that it means the same in every process; URLs as they are."""
    return os.path.abspath(storage.local_path(path)) if storage.is_local(path) else path.rstrip("/")


def find_run(path: str) -> RunDir:
    """A run by its own folder (OUT/runs/RUN_ID), or the latest one of an output folder.

    Raises UsageError where the path is neither.
    """
    folder = absolute(path)
    if storage.exists(storage.join(folder, "latest.json")):
        return latest_run(folder)
    parent, _, run_id = folder.rpartition("/")
    output, _, runs = parent.rpartition("/")
    run = RunDir(output or "/", run_id, None if runs == "runs" else folder)
    if not (storage.exists(run.plan) or storage.exists(run.manifest)):
        raise UsageError(f"{path} is neither a run (OUT/runs/RUN_ID) nor an output folder")
    return run
