"""The job's side of `lexbeam.pipeline.supervisor`: it says what it is doing, and ends with it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lexbeam.pipeline.errors import EXIT_WORKER_DIED
from lexbeam.transforms import local_files

# Set by the supervisor: a folder for what is said, and a pipe that closes when it is gone.
FOLDER, PIPE = "LEXBEAM_SUPERVISOR_FOLDER", "LEXBEAM_SUPERVISOR_PIPE"
STATUS, SIGNS_OF_LIFE = "status.json", "alive"
# The thread of Beam's that waits for a worker process, and what it says when one has died.
_WORKER_THREAD, _WORKER_DIED = "run_worker", "Worker subprocess exited"

_said: dict[str, Any] = {}


def is_supervised() -> bool:
    """Whether this process is the job of a supervisor."""
    return PIPE in os.environ


def begin() -> None:
    """End with the supervisor from now on, and where a worker process dies that Beam waits for."""
    pipe = int(os.environ[PIPE])
    os.set_inheritable(pipe, False)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    threading.excepthook = _on_thread_exception
    # Only the supervisor sends it. Ignored is what a shell's `command &` hands down.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_with(pipe: int) -> None:
    # Nothing is ever written to the pipe: it is at its end when the supervisor has gone.
    while os.read(pipe, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _on_thread_exception(error: threading.ExceptHookArgs) -> None:
    """As Python does; but a worker process that died would leave Beam waiting for ever."""
    threading.__excepthook__(error)
    is_worker = error.thread is not None and error.thread.name == _WORKER_THREAD
    if is_worker and _WORKER_DIED in str(error.exc_value):
        sys.stderr.flush()
        os._exit(EXIT_WORKER_DIED)


def say(**values: Any) -> None:
    """Tell the supervisor, if there is one, which `run` this is and how its `stage` goes."""
    if not is_supervised():
        return
    _said.update(values)
    path = Path(os.environ[FOLDER], STATUS)
    try:
        local_files.replace(json.dumps(_said).encode(), str(path))
    except OSError:
        # As where the disk is full: the job has more to say of that.
        return


@contextmanager
def stage(name: str, counts: str) -> Iterator[None]:
    """Say that a stage runs, and which file its progress is counted in."""
    say(stage=name, counts=counts)
    try:
        yield
    finally:
        say(stage=None, counts=None)


def sign_of_life() -> None:
    """Tell the supervisor that something goes on that shows nowhere else."""
    if is_supervised():
        Path(os.environ[FOLDER], SIGNS_OF_LIFE).touch()
