"""What a runner's account of a failure comes down to."""

from __future__ import annotations

_LONGEST_CAUSE = 500
_CAUSE = "Caused by: "
_PYTHON = "Traceback (most recent call last):"


def root_cause(trace: str) -> str:
    """A stack trace of Java's or Python's in a line: a worker's error, else the last cause."""
    lines = trace.splitlines() or [""]
    begun = [number for number, line in enumerate(lines) if _PYTHON in line]
    # Frames and their code are indented, and the error comes behind them.
    errors = [line for line in lines[begun[-1] + 1 :] if line[:1].strip()] if begun else []
    if errors:
        return errors[0][:_LONGEST_CAUSE]
    causes = [
        line.strip().removeprefix(_CAUSE) for line in lines if line.strip().startswith(_CAUSE)
    ]
    return (causes[-1] if causes else lines[0].strip())[:_LONGEST_CAUSE]
