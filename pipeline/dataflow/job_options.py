"""Beam's options of a job on Dataflow: what must be there, and lexbeam's choice of the rest."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence

from lexbeam.models.config import ConfigError, require
from lexbeam.pipeline.beam_arguments import resource_hint_options, value_of, values_of
from lexbeam.pipeline.options import RunSettings
from lexbeam.transforms import storage

_REQUIRED = {
    "project": "the project that the jobs belong to",
    "region": "the region that they run in, as us-central1",
    "temp_location": "a gs:// URL for what Dataflow keeps meanwhile",
    "sdk_container_image": "the workers' image, as deploy/Dockerfile builds it",
}
# Dataflow takes it for granted that this one is set where gcloud is.
_REGION_VARIABLE = "CLOUDSDK_COMPUTE_REGION"
# A process a worker: the kernels have threads of their own, and a model is loaded once.
_ONE_PROCESS = "no_use_multiple_sdk_containers"
# Splits that the process works on at a time: one may wait for the store while the other computes.
_SPLITS_AT_A_TIME = 2
_MOST_CHARACTERS = 63
ENDED = ("JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_UPDATED")


def is_dataflow(beam_args: Sequence[str]) -> bool:
    """Whether a job runs on Dataflow."""
    return (value_of(beam_args, "runner") or "").lower() in ("dataflowrunner", "dataflow")


def check_options(settings: RunSettings, inputs: Sequence[str], model: str | None) -> None:
    """Raise ConfigError for what Dataflow cannot do, before anything is launched.

    Args:
        settings: how the job is carried out.
        inputs: what `--input` names.
        model: of a transform, what `--model` names; else None.
    """
    for name, meaning in _REQUIRED.items():
        value = value_of(settings.beam_args, name)
        if name == "region":
            value = value or os.environ.get(_REGION_VARIABLE)
        require(bool(value), name, value or "", f"DataflowRunner needs it: {meaning}")
    for name in ("temp_location", "staging_location"):
        value = value_of(settings.beam_args, name) or "gs://"
        require(value.startswith("gs://"), name, value, "must be a gs:// URL")
    reason = "later stages are made of what earlier ones have written; see lexbeam plan"
    dry_run = value_of(settings.beam_args, "dry_run")
    require(dry_run is None, "dry_run", dry_run or "", reason)
    paths = [("output", settings.output), *(("input", path) for path in inputs)]
    for option, path in paths + ([("model", model)] if model else []):
        reason = "workers of Dataflow cannot reach it: name a gs:// or s3:// URL"
        require(not storage.is_local(path), option, path, reason)


def completed(beam_args: Sequence[str], name: str, hints: Sequence[str]) -> list[str]:
    """The options of one pipeline.

    Args:
        beam_args: those that were given.
        name: of the job.
        hints: resource hints of all its steps, as `min_ram=16GB`.
    """
    chosen = [f"--job_name={name}", *resource_hint_options(hints)]
    given = values_of(beam_args, "experiments") + values_of(beam_args, "experiment")
    experiments = {each for value in given for each in value.split(",")}
    if not experiments & {_ONE_PROCESS, "use_multiple_sdk_containers"}:
        chosen.append(f"--experiments={_ONE_PROCESS}")
    if value_of(beam_args, "number_of_worker_harness_threads") is None:
        chosen.append(f"--number_of_worker_harness_threads={_SPLITS_AT_A_TIME}")
    return [*beam_args, *chosen]


def job_name(beam_args: Sequence[str], stage: str, run_path: str, run_id: str) -> str:
    """A name that is the same for every attempt at a stage of a run, and no other's.

    Dataflow refuses a second living job of one name, so that two drivers do not do the same work.
    """
    begin = value_of(beam_args, "job_name") or "lexbeam"
    digest = hashlib.sha256(run_path.encode()).hexdigest()[:8]
    name = re.sub(r"[^a-z0-9]+", "-", f"{begin}-{stage}-{digest}-{run_id}".lower())
    if not re.match("[a-z]", name):
        raise ConfigError("job_name", begin, "must begin with a letter")
    return name[:_MOST_CHARACTERS].strip("-")
