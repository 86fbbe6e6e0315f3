"""Progress on stderr: a bar per stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lexbeam.pipeline import log, supervised
from lexbeam.transforms import progress

_BAR_WIDTH = 28
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_REDRAWS = 0.3


class ProgressView:
    """Draws what workers report.

    Attributes:
        seconds: wall seconds of every stage that has ended, by name.
    """

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._is_terminal = self._stream.isatty() and not log.is_json()
        self.seconds: dict[str, float] = {}

    def say(self, line: str, event: str = "note", **fields: Any) -> None:
        """A line, unless the user asked for quiet; the event and fields are for JSON."""
        self._unless_quiet(lambda: log.write("info", event, line, stream=self._stream, **fields))

    def _draw(self, text: str) -> None:
        """Characters without a line feed, for a terminal."""

        def draw() -> None:
            self._stream.write(text)
            self._stream.flush()

        self._unless_quiet(draw)

    def _unless_quiet(self, write: Callable[[], None]) -> None:
        if self._quiet:
            return
        try:
            write()
        except BrokenPipeError:
            # Whoever read the progress has gone (`| head`); the job goes on.
            self._quiet = True

    @contextmanager
    def stage(self, name: str, total: int | None, note: Callable[[], str] = str) -> Iterator[None]:
        """Show the progress of one stage while the body runs.

        Args:
            name: the stage's.
            total: how many documents it has; None where that is not known.
            note: gives what else there is to say of it.
        """
        started = time.monotonic()
        stop = threading.Event()
        with tempfile.TemporaryDirectory(prefix="lexbeam-progress-") as folder:
            path = str(Path(folder, "counts"))
            os.environ[progress.PROGRESS_FILE] = path
            watcher = threading.Thread(
                target=self._watch, args=(name, total, note, path, started, stop), daemon=True
            )
            watcher.start()
            succeeded = False
            try:
                with supervised.stage(name, path):
                    yield
                succeeded = True
            finally:
                progress.flush()
                stop.set()
                watcher.join()
                done = progress.read_counts(path)[name]
                os.environ.pop(progress.PROGRESS_FILE, None)
                self.seconds[name] = time.monotonic() - started
                self._end(name, done or total, self.seconds[name], succeeded)

    def _watch(
        self,
        name: str,
        total: int | None,
        note: Callable[[], str],
        path: str,
        started: float,
        stop: threading.Event,
    ) -> None:
        if self._quiet:
            return
        pause = _SECONDS_BETWEEN_REDRAWS if self._is_terminal else _SECONDS_BETWEEN_LINES
        while not stop.wait(pause):
            done = progress.read_counts(path)[name]
            seconds = time.monotonic() - started
            line = "  ".join(filter(None, [progress_line(name, done, total, seconds), note()]))
            if self._is_terminal:
                self._draw(f"\r\x1b[K{line}")
            else:
                fields = {"stage": name, "done": done, "total": total, "seconds": round(seconds, 3)}
                self.say(line, "progress", **fields)

    def _end(self, name: str, done: int | None, seconds: float, succeeded: bool) -> None:
        if self._quiet:
            return
        if self._is_terminal:
            self._draw("\r\x1b[K")
        outcome = (
            progress_line(name, done or 0, done, seconds) if succeeded else f"{name:<10} failed"
        )
        fields = {"stage": name, "done": done or 0, "seconds": round(seconds, 3)}
        self.say(outcome, "stage", **fields, succeeded=succeeded)


def progress_line(name: str, done: int, total: int | None, seconds: float) -> str:
    """`tokenize  [#####-----]  1,200 of 2,400  310/s  4 s`; without the bar in JSON."""
    parts = [name if log.is_json() else f"{name:<10}"]
    if total and not log.is_json():
        filled = min(_BAR_WIDTH, int(_BAR_WIDTH * done / total))
        parts.append(f"[{'#' * filled}{'-' * (_BAR_WIDTH - filled)}]")
    if done or total:
        parts.append(f"{done:,}" + (f" of {total:,}" if total and total != done else ""))
        if done and seconds > 0:
            parts.append(f"{done / seconds:,.0f}/s")
    parts.append(f"{seconds:.1f} s")
    return "  ".join(parts)
