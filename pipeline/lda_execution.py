"""Whether the LDA fits one worker: decided once, by the driver, when a run is planned."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lexbeam.pipeline.beam_arguments import is_in_process, value_of
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.transforms import splits
from lexbeam.transforms.threads import kernel_threads

# The bag of words takes eight bytes for each distinct term of a document: measured, 0.3 to 0.4
# bytes a byte of JSON in UTF-8, English or Chinese; GB 18030 has two bytes where that has three.
_BOW_BYTES_PER_TEXT_BYTE = 0.6
_CLUSTER_WORKER_RAM = 4 << 30
_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def lda_execution(config: JobConfig, layout: splits.Layout, settings: RunSettings) -> str:
    """`local` or `distributed`: as asked for, else local where it takes half a worker's memory.

    Both ways give the same bits, so the estimate decides over speed alone.
    """
    if settings.lda_execution != "auto":
        return settings.lda_execution
    needed = fit_bytes(config, layout, kernel_threads())
    return "local" if needed < worker_ram(settings) / 2 else "distributed"


def fit_bytes(config: JobConfig, layout: splits.Layout, num_threads: int) -> int:
    """What a fit inside one worker takes: see `fit_bytes_of_text`."""
    compressed = {source.path for source in layout.sources if is_compressed(source)}
    text = sum(
        source.size * (splits.COMPRESSION_RATIO if source.path in compressed else 1)
        for source in layout.sources
    )
    return fit_bytes_of_text(config, text, num_threads)


def fit_bytes_of_text(config: JobConfig, text: int, num_threads: int) -> int:
    """What a fit takes inside one worker: its bag of words, (threads + 2) x K x V x 8 bytes.

    The vocabulary is not known yet: it is taken to be as large as it may become.

    Args:
        config: the job.
        text: bytes of the input, uncompressed.
        num_threads: of the worker.
    """
    bow = int(_BOW_BYTES_PER_TEXT_BYTE * text)
    # A term takes two bytes of text at least.
    num_terms = min(config.counts.max_terms, text // 2)
    return bow + (num_threads + 2) * config.lda.num_topics * num_terms * 8


def is_compressed(source: splits.Source) -> bool:
    """Whether a file's text is larger than the file."""
    return bool(source.compression) or source.format == "parquet"


def worker_ram(settings: RunSettings) -> int:
    """Bytes of memory of a worker: as told, else this machine's where the workers are here."""
    if settings.worker_ram != "auto":
        return int(settings.worker_ram)
    if not is_in_process(settings.beam_args):
        return _CLUSTER_WORKER_RAM
    workers = 1
    if value_of(settings.beam_args, "direct_running_mode") == "multi_processing":
        workers = (
            int(value_of(settings.beam_args, "direct_num_workers") or 0) or os.cpu_count() or 1
        )
    return machine_ram() // workers


def machine_ram() -> int:
    """Bytes of memory of this machine, or of the container that this process is in."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            ram = min(ram, int(Path(path).read_text(encoding="ascii")))
    return ram
