"""A job's pipelines on Dataflow, one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import launch, log
from lexbeam.pipeline.causes import root_cause
from lexbeam.pipeline.dataflow import job_options
from lexbeam.pipeline.dataflow.watch import DataflowWatch
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.runs import RunDir
from lexbeam.transforms.splits import SourceChanged

_CONSOLE = "https://console.cloud.google.com/dataflow/jobs"
_SECONDS_TO_CANCEL = 600.0
_SECONDS_BETWEEN_LOOKS = 5.0


class DataflowSession:
    """Submits a run's pipelines, and cancels what must not go on.

    Args:
        beam_args: Beam's options.
        run: the run; its jobs have its name, and there is one driver of a run at a time.
    """

    def __init__(self, beam_args: Sequence[str], run: RunDir) -> None:
        self._beam_args = list(beam_args)
        self._run = run
        self._watch: DataflowWatch | None = None

    def note(self) -> str:
        """Where the pipeline is that runs now."""
        return self._watch.note if self._watch else ""

    def run(self, build: launch.Build, label: str, hints: Sequence[str] = ()) -> None:
        """Run one pipeline to its end.

        Raises JobError where it failed, with what Dataflow says about it.
        """
        from apache_beam.runners.dataflow import dataflow_runner
        from apache_beam.runners.dataflow.internal import apiclient

        name = job_options.job_name(self._beam_args, label, self._run.path, self._run.run_id)
        options = launch.pipeline_options(job_options.completed(self._beam_args, name, hints))
        try:
            _cancel_leftover(options, name)
            launch.run_with(build, options, None, self._started)
        except apiclient.DataflowJobAlreadyExistsError as error:
            raise JobError(f"{error}; another driver of this run may be at work") from error
        except dataflow_runner.DataflowRuntimeException as error:
            cause = root_cause(str(error))
            if SourceChanged.__name__ in cause:
                raise RuntimeError(cause) from error
            raise JobError(
                f"the Dataflow job failed: {cause}\n"
                "what was finished is kept, the same command resumes"
            ) from error
        finally:
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    def _started(self, result: PipelineResult) -> None:
        cloud = result._options.view_as(GoogleCloudOptions)
        url = f"{_CONSOLE}/{cloud.region}/{result.job_id()}?project={cloud.project}"
        log.write("info", "dataflow-job", f"Dataflow job {cloud.job_name}: {url}")
        self._watch = DataflowWatch(result, self._run.path)
        self._watch.start()


def _cancel_leftover(options: PipelineOptions, name: str) -> None:
    """A job of this run whose driver has died would do the same work, and hold its name."""
    from apache_beam.runners.dataflow.internal import apiclient

    client = apiclient.DataflowApplicationClient(options)
    for job_id in _living_jobs(client, options, name):
        text = f"cancelling job {job_id} of this run, whose driver has died"
        log.write("warning", "dataflow", text)
        client.modify_job_state(job_id, "JOB_STATE_CANCELLED")
        deadline = time.monotonic() + _SECONDS_TO_CANCEL
        while client.get_job(job_id).current_state.name not in job_options.ENDED:
            if time.monotonic() > deadline:
                raise JobError(f"Dataflow does not end job {job_id}, which has been cancelled")
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _living_jobs(client: Any, options: PipelineOptions, name: str) -> list[str]:
    """Ids of the jobs of a name that have not ended.

    Beam's own `job_id_for_name` knows none that still waits for its workers, and does not end
    where there is none.
    """
    from google.cloud import dataflow

    cloud = options.view_as(GoogleCloudOptions)
    request = dataflow.ListJobsRequest(
        project_id=cloud.project,
        location=cloud.region,
        filter=dataflow.ListJobsRequest.Filter.ACTIVE,
    )
    return [
        job.id
        for job in client._jobs_client.list_jobs(request)
        if job.name == name and job.current_state.name not in job_options.ENDED
    ]


def check_dataflow() -> None:
    """Raise ConfigError where the packages for Dataflow are not installed."""
    try:
        import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
    except ImportError as error:
        reason = f"needs packages for Google Cloud: pip install 'lexbeam[gcp]' ({error})"
        raise ConfigError("runner", "DataflowRunner", reason) from error
