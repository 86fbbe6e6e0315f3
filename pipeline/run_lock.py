"""One process works on a run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lexbeam.pipeline.runs import RunDir


class RunBusyError(RuntimeError):
    """Another process is working on the run."""


def is_busy(run: RunDir) -> bool:
    """Whether another process is working on the run."""
    try:
        with run_lock(run):
            return False
    except RunBusyError:
        return True


@contextmanager
def run_lock(run: RunDir) -> Iterator[None]:
    """Hold the run while the body runs; raises RunBusyError where another process does.

    The operating system frees the lock of a process that dies. Runs on object stores are not
    locked: there two drivers do the same work, and each file and the manifest has one winner.
    """
    if "://" in run.path or os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(run.file(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusyError(f"another process is working on run {run.run_id}") from error
        yield
    finally:
        os.close(descriptor)
