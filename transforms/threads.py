"""Threads of a kernel: the cores of this machine, divided among its worker processes."""

from __future__ import annotations

import os

WORKERS_PER_HOST = "LEXBEAM_WORKERS_PER_HOST"


def kernel_threads() -> int:
    """Threads that a kernel of this process may use; asked by the worker, not by the driver."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get(WORKERS_PER_HOST, "1"))))
