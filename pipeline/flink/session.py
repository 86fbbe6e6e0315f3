"""A job's pipelines on a Flink cluster, one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
)

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import launch, log
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.flink import job_options
from lexbeam.pipeline.flink.cluster import Cluster, problems, read_cluster
from lexbeam.pipeline.flink.job_server import (
    SharedJobServer,
    SharedServerRunner,
    set_job_server,
)
from lexbeam.pipeline.flink.jobs import cancel_jobs, cause_of_failure, living_jobs
from lexbeam.pipeline.flink.rest import FlinkError, FlinkRest
from lexbeam.pipeline.flink.watch import FlinkWatch
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.tables import count_of
from lexbeam.pipeline.workers.names import SEPARATOR
from lexbeam.transforms import storage
from lexbeam.transforms.splits import SourceChanged

_OPTION = "flink_master"


def check_flink(beam_args: Sequence[str]) -> None:
    """Look at the cluster that a job is to run on, and warn of what endangers it.

    Raises ConfigError where the job cannot run there.
    """
    master = job_options.master_of(beam_args)
    assert master is not None
    rest = FlinkRest(master)
    cluster = _cluster(rest, master)
    errors, warnings = problems(cluster)
    if errors:
        raise ConfigError(_OPTION, master, errors[0])
    for text in warnings + job_options.check_options(beam_args, cluster):
        log.write("warning", "flink-setting", f"Flink at {rest.url}: {text}")
    options = launch.pipeline_options(job_options.completed(beam_args, cluster))
    set_job_server(options, rest, cluster)


def _cluster(rest: FlinkRest, master: str) -> Cluster:
    try:
        return read_cluster(rest)
    except FlinkError as error:
        raise ConfigError(_OPTION, master, f"no Flink answers there: {error}") from error


class FlinkSession:
    """Submits a run's pipelines, watches them, and cancels what must not go on.

    Args:
        beam_args: Beam's options.
        run: the run; its jobs have its name, and there is one driver of a run at a time.
    """

    def __init__(self, beam_args: Sequence[str], run: RunDir) -> None:
        self._beam_args = list(beam_args)
        self._run = run
        self._master = job_options.master_of(beam_args) or ""
        self._rest = FlinkRest(self._master)
        # Of another output a run may have the same name.
        digest = hashlib.sha256(run.path.encode()).hexdigest()[:8]
        self._identity = f"{SEPARATOR}{digest}-{run.run_id}".lower()
        self._server: SharedJobServer | None = None
        self._watch: FlinkWatch | None = None

    def note(self) -> str:
        """How far the pipeline is that runs now."""
        return self._watch.note if self._watch else ""

    def run(self, build: launch.Build, label: str, hints: Sequence[str] = ()) -> None:
        """Run one pipeline to its end; Flink takes no hints.

        Raises JobError where it failed, with what Flink says about it.
        """
        self._cancel_leftovers()
        cluster = _cluster(self._rest, self._master)
        errors, _ = problems(cluster)
        if errors:
            raise JobError(f"Flink at {self._rest.url}: {errors[0]}")
        options = launch.pipeline_options(job_options.completed(self._beam_args, cluster))
        set_job_server(options, self._rest, cluster)
        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = f"{cloud.job_name or 'lexbeam'}-{label}{self._identity}"
        runner = None
        if not options.view_as(PortableOptions).job_endpoint:
            self._server = self._server or SharedJobServer(options)
            runner = SharedServerRunner(self._server)
        self._run_watched(build, options, runner)

    def _run_watched(
        self, build: launch.Build, options: PipelineOptions, runner: SharedServerRunner | None
    ) -> None:
        name = options.view_as(GoogleCloudOptions).job_name
        self._watch = FlinkWatch(self._rest, name, self._num_committed, _warn)
        self._watch.start()
        try:
            launch.run_with(build, options, runner)
        except JobError:
            raise
        except RuntimeError as error:
            cause = cause_of_failure(self._rest, name)
            if SourceChanged.__name__ in (cause or ""):
                raise RuntimeError(cause) from error
            raise JobError(
                f"the Flink job failed: {cause or error}\n"
                "what was finished is kept, the same command resumes"
            ) from error
        finally:
            self._watch.close()
            self._watch = None
            # The job server says that a job is cancelled while it goes on.
            self._cancel(name)

    def _cancel_leftovers(self) -> None:
        """Jobs of this run whose driver has died would hold slots, and do the same work."""
        try:
            left = living_jobs(self._rest, self._identity)
        except FlinkError as error:
            raise JobError(f"no Flink answers any more: {error}") from error
        if left:
            _warn(f"cancelling {count_of(len(left), 'job')} of this run, whose driver has died")
            self._cancel(self._identity)

    def _cancel(self, ending: str) -> None:
        """Cancel what lives of jobs whose names end so."""
        try:
            cancel_jobs(self._rest, ending)
        except FlinkError as error:
            _warn(f"a job may go on, it cannot be cancelled: {error}")

    def _num_committed(self) -> int:
        return len(storage.list_tree(self._run.path))

    def close(self) -> None:
        """End the job server."""
        if self._server is not None:
            self._server.close()


def _warn(text: str) -> None:
    log.write("warning", "flink", text)
