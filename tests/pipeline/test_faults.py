"""Faults around a job: disks, damaged files, clocks, other jobs. Deaths are in test_kills.py."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lexbeam.pipeline import prepare, publish, run_lock, stages
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import checksums
from tests.conftest import ROOT, skip_or_fail
from tests.pipeline.conftest import (
    TEXT_FEATURES,
    Result,
    content_of,
    good_documents,
    only_run,
    read_dataset,
    read_manifest,
    write_jsonl,
)

SAMPLE = ROOT / "examples" / "corpus"
JOB = ("run", "--input", SAMPLE, "--features", TEXT_FEATURES, "--num_topics", "4")
SMALL_SPLITS = ("--split_size", "5K")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, str]:
    """What the job gives where nothing goes wrong."""
    from lexbeam.pipeline.cli import main

    output = tmp_path_factory.mktemp("expected")
    arguments = [*JOB, *SMALL_SPLITS, "--output", output, "--quiet"]
    assert main([str(argument) for argument in arguments], supervise=False) == 0
    return content_of(only_run(output))


def stop_before_publishing(output: Path, *options: str) -> Path:
    """A run of which everything is there but the manifest."""
    from lexbeam.pipeline.cli import main

    def stop(*arguments: object) -> None:
        raise OSError("the machine goes off")

    arguments = [*JOB, *SMALL_SPLITS, "--output", output, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "put_manifest", stop)
        assert main([str(argument) for argument in arguments], supervise=False) == 1
    return only_run(output)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut_off(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def first(run: Path, pattern: str) -> Path:
    return sorted(run.glob(pattern))[0]


class TestDamagedFiles:
    @pytest.mark.parametrize("damage", [flip_a_byte, cut_off, Path.unlink])
    @pytest.mark.parametrize(
        "pattern",
        [
            "reuse/tokens/part-*.parquet",
            "reuse/dropped/part-*.parquet",
            "reuse/counts/part-*.parquet",
            "reuse/index/part-*.arrow",
            "intermediate/counts/words/part-*.parquet",
            "intermediate/bow/part-*.parquet",
            "documents/part-*.parquet",
            "errors/part-*.parquet",
            "terms/part-*.parquet",
            "topics/part-*.parquet",
            "model/vocabulary.parquet",
            "model/phrases.parquet",
            "model/limits.json",
            "model/lda/*.npy",
            "model/lda/metrics.json",
            "model/config.json",
        ],
    )
    def test_they_are_found_and_made_again(self, lexbeam, ready, expected, damage, pattern):
        victim = first(ready, pattern)
        damage(victim)
        found = lexbeam("verify", ready)
        assert found.code == 1
        name = str(victim.relative_to(ready))
        assert f"{name} is damaged" in found.out
        resumed = lexbeam(*JOB, *SMALL_SPLITS, "--output", ready.parent.parent)
        assert resumed.code == 0, resumed.err
        assert name in resumed.err
        assert content_of(ready) == expected
        assert lexbeam("verify", ready).code == 0

    @pytest.fixture(scope="class")
    def stopped(self, tmp_path_factory) -> Path:
        """A run that was stopped before its manifest, for copies of it."""
        return stop_before_publishing(tmp_path_factory.mktemp("stopped") / "out")

    @pytest.fixture
    def ready(self, stopped, tmp_path) -> Path:
        subprocess.run(["cp", "-a", stopped.parent.parent, tmp_path / "out"], check=True)
        return only_run(tmp_path / "out")

    def test_a_file_damaged_while_the_job_runs_is_not_published(self, lexbeam, expected, tmp_path):
        extract = stages.extract

        def damage_then(work: Workspace, **options: Any) -> stages.Stage:
            flip_a_byte(first(only_run(tmp_path), "topics/part-*.parquet"))
            return extract(work, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "extract", damage_then)
            result = lexbeam(*JOB, *SMALL_SPLITS, "--output", tmp_path)
        assert result.code == 1
        assert "topics/part-00000-of-00001.parquet is not as it was written" in result.err
        assert not (only_run(tmp_path) / "manifest.json").exists()
        assert lexbeam(*JOB, *SMALL_SPLITS, "--output", tmp_path).code == 0
        assert content_of(only_run(tmp_path)) == expected

    def test_a_damaged_checkpoint_of_the_lda_is_made_again(self, lexbeam, expected, tmp_path):
        options = ("--lda_execution", "distributed", "--lda_passes", "4")
        assert lexbeam(*JOB, *SMALL_SPLITS, "--output", tmp_path / "a", *options).code == 0
        run = stop_before_publishing(tmp_path / "b", *options)
        flip_a_byte(first(run, "intermediate/lda/pass-*/block-*.npy"))
        flip_a_byte(first(run, "model/lda/*.npy"))
        result = lexbeam(*JOB, *SMALL_SPLITS, "--output", tmp_path / "b", *options)
        assert result.code == 0, result.err
        assert content_of(run) == content_of(only_run(tmp_path / "a"))

    def test_a_published_run_is_damaged(self, lexbeam, tmp_path):
        assert lexbeam(*JOB, "--output", tmp_path).code == 0
        run = only_run(tmp_path)
        victim = first(run, "documents/part-*.parquet")
        flip_a_byte(victim)
        found = lexbeam("verify", run)
        assert found.code == 1
        assert f"documents/{victim.name} has another SHA-256" in found.out

    def test_published_folders_hold_no_checksums(self, lexbeam, tmp_path):
        assert lexbeam(*JOB, "--output", tmp_path, "--keep_intermediate").code == 0
        run = only_run(tmp_path)
        hidden = {path.relative_to(run).parts[0] for path in run.rglob(".sums")}
        assert hidden == {"intermediate"}
        assert checksums.damaged_files(str(run / "intermediate" / "bow")) == []


def in_namespace(script: str, *arguments: str | Path) -> Result:
    """A shell script with mounts of its own; `"$@"` in it is the command line with arguments."""
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", *map(str, arguments)]
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    try:
        done = subprocess.run([*inside, *command], capture_output=True, text=True, timeout=200)
    except FileNotFoundError:
        skip_or_fail("unshare is not installed")
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        skip_or_fail(f"nobody may mount anything here: {done.stderr}")
    return Result(done.returncode, done.stdout, done.stderr)


class TestDisks:
    def test_a_full_disk(self, tmp_path, expected):
        output, kept = tmp_path / "out", tmp_path / "kept"
        output.mkdir()
        kept.mkdir()
        script = f"""
            mount -t tmpfs -o size=400k none {output}
            "$@" --verbose; echo "full: $?"
            find {output} -name '.*.tmp'
            mount -o remount,size=50m {output}
            "$@"; echo "larger: $?"
            cp -a {output}/. {kept}
        """
        done = in_namespace(script, *JOB, *SMALL_SPLITS, "--output", output)
        assert done.out.split("\n") == ["full: 1", "larger: 0", ""], done.err
        assert "No space left on device" in done.err
        assert "resuming run" in done.err
        assert content_of(only_run(kept)) == expected

    def test_a_disk_that_can_only_be_read(self, tmp_path):
        output = tmp_path / "out"
        output.mkdir()
        script = f'mount -t tmpfs -o ro none {output}; "$@"'
        done = in_namespace(script, *JOB, "--output", output)
        assert done.code == 2
        assert str(output) in done.err
        assert "Read-only file system" in done.err

    def test_a_file_that_cannot_be_read_among_others(self, lexbeam, tmp_path):
        write_jsonl(tmp_path / "in" / "a.jsonl", good_documents())
        (tmp_path / "in" / "b.jsonl.gz").write_bytes(b"no gzip at all")
        write_jsonl(tmp_path / "in" / "c.jsonl", [{"id": "late", "text": "A late track."}])
        result = lexbeam("run", "--input", tmp_path / "in", "--output", tmp_path / "out",
                         "--features", "tfidf")  # fmt: skip
        assert result.code == 0, result.err
        run = only_run(tmp_path / "out")
        (error,) = read_dataset(run, "errors").to_pylist()
        assert (error["source"], error["error_type"]) == ("b.jsonl.gz", "unreadable-file")
        assert read_dataset(run, "documents")["doc_id"].to_pylist()[-1] == "late"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Put the clock forward or back."""

    def put(by: timedelta) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + by

        for module in (prepare, publish):
            monkeypatch.setattr(module, "datetime", Clock)

    return put


