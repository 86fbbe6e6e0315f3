"""How the jobs of a run are called, so that a worker pool knows which follow each other."""

from __future__ import annotations

# Before it the stage, behind it the run: `lexbeam-count--1f2e3d4c-nightly`.
SEPARATOR = "--"


def is_followed_by(earlier: str, later: str) -> bool:
    """Whether two names are of one run, which has gone on to another stage."""
    (stage, _, run), (later_stage, _, later_run) = (
        name.partition(SEPARATOR) for name in (earlier, later)
    )
    return bool(run) and run == later_run and stage != later_stage
