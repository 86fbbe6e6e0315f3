"""What a Flink cluster offers, and whether a job of lexbeam goes well on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lexbeam.pipeline.flink.rest import FlinkRest

# A stage's shuffles want their buffers at once: below this, `Insufficient number of network
# buffers` was seen at a parallelism of four.
LEAST_NETWORK_MEMORY = 512 << 20
# What goes to and from the workers lies in memory outside the heap: with none set aside, blocks of
# tens of MB made a job hang without an error. Blocks of lexbeam have ten at most.
LEAST_OFF_HEAP_MEMORY = 512 << 20
# Milliseconds of each unit of a duration.
_UNITS = {
    "": 1, "ms": 1, "s": 1000, "sec": 1000, "second": 1000, "m": 60_000, "min": 60_000,
    "minute": 60_000, "h": 3_600_000, "hour": 3_600_000, "d": 86_400_000,
}  # fmt: skip
# Which setting of each restart strategy is the pause before a new attempt; all begin with a second.
_DELAYS = {
    "fixed-delay": "restart-strategy.fixed-delay.delay",
    "failure-rate": "restart-strategy.failure-rate.delay",
    "exponential-delay": "restart-strategy.exponential-delay.initial-backoff",
}
_DEFAULT_DELAY = 1000


@dataclass(frozen=True)
class Cluster:
    """What a job needs to know.

    Attributes:
        version: of Flink, as `1.19.3`.
        slots: of each task manager.
        free_slots: in all.
        network_memory: bytes, of the task manager that has least.
        off_heap_memory: likewise.
        settings: the configuration.
    """

    version: str
    slots: tuple[int, ...]
    free_slots: int
    network_memory: int
    off_heap_memory: int
    settings: Mapping[str, str]

    @property
    def restart_strategy(self) -> str:
        """Its name; `none` where a failed attempt ends a job."""
        name = self.settings.get("restart-strategy.type") or self.settings.get("restart-strategy")
        aliases = {"fixeddelay": "fixed-delay", "failurerate": "failure-rate"}
        name = (name or "none").strip().lower()
        name = aliases.get(name, name)
        return "none" if name in ("off", "disable") else name

    @property
    def restart_delay(self) -> int | None:
        """Milliseconds before a failed job is tried again; None where it is not."""
        setting = _DELAYS.get(self.restart_strategy)
        if setting is None:
            return None
        return milliseconds(self.settings.get(setting), _DEFAULT_DELAY)


def read_cluster(rest: FlinkRest) -> Cluster:
    """Ask a cluster; raises FlinkError where it does not answer."""
    managers = rest.task_managers()
    memory = [entry.get("memoryConfiguration", {}) for entry in managers]
    return Cluster(
        version=str(rest.overview()["flink-version"]),
        slots=tuple(int(entry["slotsNumber"]) for entry in managers),
        free_slots=sum(int(entry["freeSlots"]) for entry in managers),
        network_memory=min((entry.get("networkMemory") or 0 for entry in memory), default=0),
        off_heap_memory=min((entry.get("taskOffHeap") or 0 for entry in memory), default=0),
        settings=rest.settings(),
    )


def milliseconds(text: str | None, default: int) -> int:
    """A duration as Flink writes them: `5 s`, `500ms`, `1 min`, `PT5S`; a number alone is ms."""
    found = re.fullmatch(r"(?:PT)?([\d.]+)\s*([a-z]*)", (text or "").strip(), re.IGNORECASE)
    if not found:
        return default
    unit = found[2].lower()
    factor = _UNITS.get(unit, _UNITS.get(unit.rstrip("s")))
    return default if factor is None else int(float(found[1]) * factor)


def problems(cluster: Cluster) -> tuple[list[str], list[str]]:
    """What makes a job impossible, and what endangers it; each names the setting."""
    if not cluster.slots:
        return ["has no task managers"], []
    if not sum(cluster.slots):
        return ["has no slots: raise taskmanager.numberOfTaskSlots"], []
    warnings = []
    if cluster.network_memory < LEAST_NETWORK_MEMORY:
        warnings.append(
            f"a task manager has {_mb(cluster.network_memory)} for its network buffers, and stages "
            "with many shuffles fail for want of them: set taskmanager.memory.network.min and "
            f".max to {_mb(LEAST_NETWORK_MEMORY)} or more"
        )
    if cluster.off_heap_memory < LEAST_OFF_HEAP_MEMORY:
        warnings.append(
            f"a task manager has {_mb(cluster.off_heap_memory)} outside the heap for what goes to "
            "the workers, and a job can hang for want of it: set "
            f"taskmanager.memory.task.off-heap.size to {_mb(LEAST_OFF_HEAP_MEMORY)} or more"
        )
    if cluster.restart_strategy == "none":
        warnings.append(
            "the job ends with the first worker or task manager that dies: set "
            "restart-strategy.type to fixed-delay, with 30 attempts and a delay of 5 s"
        )
    return [], warnings


def _mb(size: int) -> str:
    return f"{size >> 20} MB"
