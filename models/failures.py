"""Which errors a document can be to blame for, and how they are reported."""

from __future__ import annotations

_MAX_MESSAGE = 500


def is_processing_error(error: BaseException) -> bool:
    """Whether an input can be to blame: any Exception, and a panic of a Rust library."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def error_text(error: BaseException) -> str:
    """One short line of valid Unicode that says what went wrong."""
    line = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_MESSAGE]
    return line.encode("utf-8", "backslashreplace").decode("utf-8")