def test_the_clock_is_put_back(lexbeam, tmp_path, clock):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--features", "tfidf"]
    assert lexbeam(*arguments).code == 0
    earlier = only_run(tmp_path / "out").name
    clock(-timedelta(days=3))
    result = lexbeam(*arguments)
    assert result.code == 0, result.err
    assert "the clock is behind the latest run" in result.err
    runs = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    # The later run sorts behind the earlier one, and is the latest.
    assert runs[0] == earlier
    assert (tmp_path / "out" / "latest.json").read_text().count(runs[1]) == 1
    dates = [read_manifest(tmp_path / "out" / "runs" / name)["created"] for name in runs]
    assert dates[0] < dates[1] < (datetime.now(UTC) + timedelta(minutes=1)).isoformat()


class TestSeveralJobs:
    def test_of_two_with_one_run_id_one_works(self, tmp_path, expected):
        arguments = [*JOB, *SMALL_SPLITS, "--output", tmp_path, "--run_id", "night"]
        command = [sys.executable, "-m", "lexbeam.pipeline.cli", *map(str, arguments)]
        jobs = [
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
            for _ in range(2)
        ]
        errors = [job.communicate(timeout=200)[1] for job in jobs]
        codes = sorted(job.returncode for job in jobs)
        # The second waits for a while, and then either finds the run complete or says so.
        assert codes in ([0, 0], [0, 2]), errors
        said = "".join(errors)
        assert "another process is working on run night" in said or "complete already" in said
        assert content_of(only_run(tmp_path)) == expected

    def test_two_runs_side_by_side(self, tmp_path, expected):
        jobs = []
        for name in ("a", "b"):
            arguments = [*JOB, *SMALL_SPLITS, "--output", tmp_path, "--run_id", name]
            command = [sys.executable, "-m", "lexbeam.pipeline.cli", *map(str, arguments)]
            jobs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for job in jobs:
            _, error = job.communicate(timeout=200)
            assert job.returncode == 0, error
        for name in ("a", "b"):
            assert content_of(tmp_path / "runs" / name) == expected
        created = {name: read_manifest(tmp_path / "runs" / name)["created"] for name in ("a", "b")}
        newest = max(created, key=lambda name: created[name])
        assert (tmp_path / "latest.json").read_text().count(f'"{newest}"') == 1

    @pytest.mark.parametrize("name", [["--run_id", "held"], []], ids=["by name", "without a name"])
    def test_a_job_waits_for_one_that_is_about_to_end(self, lexbeam, tmp_path, monkeypatch, name):
        source = write_jsonl(tmp_path / "in.jsonl", good_documents())
        arguments = ["run", "--input", source, "--output", tmp_path / "out", "--features", "tfidf"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "tokenize", lambda work: 1 / 0)
            assert lexbeam(*arguments, "--run_id", "held").code == 1
        release = threading.Event()
        taken = threading.Event()

        def hold() -> None:
            with run_lock.run_lock(RunDir(str(tmp_path / "out"), "held")):
                taken.set()
                release.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait(60)
        monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: release.set())
        result = lexbeam(*arguments, *name)
        holder.join()
        assert result.code == 0, result.err
        assert "resuming run held" in result.err
        assert only_run(tmp_path / "out").name == "held"
