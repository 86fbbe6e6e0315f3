"""Every command on every kind of runner and worker gives the same run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.conftest import (
    COMMANDS,
    SAMPLE,
    TEXT_OPTIONS,
    Environment,
    Jobs,
    boot_script,
    lexbeam,
    server,
)
from tests.conformance.same import assert_same
from tests.helpers import free_port
from tests.pipeline.conftest import TEXT_FEATURES, only_run

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1200)]


def portable(endpoint: str, kind: str, config: str = "") -> tuple[str, ...]:
    """Options for a job on Prism, with workers of a kind."""
    options = ("--runner", "PortableRunner", "--job_endpoint", endpoint, "--environment_type", kind)
    return (*options, "--environment_config", config) if config else options


@pytest.fixture(scope="module")
def pool(tmp_path_factory, bare_environment: Environment) -> Iterator[str]:
    """Address of a worker pool whose workers' environment has no lexbeam."""
    python = bare_environment("pool") / "bin" / "python"
    folder, port = tmp_path_factory.mktemp("pool-logs"), free_port()
    command = [
        sys.executable, "-m", "lexbeam.pipeline.cli", "worker-pool", "--port", str(port),
        "--python", str(python), "--log_dir", str(folder),
    ]  # fmt: skip
    with server(command, port, folder / "pool.log"):
        yield f"localhost:{port}"


@pytest.fixture
def beam_pool(tmp_path, bare_environment: Environment) -> Iterator[str]:
    """Address of Beam's own worker pool, in an environment without lexbeam."""
    environment, port = bare_environment("beam-pool"), free_port()
    command = [
        str(environment / "bin" / "python"), "-P", "-m",
        "apache_beam.runners.worker.worker_pool_main", "--service_port", str(port),
        "--container_executable", str(boot_script(tmp_path, environment)),
    ]  # fmt: skip
    with server(command, port, tmp_path / "pool.log"):
        yield f"localhost:{port}"


@contextmanager
def on_one_core() -> Iterator[None]:
    """Processes that are started while the body runs have one core, and so one thread a kernel."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def assert_same_on(runner: tuple[str, ...], jobs: Jobs, command: str, output: Path) -> None:
    outcome = lexbeam(*jobs.arguments(command), "--output", output, *runner)
    assert outcome.code == 0, outcome.said
    assert_same(only_run(output), jobs.references[command])


@pytest.mark.parametrize("command", COMMANDS)
class TestEveryCommand:
    def test_in_memory_with_one_thread(self, jobs, command, tmp_path):
        with on_one_core():
            assert_same_on(("--runner", "FnApiRunner"), jobs, command, tmp_path)

    def test_in_two_processes(self, jobs, command, tmp_path):
        processes = ("--direct_running_mode", "multi_processing", "--direct_num_workers", "2")
        assert_same_on(processes, jobs, command, tmp_path)

    def test_on_prism(self, jobs, command, tmp_path, prism):
        assert_same_on(portable(prism, "LOOPBACK"), jobs, command, tmp_path)


# Where every stage starts workers that import all: `run` has the stages of the other two.
_run_first = pytest.mark.parametrize(
    "command",
    ["run", *(pytest.param(command, marks=pytest.mark.soak) for command in ("fit", "transform"))],
)


# In one process of the session: what the environment compiles at first is not compiled twice.
@pytest.mark.xdist_group("pool")
@_run_first
def test_on_prism_with_a_worker_pool(jobs, command, tmp_path, prism, pool, staged_wheel):
    runner = (*portable(prism, "EXTERNAL", pool), "--extra_package", str(staged_wheel))
    assert_same_on(runner, jobs, command, tmp_path)


# Whose every worker asks pip what is installed, too.
@_run_first
def test_on_prism_with_processes(jobs, command, tmp_path, prism, process_command):
    runner = portable(prism, "PROCESS", json.dumps({"command": process_command}))
    assert_same_on(runner, jobs, command, tmp_path)


@pytest.mark.soak
def test_on_prism_with_the_pool_of_beam(jobs, tmp_path, prism, beam_pool, staged_wheel):
    runner = (*portable(prism, "EXTERNAL", beam_pool), "--extra_package", str(staged_wheel))
    assert_same_on(runner, jobs, "transform", tmp_path)


def test_topics_that_are_fitted_in_a_pipeline_a_pass(tmp_path, prism):
    options = (
        "fit", "--input", str(SAMPLE), *TEXT_OPTIONS, "--features", TEXT_FEATURES,
        "--lda_passes", "3", "--output",
    )  # fmt: skip
    local = lexbeam(*options, tmp_path / "local")
    assert local.code == 0, local.said
    spread = ("--lda_execution", "distributed", *portable(prism, "LOOPBACK"))
    outcome = lexbeam(*options, tmp_path / "spread", *spread)
    assert outcome.code == 0, outcome.said
    assert_same(only_run(tmp_path / "spread"), only_run(tmp_path / "local"))
