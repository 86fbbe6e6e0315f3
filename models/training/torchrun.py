"""What `torchrun` tells a process that it starts; read without importing torch."""

from __future__ import annotations

import os


def started_by_torchrun() -> bool:
    """Whether this process is one of several that `torchrun` has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """This process' number among them, from 0; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if started_by_torchrun() else 0
