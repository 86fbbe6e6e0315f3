"""Exit codes, and the errors that lead to them."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TOO_MANY_REJECTED = 3
EXIT_INTERRUPTED = 130


class UsageError(ValueError):
    """Wrong usage, found before anything is launched."""


class JobError(RuntimeError):
    """The job failed; what was finished is kept, and the same command resumes it."""


class TooManyRejectedError(RuntimeError):
    """More documents were rejected than the job allows; the run is not published."""
