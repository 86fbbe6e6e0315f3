"""Beam's options of a job on a Flink cluster: those that were given, and lexbeam's choice."""

from __future__ import annotations

from collections.abc import Sequence

from lexbeam.models.config import ConfigError
from lexbeam.pipeline.beam_arguments import value_of
from lexbeam.pipeline.flink.cluster import Cluster

# Beam starts a cluster of its own for these.
_LOCAL_MASTERS = (None, "[local]", "[auto]")
DEFAULT_POOL = "localhost:50000"
# Workers that a failed attempt leaves must be gone before the next one begins, or it gets dead
# ones and the job fails; those of the stage before are kept where they come soon enough.
_SHARE_OF_RESTART_DELAY = 0.6
_MOST_CACHE_MILLIS = 3000
# Of Flink 2, where a bundle would have a million elements; ours are splits of megabytes.
_MAX_BUNDLE_SIZE = 16


def master_of(beam_args: Sequence[str]) -> str | None:
    """Address of the cluster that a job goes to; None where it goes to none."""
    if (value_of(beam_args, "runner") or "").lower() not in ("flinkrunner", "flink"):
        return None
    master = value_of(beam_args, "flink_master")
    return None if master in _LOCAL_MASTERS else master


def completed(beam_args: Sequence[str], cluster: Cluster) -> list[str]:
    """The options with all that the cluster needs and nobody has given."""
    chosen = {
        "parallelism": parallelism(cluster),
        # Else one worker has to serve all slots of a task manager.
        "sdk_worker_parallelism": min(cluster.slots),
        "environment_cache_millis": cache_millis(cluster),
        "max_bundle_size": _MAX_BUNDLE_SIZE,
        "environment_type": "EXTERNAL",
        "environment_config": DEFAULT_POOL,
    }
    if (value_of(beam_args, "environment_type") or "EXTERNAL").upper() != "EXTERNAL":
        del chosen["environment_config"]
    missing = {name: value for name, value in chosen.items() if value_of(beam_args, name) is None}
    return [*beam_args, *(f"--{name}={value}" for name, value in missing.items())]


def parallelism(cluster: Cluster) -> int:
    """The slots that are free; all where none is, since then the job has to wait anyway."""
    return cluster.free_slots or sum(cluster.slots)


def cache_millis(cluster: Cluster) -> int:
    """How long idle workers are kept."""
    delay = cluster.restart_delay
    if delay is None:
        return _MOST_CACHE_MILLIS
    return min(_MOST_CACHE_MILLIS, int(_SHARE_OF_RESTART_DELAY * delay))


def check_options(beam_args: Sequence[str], cluster: Cluster) -> list[str]:
    """What the user is warned of; raises ConfigError for what cannot go well."""
    wanted = value_of(beam_args, "parallelism")
    if wanted is not None and wanted.isdigit() and int(wanted) > sum(cluster.slots):
        reason = f"the cluster has {sum(cluster.slots)} slots; the job would wait for the others"
        raise ConfigError("parallelism", wanted, reason)
    kept, delay = value_of(beam_args, "environment_cache_millis"), cluster.restart_delay
    if kept is not None and kept.isdigit() and delay is not None and int(kept) >= delay:
        return [
            f"--environment_cache_millis {kept} is not below the cluster's restart delay of "
            f"{delay} ms: when a worker dies, the next attempt gets the dead one"
        ]
    return []
