"""Runs one Beam pipeline, on the runner that the options name."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.job import utils as job_utils
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from lexbeam.pipeline.beam_arguments import IN_PROCESS_RUNNERS, resource_hint_options
from lexbeam.pipeline.errors import UsageError
from lexbeam.transforms import threads

# Bare DirectRunner may switch to another runner without a word; in process it is this one.
IN_PROCESS = "FnApiRunner"

Build = Callable[[beam.Pipeline], object]


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Beam's options; in process where no other runner is named."""
    options = PipelineOptions(list(beam_args))
    standard = options.view_as(StandardOptions)
    if standard.runner in IN_PROCESS_RUNNERS:
        standard.runner = IN_PROCESS
    workers = options.view_as(WorkerOptions)
    if workers.default_sdk_harness_log_level is None:
        workers.default_sdk_harness_log_level = "ERROR"
    return options


def runner_name(beam_args: Sequence[str]) -> str:
    """The runner that the job runs on."""
    return str(pipeline_options(beam_args).view_as(StandardOptions).runner)


def run_pipeline(
    build: Build, beam_args: Sequence[str], label: str, hints: Sequence[str] = ()
) -> None:
    """Build and run one pipeline; returns when it is done, raises where it failed.

    Args:
        build: adds its transforms.
        beam_args: Beam's options.
        label: names the job.
        hints: what its workers must have, as `min_ram=16GiB`; for runners elsewhere.
    """
    options = pipeline_options([*beam_args, *resource_hint_options(hints)])
    # Before the pipeline is made, which copies the options.
    label_of_job(options, label)
    in_process = options.view_as(StandardOptions).runner == IN_PROCESS
    run_with(build, options, in_process_runner(options) if in_process else None)


def run_with(
    build: Build,
    options: PipelineOptions,
    runner: PipelineRunner | None,
    on_start: Callable[[PipelineResult], None] = lambda result: None,
) -> None:
    """Build and run one pipeline on a runner, or on that of the options where it is None.

    `on_start` gets what the runner says of it once it has been submitted.
    """
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    result = pipeline.run()
    try:
        on_start(result)
        state = result.wait_until_finish()
    except BaseException:
        # Else a runner elsewhere would go on without us.
        with contextlib.suppress(Exception):
            result.cancel()
        raise
    if state is not None and str(state) not in ("DONE", "PipelineState.DONE"):
        raise RuntimeError(f"the pipeline ended as {state}")


def in_process_runner(options: PipelineOptions) -> FnApiRunner:
    """Beam's runner in this process; its worker processes, if any, get the log level too."""
    level = options.view_as(WorkerOptions).default_sdk_harness_log_level
    name = "beam:option:default_sdk_harness_log_level:v1"
    provision = beam_provision_api_pb2.ProvisionInfo(
        retrieval_token="unused", pipeline_options=job_utils.dict_to_struct({name: level})
    )
    return FnApiRunner(provision_info=ExtendedProvisionInfo(provision))


def label_of_job(options: PipelineOptions, label: str) -> None:
    """Give the job a name that says which stage it is, unless the user named it."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    cloud = options.view_as(GoogleCloudOptions)
    if not cloud.job_name:
        cloud.job_name = f"lexbeam-{label}-{os.getpid()}"


def share_cores(beam_args: Sequence[str]) -> None:
    """Tell worker processes of this host how many of them share its cores."""
    direct = pipeline_options(beam_args).view_as(DirectOptions)
    workers = direct.direct_num_workers if direct.direct_running_mode == "multi_processing" else 1
    os.environ[threads.WORKERS_PER_HOST] = str(workers or os.cpu_count() or 1)


def check_runner(beam_args: Sequence[str]) -> None:
    """Raise UsageError for options or a runner that Beam refuses, before anything is written."""
    from apache_beam.runners.runner import create_runner

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            pipeline_options(beam_args).get_all_options()
            name = runner_name(beam_args)
    except SystemExit as error:  # of Beam's own parser, which prints its whole usage first
        raise UsageError(f"Beam: {said.getvalue().strip().splitlines()[-1]}") from error
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner {name}: {error}") from error
