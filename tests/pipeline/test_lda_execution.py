"""Where the LDA is carried out is decided from sizes, before anything is launched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lexbeam.models.config import ConfigError, CountConfig, LdaConfig
from lexbeam.pipeline import lda_execution as execution
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.transforms import splits

MIB, GIB = 1 << 20, 1 << 30
CONFIG = JobConfig(
    input=splits.InputConfig(inputs=("in.jsonl",)),
    lda=LdaConfig(num_topics=50),
    counts=CountConfig(max_terms=100_000),
)


def layout_of(*sizes: int, name: str = "in.jsonl") -> splits.Layout:
    sources = tuple(splits.Source(f"{n}{name}", name, s, "v", "jsonl") for n, s in enumerate(sizes))
    return splits.Layout(CONFIG.input, sources, ())


def settings_of(*beam_args: str, **named: str | int) -> RunSettings:
    return RunSettings(output="out", beam_args=beam_args, **named)  # type: ignore[arg-type]


def test_a_fit_takes_its_bag_of_words_and_its_topics() -> None:
    topics = (2 + 2) * 50 * 100_000 * 8
    assert execution.fit_bytes(CONFIG, layout_of(10 * GIB), 2) == int(0.6 * 10 * GIB) + topics
    # A small corpus cannot have so many terms.
    small = execution.fit_bytes(CONFIG, layout_of(500, 500), 2)
    assert small == 600 + 4 * 50 * 500 * 8


def test_compressed_files_hold_more_than_their_size() -> None:
    plain = execution.fit_bytes(CONFIG, layout_of(GIB), 1)
    source = splits.Source("a", "a.parquet", GIB, "v", "parquet")
    parquet = execution.fit_bytes(CONFIG, splits.Layout(CONFIG.input, (source,), ()), 1)
    assert parquet - plain == pytest.approx(3 * 0.6 * GIB)


@pytest.mark.parametrize(
    ("ram", "asked", "expected"),
    [
        (4 * GIB, "auto", "local"),
        (2 * GIB, "auto", "distributed"),
        (2 * GIB, "local", "local"),
        (4 * GIB, "distributed", "distributed"),
    ],
)
def test_auto_is_local_where_the_fit_takes_half_a_worker(
    monkeypatch: pytest.MonkeyPatch, ram: int, asked: str, expected: str
) -> None:
    # 1.2 GiB of bags of words, and 0.15 GiB of topics on two threads.
    monkeypatch.setattr(execution, "kernel_threads", lambda: 2)
    settings = settings_of(worker_ram=ram, lda_execution=asked)
    assert execution.lda_execution(CONFIG, layout_of(2 * GIB), settings) == expected


def test_the_memory_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "machine_ram", lambda: 16 * GIB)
    processes = ("--runner=DirectRunner", "--direct_running_mode", "multi_processing")
    assert execution.worker_ram(settings_of()) == 16 * GIB
    assert execution.worker_ram(settings_of("--runner", "DirectRunner")) == 16 * GIB
    four = settings_of(*processes, "--direct_num_workers=4")
    assert execution.worker_ram(four) == 4 * GIB
    every = settings_of(*processes, "--direct_num_workers=0")
    assert execution.worker_ram(every) == 16 * GIB // (os.cpu_count() or 1)
    assert execution.worker_ram(settings_of("--runner=PortableRunner")) == 4 * GIB
    assert execution.worker_ram(settings_of("--runner=FlinkRunner", worker_ram=GIB)) == GIB


def test_a_container_may_have_less_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_CGROUP_LIMITS", ())
    whole = execution.machine_ram()
    assert whole > 100 * MIB
    for name, text in (("none", "max\n"), ("some", f"{64 * MIB}\n")):
        (tmp_path / name).write_text(text)
    limits = [str(tmp_path / name) for name in ("not_there", "none")]
    monkeypatch.setattr(execution, "_CGROUP_LIMITS", limits)
    assert execution.machine_ram() == whole
    monkeypatch.setattr(execution, "_CGROUP_LIMITS", [*limits, str(tmp_path / "some")])
    assert execution.machine_ram() == 64 * MIB


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="--lda_execution 'fast'"):
        settings_of(lda_execution="fast")
    with pytest.raises(ConfigError, match="--worker_ram 0"):
        settings_of(worker_ram=0)
