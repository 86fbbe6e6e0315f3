"""The command line's first process: it starts the job as a child and stays beside it.

A job that dies (a document that crashes native code, a worker that is killed, no memory) is started
again and goes on from what is finished; one that hangs is killed first. Ctrl-C and SIGTERM are
handed on, and whoever kills this process ends the job as well. Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexbeam.pipeline import log
from lexbeam.pipeline.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_WORKER_DIED
from lexbeam.pipeline.supervised import FOLDER, PIPE, SIGNS_OF_LIFE, STATUS
from lexbeam.transforms import storage
from lexbeam.transforms.leases import HOLDER

# Deaths in a row, with nothing committed in between, after which the job is given up: a split is
# tried twice before its documents are tried one by one.
MAX_DEATHS = 3
SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LISTINGS = 30.0


class Job:
    """A child that carries out the job, the leader of its own session and group.

    Attributes:
        hung: whether it was killed since it made no progress.
        interrupts: how often the user asked for an end.
    """

    def __init__(self, arguments: Sequence[str], folder: str, holder: str) -> None:
        self.hung = False
        self.interrupts = 0
        self._folder = Path(folder)
        self._seen: Any = None
        self._changed = self._listed = time.monotonic()
        read_end, self._pipe = os.pipe()
        # -P: a folder `models` where the user stands is none of Python's business.
        command = [sys.executable, "-P", "-m", "lexbeam.pipeline.cli", *arguments]
        environment = os.environ | {FOLDER: folder, PIPE: str(read_end), HOLDER: holder}
        self._process = subprocess.Popen(
            command, env=environment, pass_fds=(read_end,), start_new_session=True
        )
        os.close(read_end)

    def status(self) -> dict[str, Any]:
        """What the job has said last: `run`, `run_id`, `stage` and `counts`."""
        try:
            return dict(json.loads((self._folder / STATUS).read_bytes()))
        except (OSError, ValueError):
            return {}

    def num_committed(self) -> int:
        """Files that the job's run holds, with those of earlier jobs."""
        run = self.status().get("run")
        return len(storage.list_tree(run)) if run else 0

    def wait(self, stall_timeout: float) -> int:
        """The job's exit code, negative where a signal ended it; kills a job that hangs.

        stall_timeout: seconds without progress that are allowed; 0: any number.
        """
        while True:
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(_SECONDS_BETWEEN_LOOKS)
            if stall_timeout and self._seconds_without_progress() > stall_timeout:
                self.hung = True
                self._kill(signal.SIGKILL)

    def _seconds_without_progress(self) -> float:
        """Since the job last reported progress or committed a file; 0 between its stages."""
        now, status = time.monotonic(), self.status()
        seen = [status, _stamp(status.get("counts")), _stamp(self._folder / SIGNS_OF_LIFE)]
        if self._seen is None or not status.get("stage") or seen != self._seen[:-1]:
            self._seen = [*seen, None]
            self._changed = self._listed = now
        elif now - self._listed > _SECONDS_BETWEEN_LISTINGS:
            # Workers of other hosts report nothing, but what they finish shows.
            self._listed, before, self._seen[-1] = now, self._seen[-1], self.num_committed()
            if before != self._seen[-1]:
                self._changed = now
        return now - self._changed

    def interrupt(self) -> None:
        """Ask the job to end; the second time, or where it takes too long, kill it."""
        self.interrupts += 1
        if self.interrupts > 1:
            self._kill(signal.SIGKILL)
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        timer = threading.Timer(SECONDS_TO_END, self._kill, (signal.SIGKILL,))
        timer.daemon = True
        timer.start()

    def _kill(self, number: int) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End what the job has left: workers, and those that wait for the pipe."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._pipe)


def _stamp(path: str | Path | None) -> tuple[int, int] | None:
    """Size and time of a file that grows or is touched."""
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return status and (status.st_size, status.st_mtime_ns)


@contextmanager
def _handling_signals(handle: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call the function while the body runs, unless they are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda *_: handle())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        code: the exit code.
        restarts: how often it died and was started again.
        run: the run's folder; None where it did not come as far.
    """

    code: int
    restarts: int = 0
    run: str | None = None


def supervise(arguments: Sequence[str], stall_timeout: float) -> Outcome:
    """Carry out a job in a child, again where it dies.

    Args:
        arguments: of the command line, the command included.
        stall_timeout: seconds without progress after which the job is taken to hang; 0: never.
    """
    deaths = committed = restarts = 0
    holder = uuid.uuid4().hex
    arguments = list(arguments)
    while True:
        with tempfile.TemporaryDirectory(prefix="lexbeam-job-") as folder:
            job = Job(arguments, folder, holder)
            try:
                with _handling_signals(job.interrupt):
                    code = job.wait(stall_timeout)
            finally:
                job.close()
            status, now_committed = job.status(), job.num_committed()
        if job.interrupts:
            return Outcome(EXIT_INTERRUPTED, restarts, status.get("run"))
        if code >= 0 and code != EXIT_WORKER_DIED:
            return Outcome(code, restarts, status.get("run"))
        deaths = 1 if now_committed > committed else deaths + 1
        committed = now_committed
        what = _what_happened(code, job.hung, status.get("stage"))
        if deaths >= MAX_DEATHS:
            log.write(
                "error", "given-up",
                f"{what}, for the {deaths}. time with nothing finished in between; what was "
                "finished is kept, the same command resumes",
            )  # fmt: skip
            return Outcome(EXIT_FAILED, restarts, status.get("run"))
        restarts += 1
        text = f"{what}; it is started again, and goes on from what is finished"
        log.write("warning", "restart", text)
        if "run_id" in status:
            arguments = [*arguments, "--run_id", status["run_id"]]


def _what_happened(code: int, hung: bool, stage: str | None) -> str:
    where = f" in stage {stage}" if stage else ""
    if hung:
        return f"the job made no progress{where} and was killed"
    if code == EXIT_WORKER_DIED:
        return f"a worker process died{where}"
    return f"the job was ended by {signal_name(-code)}{where}"


def signal_name(number: int) -> str:
    """`SIGSEGV`, or the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
