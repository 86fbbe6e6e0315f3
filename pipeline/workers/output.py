"""What workers print, handed on without anybody ever waiting for whoever reads it."""

from __future__ import annotations

import queue
import threading
from typing import IO, TextIO

_LINES_HELD = 10_000
_LONGEST_LINE = 1 << 16
_SECONDS_TO_WRITE = 2.0


class Output:
    """A stream that takes what it is given at once, and loses lines where its reader is too slow.

    Args:
        stream: where a thread writes the lines, as fast as these are read.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_LINES_HELD)
        self._num_lost = 0
        self._thread = threading.Thread(target=self._write_all, name="output", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Take a text, or lose it."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._num_lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread writes what there is."""

    def copy(self, source: IO[bytes], prefix: str) -> None:
        """Take all lines of a pipe, each behind the prefix, until it ends; closes it."""
        with source:
            while line := source.readline(_LONGEST_LINE):
                self.write(f"{prefix}{line.decode(errors='replace').rstrip()}\n")

    def close(self) -> None:
        """Write what is left, for a moment."""
        try:
            self._lines.put(None, timeout=_SECONDS_TO_WRITE)
        except queue.Full:
            return
        self._thread.join(_SECONDS_TO_WRITE)

    def _write_all(self) -> None:
        while (text := self._lines.get()) is not None:
            lost, self._num_lost = self._num_lost, 0
            try:
                if lost:
                    self._stream.write(f"({lost} lines were lost: nobody read them in time)\n")
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                # The reader has gone. The pool has not.
                continue
