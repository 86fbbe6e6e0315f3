"""Where the pipelines of a job run, one after the other: on Flink, or on any other runner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Protocol

from lexbeam.pipeline import launch
from lexbeam.pipeline.flink import job_options
from lexbeam.pipeline.runs import RunDir


class Session(Protocol):
    """Runs the pipelines of a job."""

    def run(self, build: launch.Build, label: str) -> None:
        """Run one pipeline to its end; raises where it failed."""

    def note(self) -> str:
        """What the runner says of the pipeline that runs now, for the progress line."""


class BeamSession:
    """On a runner of which Beam knows all that there is to know."""

    def __init__(self, beam_args: Sequence[str]) -> None:
        self._beam_args = beam_args

    def run(self, build: launch.Build, label: str) -> None:
        """Run one pipeline to its end; raises where it failed."""
        launch.run_pipeline(build, self._beam_args, label)

    def note(self) -> str:
        """Nothing."""
        return ""


def check_runner(beam_args: Sequence[str]) -> None:
    """Whether the job's runner can be had, before anything is written.

    Raises UsageError for options or a runner that Beam refuses, ConfigError for a Flink cluster
    that the job cannot run on.
    """
    launch.check_runner(beam_args)
    if job_options.master_of(beam_args) is not None:
        from lexbeam.pipeline.flink.session import check_flink

        check_flink(beam_args)


@contextmanager
def open_session(beam_args: Sequence[str], run: RunDir) -> Iterator[Session]:
    """The session of a run, closed when the body ends."""
    if job_options.master_of(beam_args) is None:
        yield BeamSession(beam_args)
        return
    from lexbeam.pipeline.flink.session import FlinkSession

    with closing(FlinkSession(beam_args, run)) as session:
        yield session
