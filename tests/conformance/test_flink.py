"""Jobs on a real Flink cluster, whose processes are killed under them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conformance.conftest import SAMPLE, SECONDS_A_JOB, Jobs, Outcome, lexbeam, start
from tests.conformance.flink_cluster import JOB_SERVER, Cluster, flink_cluster
from tests.conformance.same import assert_same
from tests.helpers import wait_until
from tests.pipeline.conftest import TEXT_FEATURES, only_run, read_dataset, write_jsonl
from tests.pipeline.test_kills import deadly_documents, poison

pytestmark = [pytest.mark.flink, pytest.mark.timeout(1200)]

TEXT_JOB = ("run", "--features", TEXT_FEATURES, "--num_topics", "4", "--reuse_store", "off")
# LEXBEAM_FLINK_STAGE names another stage in which processes are killed.
STAGE = os.environ.get("LEXBEAM_FLINK_STAGE", "bow")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Two task managers, each with a worker pool."""
    with flink_cluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


@pytest.fixture(autouse=True)
def is_left_clean(cluster: Cluster) -> Iterator[None]:
    """A test leaves no job behind, and no worker."""
    yield
    assert not cluster.living_jobs()
    wait_until(lambda: not cluster.workers(), 30)


@pytest.fixture(scope="module")
def documents(shared_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of a Chinese and of an English corpus."""
    rows = [
        {"id": f"{name}-{row['id']}", "text": row["text"]}
        for name, number in (("zh_csl_dev", 150), ("en_inspec", 150))
        for row in map(
            json.loads, (shared_corpora / f"{name}.jsonl").read_text().split("\n")[:number]
        )
    ]
    return write_jsonl(tmp_path_factory.mktemp("documents") / "in.jsonl", rows)


@pytest.fixture(scope="module")
def reference(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job on them, in process."""
    output = tmp_path_factory.mktemp("reference")
    outcome = lexbeam(*job_on(documents), "--output", output)
    assert outcome.code == 0, outcome.said
    return only_run(output)


def job_on(documents: Path) -> tuple[str | Path, ...]:
    return (*TEXT_JOB, "--input", documents, "--split_size", "30K")


def finish(process: subprocess.Popen[str]) -> Outcome:
    said, _ = process.communicate(timeout=SECONDS_A_JOB)
    return Outcome(process.returncode, said)


def wait_for_stage(cluster: Cluster, process: subprocess.Popen[str]) -> None:
    """Until STAGE has begun, with workers, which takes as long as the stages before it."""
    wait_until(
        lambda: (cluster.is_running(STAGE) and cluster.workers()) or process.poll() is not None,
        SECONDS_A_JOB,
    )
    assert process.poll() is None


def assert_whole(outcome: Outcome, output: Path, reference: Path) -> None:
    """The job has ended well: with the same output, and nothing else."""
    assert outcome.code == 0, outcome.said
    run = only_run(output)
    assert_same(run, reference)
    left = [path for path in run.rglob(".*") if path.name != ".lock"]
    assert not left
    assert not (run / "intermediate").exists()


def test_the_sample_with_every_feature(cluster, jobs: Jobs, tmp_path):
    outcome = lexbeam(*jobs.arguments("run"), "--output", tmp_path, *cluster.options)
    assert outcome.code == 0, outcome.said
    assert_same(only_run(tmp_path), jobs.references["run"])
    assert "Flink: " in outcome.said
    assert "warning" not in outcome.said


def test_interrupted_and_then_a_worker_is_killed(cluster, documents, reference, tmp_path):
    command = (*job_on(documents), "--output", tmp_path, *cluster.options)
    process = start(*command)
    wait_until(lambda: cluster.is_running("tokenize"))
    os.kill(process.pid, signal.SIGINT)
    outcome = finish(process)
    assert outcome.code == 130, outcome.said
    assert not cluster.living_jobs()

    process = start(*command)
    wait_for_stage(cluster, process)
    psutil.Process(cluster.workers()[0]).kill()
    assert_whole(finish(process), tmp_path, reference)


def test_a_task_manager_is_killed(cluster, documents, reference, tmp_path):
    process = start(*job_on(documents), "--output", tmp_path, *cluster.options)
    wait_for_stage(cluster, process)
    cluster.kill_task_manager(0)
    cluster.start_task_manager(0)
    assert_whole(finish(process), tmp_path, reference)


@pytest.mark.soak
def test_with_processes_of_the_task_managers(cluster, jobs: Jobs, tmp_path, process_command):
    runner = (
        "--runner", "FlinkRunner", "--flink_master", cluster.address,
        "--flink_job_server_jar", JOB_SERVER, "--environment_type", "PROCESS",
        "--environment_config", json.dumps({"command": process_command}),
    )  # fmt: skip
    outcome = lexbeam(*jobs.arguments("transform"), "--output", tmp_path, *runner)
    assert outcome.code == 0, outcome.said
    assert_same(only_run(tmp_path), jobs.references["transform"])


@pytest.mark.soak
def test_deadly_documents(tmp_path, tmp_path_factory, monkeypatch):
    # In the pools' workers, and in the process in which the driver looks for the documents.
    for name, value in poison({"bow": "SIGKILL"}).items():
        monkeypatch.setenv(name, value)
    with flink_cluster(tmp_path_factory.mktemp("deadly")) as cluster:
        source = write_jsonl(tmp_path / "in.jsonl", deadly_documents("bow", "bow"))
        outcome = lexbeam(
            "run", "--input", source, "--output", tmp_path / "out", "--features", "tfidf",
            "--split_size", "2K", "--min_df", "1", *cluster.options,
        )  # fmt: skip
        assert outcome.code == 0, outcome.said
        errors = read_dataset(only_run(tmp_path / "out"), "errors").to_pylist()
        assert [(row["doc_id"], row["error_type"]) for row in errors] == [
            ("d11", "process-died"), ("d30", "process-died"),
        ]  # fmt: skip


@pytest.mark.soak
def test_what_a_dead_driver_has_left_is_cancelled(cluster, tmp_path):
    command = (
        "fit", "--input", SAMPLE, "--features", "tfidf", "--output", tmp_path,
        "--reuse_store", "off", *cluster.options,
    )  # fmt: skip
    process = start(*command)
    wait_until(lambda: cluster.is_running("tokenize"))
    # The job ends with its supervisor, and cancels nothing.
    process.kill()
    process.communicate()
    assert cluster.living_jobs()
    outcome = lexbeam(*command)
    assert outcome.code == 0, outcome.said
    assert "whose driver has died" in outcome.said
