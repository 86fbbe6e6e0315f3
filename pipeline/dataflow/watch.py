"""Looks after a job that runs on Dataflow: its state, and whether files come."""

from __future__ import annotations

import threading
from contextlib import suppress

from apache_beam.runners.runner import PipelineResult
from google.api_core.exceptions import GoogleAPICallError

from lexbeam.pipeline import supervised
from lexbeam.transforms import storage

# Each look lists the run's files.
_SECONDS_BETWEEN_LOOKS = 30.0


class DataflowWatch:
    """Looks at a job until it is closed.

    Args:
        result: what the runner knows of the job.
        run_path: of its run; files that are committed there show that the job goes on.

    Attributes:
        note: how far the job is, for the progress line.
    """

    def __init__(self, result: PipelineResult, run_path: str) -> None:
        self.note = "Dataflow: submitted"
        self._result = result
        self._run_path = run_path
        self._seen: tuple[str, int] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def _look(self) -> None:
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
