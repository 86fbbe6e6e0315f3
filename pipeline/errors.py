"""Exit codes, and the errors that lead to them."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TOO_MANY_REJECTED = 3
EXIT_INTERRUPTED = 130
# Of the job to its supervisor alone: a worker process died that Beam would wait for.
EXIT_WORKER_DIED = 70


class UsageError(ValueError):
    """Wrong usage, found before anything is launched."""


class JobError(RuntimeError):
    """The job failed; what was finished is kept, and the same command resumes it."""


class TooManyRejectedError(RuntimeError):
    """More documents were rejected than the job allows; the run is not published."""
