"""A cluster's jobs by their names: which live, why one failed, how to end one."""

from __future__ import annotations

import time
from contextlib import suppress

from lexbeam.pipeline.causes import root_cause
from lexbeam.pipeline.flink.rest import ENDED, FlinkError, FlinkRest

_SECONDS_TO_CANCEL = 8.0
_SECONDS_BETWEEN_LOOKS = 0.2


def living_jobs(rest: FlinkRest, ending: str) -> list[str]:
    """Ids of the jobs that have not ended whose names end so; raises FlinkError."""
    return [
        str(job["jid"])
        for job in rest.jobs()
        if str(job["name"]).endswith(ending) and job["state"] not in ENDED
    ]


def cancel_jobs(rest: FlinkRest, ending: str) -> None:
    """Cancel the jobs whose names end so, and wait until they have ended; raises FlinkError."""
    deadline = time.monotonic() + _SECONDS_TO_CANCEL
    while living := living_jobs(rest, ending):
        if time.monotonic() > deadline:
            raise FlinkError(f"{rest.url}: {living} still go on {_SECONDS_TO_CANCEL:.0f} s later")
        for job_id in living:
            with suppress(FlinkError):  # it has just ended, or is asked for the next time
                rest.cancel(job_id)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def cause_of_failure(rest: FlinkRest, name: str) -> str | None:
    """Why the job of a name failed, in a line; None where Flink does not say."""
    with suppress(FlinkError):
        named = [job for job in rest.jobs() if job["name"] == name]
        for job in sorted(named, key=lambda job: job["start-time"])[-1:]:
            traces = rest.exceptions(job["jid"])
            return root_cause(traces[0]) if traces else None
    return None
