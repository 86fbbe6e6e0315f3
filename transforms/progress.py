"""Progress reports of workers: throttled counts in an append-only file.

The driver names the file in an environment variable before it starts a pipeline; a worker that
cannot see that file (on another host) reports nothing. Workers never print.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

PROGRESS_FILE = "LEXBEAM_PROGRESS_FILE"
_SECONDS_BETWEEN_REPORTS = 0.2


class _Reporter:
    """Adds counts up and appends them to the file a few times a second at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last = 0.0

    def add(self, stage: str, count: int) -> None:
        with self._lock:
            self._counts[stage] += count
            if time.monotonic() - self._last >= _SECONDS_BETWEEN_REPORTS:
                self._write()

    def flush(self) -> None:
        with self._lock:
            self._write()

    def _write(self) -> None:
        path = os.environ.get(PROGRESS_FILE)
        lines = "".join(f"{stage}\t{count}\n" for stage, count in self._counts.items() if count)
        self._counts.clear()
        self._last = time.monotonic()
        if not path or not lines:
            return
        try:
            # One write of a short line to a file opened for appending is not torn apart.
            with open(path, "ab", buffering=0) as file:
                file.write(lines.encode())
        except OSError:
            # Progress is a courtesy: a full disk or a missing folder shows elsewhere.
            return


_REPORTER = _Reporter()


def report(stage: str, count: int) -> None:
    """Count `count` more units of work of a stage as done."""
    _REPORTER.add(stage, count)


def flush() -> None:
    """Write what has not been reported yet."""
    _REPORTER.flush()


def read_counts(path: str) -> Counter[str]:
    """Units of work done so far, by stage, from the reports in the file."""
    counts: Counter[str] = Counter()
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return counts
    for line in lines:
        stage, _, count = line.partition("\t")
        if count.isdigit():
            counts[stage] += int(count)
    return counts
