"""One process works on a run at a time."""

from __future__ import annotations

import _thread
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lexbeam.pipeline.runs import RunDir
from lexbeam.transforms import storage
from lexbeam.transforms.leases import Lease, LeaseHeldError

# A job that was killed a moment ago may still be ending.
SECONDS_TO_WAIT = 5.0
_SECONDS_BETWEEN_TRIES = 0.1


class RunBusyError(RuntimeError):
    """Another process is working on the run."""


def is_busy(run: RunDir, wait: float | None = 0.0) -> bool:
    """Whether another process is working on the run, still after waiting as `run_lock` does."""
    try:
        with run_lock(run, wait):
            return False
    except RunBusyError:
        return True


@contextmanager
def run_lock(run: RunDir, wait: float | None = None) -> Iterator[None]:
    """Hold the run while the body runs; raises RunBusyError where another process does.

    On this machine the operating system frees the lock of a process that dies. On a store the lock
    is a lease, which a process that shows no life for a minute loses to the next one.

    wait: seconds to wait for another process to end, on this machine; None: SECONDS_TO_WAIT.
    """
    if not storage.is_local(run.path):
        with _lease(run):
            yield
        return
    with _file_lock(run, SECONDS_TO_WAIT if wait is None else wait):
        yield


@contextmanager
def _lease(run: RunDir) -> Iterator[None]:
    lost = False

    def on_lost() -> None:
        nonlocal lost
        lost = True
        _thread.interrupt_main()

    try:
        with Lease(run.file(".lock")).held(on_lost):
            yield
    except LeaseHeldError as error:
        raise RunBusyError(f"another process is working on run {run.run_id}") from error
    except KeyboardInterrupt:
        if lost:
            text = f"another process has taken over run {run.run_id}: this one showed no life"
            raise RunBusyError(text) from None
        raise


@contextmanager
def _file_lock(run: RunDir, wait: float) -> Iterator[None]:
    import fcntl

    descriptor = os.open(storage.local_path(run.file(".lock")), os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    text = f"another process is working on run {run.run_id}"
                    raise RunBusyError(text) from error
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield
    finally:
        os.close(descriptor)
