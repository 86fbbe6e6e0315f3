"""What looks after a job that runs elsewhere, beside the driver that waits for it."""

from __future__ import annotations

import threading


class Watch:
    """A thread that looks at a job until it is closed; see `look`.

    Attributes:
        note: how far the job is, for the progress line.
    """

    def __init__(self, note: str) -> None:
        self.note = note
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.look, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look again and again until `_stop` is set."""
        raise NotImplementedError
