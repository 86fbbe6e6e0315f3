"""Looks after a job that runs on Flink: how far it is, what went wrong, whether it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lexbeam.pipeline import supervised
from lexbeam.pipeline.causes import root_cause
from lexbeam.pipeline.flink.rest import ENDED, FlinkError, FlinkRest
from lexbeam.pipeline.watch import Watch

_SECONDS_BETWEEN_LOOKS = 1.0
# After which a job that shows no progress is reported, and again after as long.
SECONDS_OF_SILENCE = 60.0


class FlinkWatch(Watch):
    """Looks at a job until it is closed.

    Args:
        rest: of the cluster.
        name: of the job; those of the name that have ended are of an earlier attempt.
        num_committed: how many files the run holds by now; what shows that a long task goes on.
        warn: says a line to the user.
    """

    def __init__(
        self,
        rest: FlinkRest,
        name: str,
        num_committed: Callable[[], int],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__("Flink: not yet there")
        self._rest = rest
        self._name = name
        self._num_committed = num_committed
        self._warn = warn
        self._seen: Any = None
        self._committed: int | None = None
        self._changed = time.monotonic()
        self._said: set[str] = set()
        self._ended_before: set[str] | None = None

    def look(self) -> None:
        """Look every second."""
        with suppress(OSError):
            self._committed = self._num_committed()
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                self._look_once()
            except FlinkError as error:
                self.note = "Flink: no answer"
                self._report_silence(f"its REST API does not answer: {error}")

    def _look_once(self) -> None:
        found = [entry for entry in self._rest.jobs() if entry["name"] == self._name]
        if self._ended_before is None:
            self._ended_before = {entry["jid"] for entry in found if entry["state"] in ENDED}
        found = [entry for entry in found if entry["jid"] not in self._ended_before]
        if not found:
            self._report_silence("the cluster does not have it yet")
            return
        job = self._rest.job(found[0]["jid"])
        seen = _signs_of_progress(job)
        self.note = note_of(job, found[0]["tasks"])
        if seen != self._seen:
            self._seen, self._changed = seen, time.monotonic()
            supervised.sign_of_life()
        for trace in self._rest.exceptions(job["jid"])[:1]:
            cause = root_cause(trace)
            if cause not in self._said and job["state"] not in ENDED:
                self._said.add(cause)
                self._warn(f"Flink tries again after: {cause}")
        self._report_silence(_where(job))

    def _report_silence(self, state: str) -> None:
        if time.monotonic() - self._changed < SECONDS_OF_SILENCE:
            return
        self._changed = time.monotonic()
        with suppress(OSError):
            before, self._committed = self._committed, self._num_committed()
            if before != self._committed:
                return
        self._warn(
            f"no progress for {SECONDS_OF_SILENCE:.0f} s of Flink job {self._name}: {state}; "
            f"see {self._rest.url}"
        )


def note_of(job: dict[str, Any], tasks: dict[str, int]) -> str:
    """`Flink: 5 of 13 tasks`, and what is unusual."""
    text = f"Flink: {tasks.get('finished', 0)} of {tasks.get('total', 0)} tasks"
    return text if job["state"] in ("RUNNING", "FINISHED") else f"{text}, {job['state'].lower()}"


def _signs_of_progress(job: dict[str, Any]) -> Any:
    counts = ("read-records", "write-records", "read-bytes", "write-bytes")
    return job["state"], [
        (vertex["status"], vertex["tasks"], [vertex["metrics"].get(name) for name in counts])
        for vertex in job["vertices"]
    ]


def _where(job: dict[str, Any]) -> str:
    busy = [vertex for vertex in job["vertices"] if vertex["status"] not in ENDED]
    if not busy:
        return f"state {job['state']}"
    first = busy[0]
    tasks = ", ".join(f"{count} {state}" for state, count in first["tasks"].items() if count)
    return f"state {job['state']}, at {first['name']!r} ({tasks})"
