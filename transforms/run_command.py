"""A command that a worker runs, in a process of its own."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence

import apache_beam as beam

_logger = logging.getLogger(__name__)


class RunCommandDoFn(beam.DoFn):  # type: ignore[misc]
    """Runs a command; its lines are logged, and an exit code that is not 0 is an error."""

    def process(self, command: Sequence[str]) -> None:
        last = ""
        with subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = line.strip() or last
                # Runners hide what is less than a warning, unless they are told otherwise.
                _logger.warning("%s", line.rstrip())
        if process.returncode != 0:
            raise RuntimeError(f"exit code {process.returncode}, and last of all: {last}")


class RunCommand(beam.PTransform):  # type: ignore[misc]
    """Runs one command on some worker; a worker that dies over it is the runner's to replace."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__()
        self._command = list(command)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Command" >> beam.Create([self._command], reshuffle=False)
            | "Run" >> beam.ParDo(RunCommandDoFn())
        )
