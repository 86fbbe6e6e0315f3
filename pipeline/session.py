"""Where the pipelines of a job run, one after the other: Flink, Dataflow, or any other runner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Protocol

from lexbeam.pipeline import launch
from lexbeam.pipeline.dataflow.job_options import is_dataflow
from lexbeam.pipeline.flink import job_options
from lexbeam.pipeline.runs import RunDir


class Session(Protocol):
    """Runs the pipelines of a job."""

    def run(self, build: launch.Build, label: str, hints: Sequence[str] = ()) -> None:
        """Run one pipeline to its end; raises where it failed.

        Args:
            build: adds its transforms.
            label: names its job.
            hints: what its workers must have, as `min_ram=16GiB`.
        """

    def note(self) -> str:
        """What the runner says of the pipeline that runs now, for the progress line."""


class BeamSession:
    """On a runner of which Beam knows all that there is to know."""

    def __init__(self, beam_args: Sequence[str]) -> None:
        self._beam_args = beam_args

    def run(self, build: launch.Build, label: str, hints: Sequence[str] = ()) -> None:
        """Run one pipeline to its end; raises where it failed."""
        launch.run_pipeline(build, self._beam_args, label, hints)

    def note(self) -> str:
        """Nothing."""
        return ""


def check_runner(beam_args: Sequence[str]) -> None:
    """Whether the job's runner can be had, before anything is written.

    Raises UsageError for options or a runner that Beam refuses, ConfigError for a Flink cluster
    that the job cannot run on, and for packages that Dataflow needs.
    """
    if is_dataflow(beam_args):
        from lexbeam.pipeline.dataflow.session import check_dataflow

        check_dataflow()
    launch.check_runner(beam_args)
    if job_options.master_of(beam_args) is not None:
        from lexbeam.pipeline.flink.session import check_flink

        check_flink(beam_args)


@contextmanager
def open_session(beam_args: Sequence[str], run: RunDir) -> Iterator[Session]:
    """The session of a run, closed when the body ends."""
    if is_dataflow(beam_args):
        from lexbeam.pipeline.dataflow.session import DataflowSession

        yield DataflowSession(beam_args, run)
        return
    if job_options.master_of(beam_args) is None:
        yield BeamSession(beam_args)
        return
    from lexbeam.pipeline.flink.session import FlinkSession

    with closing(FlinkSession(beam_args, run)) as session:
        yield session
