"""Jobs in processes of their own, the servers that they run on, and what they are compared with."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, skip_or_fail
from tests.helpers import free_port, wait_until
from tests.models.tiny_models import write_tiny_model

# Read when gcsfs is imported: else it asks what kind a bucket is of, which no emulator knows.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

TOOLS = ROOT / "build" / "tools"
SAMPLE = ROOT / "examples" / "corpus"
SECONDS_A_JOB = 800.0
COMMANDS = ("run", "fit", "transform")
TEXT_OPTIONS = ("--split_size", "15K", "--num_topics", "4")


def tool(name: str) -> str:
    """Path of a server that `make conformance` has built."""
    path = TOOLS / name
    if not path.exists():
        skip_or_fail(f"no {name}: `make conformance` builds it where Go is installed")
    return str(path)


@contextmanager
def server(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    """A server while the body runs, from when it listens at its port."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | environment,
            cwd=log.parent, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: is_listening(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_listening(port: int) -> bool:
    """Whether somebody listens at a port of this host."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    said: str


def lexbeam(*arguments: str | Path, **environment: str) -> Outcome:
    """A command in a process of its own, which is killed where it takes too long."""
    process = start(*arguments, **environment)
    try:
        said, _ = process.communicate(timeout=SECONDS_A_JOB)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        pytest.fail(f"took longer than {SECONDS_A_JOB} s: {said[-3000:]}")
    return Outcome(process.returncode, said)


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """A command in a process and group of its own."""
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | environment, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes of this session."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Whether the folder is still to be made, while no other process of the session does."""
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not folder.exists()


@pytest.fixture(scope="session")
def model(shared: Path) -> Path:
    """A small encoder."""
    with made_once(shared / "tiny") as is_first:
        if is_first:
            write_tiny_model(shared / "tiny", "bert")
    return shared / "tiny"


@pytest.fixture(scope="session")
def job_options(model: Path) -> tuple[str, ...]:
    """Options with every feature, in several splits, in the number format that can be compared."""
    return (
        *TEXT_OPTIONS, "--model_id", str(model), "--max_seq_length", "64",
        "--backend", "torch", "--dtype", "float32",
    )  # fmt: skip


@dataclass(frozen=True)
class Jobs:
    """The three commands on the sample corpus, and what each gives in process.

    Attributes:
        references: the run of each command.
        options: of run and fit.
    """

    references: dict[str, Path]
    options: tuple[str, ...]

    def arguments(self, command: str) -> tuple[str, ...]:
        """The command with its input and options, without its output."""
        if command == "transform":
            # Only one file: the corpus models are of all.
            documents = str(SAMPLE / "zh.jsonl")
            return (command, "--input", documents, "--model", str(self.references["fit"]))
        return (command, "--input", str(SAMPLE), *self.options)


@pytest.fixture(scope="session")
def jobs(shared: Path, job_options: tuple[str, ...]) -> Jobs:
    """The jobs, carried out once in process."""
    folder = shared / "references"
    found = {command: folder / command / "runs" / "reference" for command in COMMANDS}
    jobs = Jobs(found, job_options)
    with made_once(folder) as is_first:
        if is_first:
            for command in ("fit", "run", "transform"):
                outcome = lexbeam(
                    *jobs.arguments(command), "--output", folder / command,
                    "--run_id", "reference",
                )  # fmt: skip
                assert outcome.code == 0, outcome.said
    return jobs


@pytest.fixture(scope="session")
def staged_wheel(shared: Path) -> Path:
    """lexbeam as a wheel, built from this checkout."""
    folder = shared / "wheel"
    with made_once(folder) as is_first:
        if is_first:
            # Built elsewhere: what a build leaves behind in the checkout would be in the next one.
            source = shared / "source"
            names = ("models", "transforms", "pipeline", "setup.py", "pyproject.toml", "README.md")
            for name in (*names, "LICENSE"):
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                source.mkdir(exist_ok=True)
                copy(ROOT / name, source / name)
            command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
            subprocess.run([*command, "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("lexbeam-*.whl")
    return wheel


Environment = Callable[[str], Path]


@pytest.fixture(scope="session")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`bare_environment(name)`: a fresh environment with everything but lexbeam."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (here,) = Path(sys.prefix).glob("lib/python*/site-packages")
        for entry in here.iterdir():
            if "lexbeam" not in entry.name:
                (site / entry.name).symlink_to(entry)
        python = folder / "bin" / "python"
        imported = subprocess.run(
            [python, "-P", "-c", "import apache_beam, torch; import lexbeam.models"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "No module named 'lexbeam'" in imported.stderr, imported.stderr
        return folder

    return make


def boot_script(folder: Path, environment: Path) -> Path:
    """The SDK container's entry point, in an environment, as Prism can start it."""
    script = folder / "boot.sh"
    script.write_text(
        f"""#!/usr/bin/env bash
# Prism gives the id in quotes, and boot needs a folder for each worker.
arguments=()
for argument in "$@"; do arguments+=("${{argument//\\'/}}"); done
folder=$(mktemp -d {folder}/worker-XXXXXX)
cd "$folder"
export PATH={environment}/bin:$PATH RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
exec {tool("boot")} "${{arguments[@]}}" --semi_persist_dir="$folder" >> {folder}/boot.log 2>&1
"""
    )
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def process_command(tmp_path_factory, bare_environment: Environment, staged_wheel: Path) -> str:
    """A command for PROCESS environments, in a fresh one with lexbeam installed from its wheel."""
    environment = bare_environment("process")
    install = (environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps")
    subprocess.run([*install, str(staged_wheel)], check=True)
    return str(boot_script(tmp_path_factory.mktemp("boot"), environment))


@pytest.fixture
def prism(tmp_path: Path) -> Iterator[str]:
    """Address of Beam's portable runner."""
    port = free_port()
    command = [tool("prism"), f"-job_port={port}", "-serve_http=false", "-log_kind=text"]
    with server(command, port, tmp_path / "prism.log"):
        yield f"localhost:{port}"
