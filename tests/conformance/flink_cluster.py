"""A Flink cluster of processes of this host, each task manager with a worker pool of its own.

`python -m tests.conformance.flink_cluster` starts one and prints its address, until Ctrl-C.
"""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from lexbeam.pipeline.flink.jobs import living_jobs
from lexbeam.pipeline.flink.rest import FlinkError, FlinkRest
from tests.conftest import ROOT, skip_or_fail
from tests.helpers import free_port, wait_until

INSTALLED = ROOT / "build" / "flink"
JOB_SERVER = INSTALLED / "job-server" / "flink-job-server.jar"
CONFIG = ROOT / "deploy" / "flink" / "conf" / "config.yaml"
TASK_MANAGERS, SLOTS = 2, 2
# What each task manager calls its pool: Java looks the name up in a file of its own.
POOL = "worker-pool"
_UTILS = "org.apache.flink.runtime.util.bash.BashJavaUtils"
_RESULT = "BASH_JAVA_UTILS_EXEC_RESULT:"
_SECONDS_TO_START = 90.0


def flink_home() -> Path:
    """Where `make flink` has installed Flink."""
    found = list(INSTALLED.glob("venv/lib/python*/site-packages/pyflink"))
    if not found or not JOB_SERVER.exists():
        skip_or_fail("no Flink: `make flink` installs it where Java and Maven are")
    return found[0]


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        folder: of its logs and temporary files.
        rest_port: of the job manager's REST API, at 127.0.0.1.
        pool_port: of the worker pools, one a task manager, at an address of its own each.
        task_managers: the processes, in order.
        pools: likewise.
    """

    folder: Path
    rest_port: int = field(default_factory=free_port)
    rpc_port: int = field(default_factory=free_port)
    pool_port: int = field(default_factory=free_port)
    job_manager: subprocess.Popen[bytes] | None = None
    task_managers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pools: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """For --flink_master."""
        return f"127.0.0.1:{self.rest_port}"

    @property
    def options(self) -> tuple[str, ...]:
        """Of a job on this cluster: where it is, and what is not where lexbeam looks by itself."""
        return (
            "--runner", "FlinkRunner", "--flink_master", self.address,
            "--flink_job_server_jar", str(JOB_SERVER),
            "--environment_config", f"{POOL}:{self.pool_port}",
        )  # fmt: skip

    @property
    def rest(self) -> FlinkRest:
        """A client of the job manager's API."""
        return FlinkRest(self.address)

    def num_slots(self) -> int:
        """Slots of the task managers that are there."""
        try:
            return int(self.rest.overview()["slots-total"])
        except FlinkError:
            return 0

    def living_jobs(self) -> list[str]:
        """Ids of the jobs that have not ended."""
        return living_jobs(self.rest, "")

    def is_running(self, stage: str) -> bool:
        """Whether a stage's job is there and has begun its work."""
        return any(
            job["name"].startswith(f"lexbeam-{stage}-") and job["tasks"]["running"]
            for job in self.rest.jobs()
            if job["state"] == "RUNNING"
        )

    def workers(self) -> list[int]:
        """Process ids of the pools' workers."""
        return [child.pid for pool in self.pools for child in psutil.Process(pool.pid).children()]

    def kill_task_manager(self, number: int) -> None:
        """Kill one with -9."""
        self.task_managers[number].kill()
        self.task_managers[number].wait()

    def start(self) -> None:
        """Start everything, and wait until it is up."""
        self.job_manager = self._java(
            "job-manager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            *self._resources("GET_JM_RESOURCE_PARAMS"), extra=("--executionMode", "cluster"),
        )  # fmt: skip
        for number in range(TASK_MANAGERS):
            self.start_pool()
            self.start_task_manager(number)
        wanted = TASK_MANAGERS * SLOTS
        wait_until(lambda: self.num_slots() >= wanted or self._dead_log(), _SECONDS_TO_START)
        assert self.num_slots() >= wanted, self._dead_log()

    def _dead_log(self) -> str:
        """The end of the log of the last process, if it has ended."""
        process, name = self.task_managers[-1], f"task-manager-{len(self.task_managers) - 1}"
        log = self.folder / f"{name}.log"
        return log.read_text(errors="replace")[-3000:] if process.poll() is not None else ""

    def start_pool(self) -> None:
        """A worker pool for one more task manager."""
        number = len(self.pools) + 1
        command = [
            sys.executable, "-m", "lexbeam.pipeline.cli", "worker-pool",
            "--host", f"127.0.0.{10 + number}", "--port", str(self.pool_port),
            "--slots", str(SLOTS), "--log_dir", str(self.folder / f"workers-{number}"),
        ]  # fmt: skip
        self.pools.append(self._process(f"pool-{number}", command))

    def start_task_manager(self, number: int) -> None:
        """A task manager beside the pool of this number, counted from 0."""
        hosts = self.folder / f"hosts-{number}"
        here = f"127.0.0.1 localhost {socket.gethostname()}"
        hosts.write_text(f"{here}\n127.0.0.{11 + number} {POOL}\n")
        options, definitions = self._resources("GET_TM_RESOURCE_PARAMS")
        options = [*options, f"-Djdk.net.hosts.file={hosts}"]
        self.task_managers.append(
            self._java(
                f"task-manager-{len(self.task_managers)}",
                "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", options, definitions,
            )
        )  # fmt: skip

    def close(self) -> None:
        """End every process."""
        for process in self.pools:
            process.terminate()
        for process in [*self.task_managers, *filter(None, [self.job_manager])]:
            process.kill()
        for process in [*self.pools, *self.task_managers, *filter(None, [self.job_manager])]:
            with suppress(subprocess.TimeoutExpired):
                process.wait(15.0)
            process.kill()
            process.wait()

    def _resources(self, what: str) -> tuple[list[str], list[str]]:
        """JVM options and -D definitions that Flink derives from the memory settings."""
        home = flink_home()
        classes = f"{home}/bin/bash-java-utils.jar:{home}/lib/*"
        command = ["java", "-cp", classes, _UTILS, what, "--configDir", str(CONFIG.parent)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        options, definitions = (
            line.removeprefix(_RESULT) for line in said.splitlines() if line.startswith(_RESULT)
        )
        return options.split(), definitions.split()

    def _java(
        self, name: str, main: str, options: list[str], definitions: list[str],
        extra: tuple[str, ...] = (),
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        log4j = self.folder / "log4j.properties"
        log4j.write_text(_LOG4J)
        opens = shlex.split(yaml.safe_load(CONFIG.read_text())["env"]["java"]["opts"]["all"])
        local = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(self.rpc_port),
            "jobmanager.bind-host": "127.0.0.1",
            "blob.server.port": "0",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(self.rest_port),
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "io.tmp.dirs": str(self.folder / "tmp"),
        }
        command = [
            "java", *options, *opens, f"-Dlog4j.configurationFile={log4j}",
            "-cp", f"{flink_home()}/lib/*", main, "--configDir", str(CONFIG.parent),
            *definitions, *extra, *(f"-D{name}={value}" for name, value in local.items()),
        ]  # fmt: skip
        return self._process(name, command)

    def _process(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)


_LOG4J = """
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %-60c %x - %m%n
"""


@contextmanager
def flink_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of two task managers while the body runs; the folder is for its files."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory(prefix="lexbeam-flink-") as place,
        flink_cluster(Path(place)) as running,
    ):
        print(" ".join(running.options), f"  (logs: {place})", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
