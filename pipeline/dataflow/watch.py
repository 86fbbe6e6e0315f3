"""Looks after a job that runs on Dataflow: its state, and whether files come."""

from __future__ import annotations

from contextlib import suppress

from apache_beam.runners.runner import PipelineResult
from google.api_core.exceptions import GoogleAPICallError

from lexbeam.pipeline import supervised
from lexbeam.pipeline.watch import Watch
from lexbeam.transforms import storage

# Each look lists the run's files.
_SECONDS_BETWEEN_LOOKS = 30.0


class DataflowWatch(Watch):
    """Looks at a job until it is closed.

    Args:
        result: what the runner knows of the job.
        run_path: of its run; files that are committed there show that the job goes on.
    """

    def __init__(self, result: PipelineResult, run_path: str) -> None:
        super().__init__("Dataflow: submitted")
        self._result = result
        self._run_path = run_path
        self._seen: tuple[str, int] | None = None

    def look(self) -> None:
        """Look every half minute."""
        before = 0
        with suppress(OSError):
            before = self._num_committed()
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            # Beam polls too, in another thread, and says what goes wrong with the service.
            with suppress(OSError, GoogleAPICallError):
                seen = (str(self._result.state), self._num_committed())
                self.note = f"Dataflow: {seen[0].lower()}, {seen[1] - before} files"
                if seen != self._seen:
                    self._seen = seen
                    supervised.sign_of_life()

    def _num_committed(self) -> int:
        return len(storage.list_tree(self._run_path))
