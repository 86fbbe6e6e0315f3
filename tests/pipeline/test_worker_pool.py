"""`lexbeam worker-pool` against a runner that the test plays; real ones: tests/conformance."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import grpc
import psutil
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import (
    beam_artifact_api_pb2,
    beam_artifact_api_pb2_grpc,
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    beam_runner_api_pb2,
    endpoints_pb2,
)

from lexbeam.pipeline.cli import main
from lexbeam.pipeline.workers import pool
from lexbeam.pipeline.workers.environment import Environments, StagedPackagesError
from lexbeam.pipeline.workers.output import Output
from tests.helpers import free_port, wait_until

# What stands in for Beam's worker: it says what it was told, prints more than any pipe holds, and
# works on until it is stopped.
WORKER = """
import json, os, pathlib, socket, sys, time
folder = pathlib.Path.cwd()
told = {
    "environment": dict(os.environ),
    "options": json.loads(pathlib.Path(os.environ["PIPELINE_OPTIONS_FILE"]).read_text()),
    "staged": {path.name: path.read_text() for path in (folder / "staged").iterdir()},
    "path": sys.path,
}
for _ in range(20_001):
    print("y" * 99)
sys.stdout.flush()
target = pathlib.Path(os.environ["TOLD"]) / os.environ["WORKER_ID"]
target.with_suffix(".tmp").write_text(json.dumps(told))
target.with_suffix(".tmp").rename(target)
if "CALL" in os.environ:
    address = os.environ["CONTROL_API_SERVICE_DESCRIPTOR"].split('"')[1]
    call = socket.create_connection(address.split(":"))
time.sleep(600)
"""


class Runner(
    beam_provision_api_pb2_grpc.ProvisionServiceServicer,
    beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceServicer,
    beam_fn_api_pb2_grpc.BeamFnControlServicer,
):
    """Provision, artifact and control service of a runner that has staged these files."""

    def __init__(self, staged: dict[str, bytes]) -> None:
        self._staged = staged
        self.asked_for: list[str] = []
        self.called_by: list[str] = []
        self.job_name = "one"

    def _artifact(self, name: str) -> beam_runner_api_pb2.ArtifactInformation:
        payload = beam_runner_api_pb2.ArtifactStagingToRolePayload(staged_name=name)
        return beam_runner_api_pb2.ArtifactInformation(
            type_urn=common_urns.artifact_types.FILE.urn,
            role_urn=common_urns.artifact_roles.STAGING_TO.urn,
            role_payload=payload.SerializeToString(),
        )

    def GetProvisionInfo(self, request, context):
        self.asked_for += [
            value for key, value in context.invocation_metadata() if key == "worker_id"
        ]
        info = beam_provision_api_pb2.ProvisionInfo(
            dependencies=[self._artifact(name) for name in self._staged],
            runner_capabilities=["one", "two"],
            metadata={"job_id": "job-7"},
        )
        options = {"beam:option:answer:v1": "42", "beam:option:job_name:v1": self.job_name}
        info.pipeline_options.update(options)
        return beam_provision_api_pb2.GetProvisionInfoResponse(info=info)

    def ResolveArtifacts(self, request, context):
        return beam_artifact_api_pb2.ResolveArtifactsResponse(replacements=request.artifacts)

    def Control(self, request_iterator, context):
        metadata = context.invocation_metadata()
        self.called_by += [value for key, value in metadata if key == "worker_id"]
        yield from ()

    def GetArtifact(self, request, context):
        payload = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(
            request.artifact.role_payload
        )
        for byte in self._staged[payload.staged_name]:
            yield beam_artifact_api_pb2.GetArtifactResponse(data=bytes([byte]))


@pytest.fixture
def serve() -> Iterator[Callable[[Runner], str]]:
    """`serve(runner)`: its address."""
    servers = []

    def run(runner: Runner) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(runner, server)
        beam_artifact_api_pb2_grpc.add_ArtifactRetrievalServiceServicer_to_server(runner, server)
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(runner, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield run
    for server in servers:
        server.stop(0).wait()


@pytest.fixture
def told(tmp_path, monkeypatch) -> Path:
    """Where the workers say what they were told."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "stand_in.py").write_text(WORKER)
    folder = tmp_path / "told"
    folder.mkdir()
    monkeypatch.setattr(pool, "_MODULE", "stand_in")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv("TOLD", str(folder))
    return folder


@pytest.fixture
def workers(told) -> Iterator[Callable[..., tuple[pool.WorkerPool, StringIO]]]:
    """`workers(slots, log_dir)`: a pool without a server, and what it says."""
    pools = []

    def start(slots: int = 2, log_dir: Path | None = None) -> tuple[pool.WorkerPool, StringIO]:
        said = StringIO()
        config = pool.PoolConfig(
            "127.0.0.1", 0, slots, str(log_dir) if log_dir else None, sys.executable
        )
        pools.append(pool.WorkerPool(config, said))
        return pools[-1], said

    yield start
    for started in pools:
        started.close()


def request(worker_id: str, address: str) -> beam_fn_api_pb2.StartWorkerRequest:
    endpoint = endpoints_pb2.ApiServiceDescriptor(url=address)
    return beam_fn_api_pb2.StartWorkerRequest(
        worker_id=worker_id,
        control_endpoint=endpoint,
        logging_endpoint=endpoint,
        artifact_endpoint=endpoint,
        provision_endpoint=endpoint,
    )


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "stand_in" in p.cmdline()]


@pytest.mark.parametrize("to_files", [False, True])
def test_a_worker_is_told_all_and_may_print_what_it_likes(workers, serve, told, tmp_path, to_files):
    runner = Runner({"notes.txt": b"staged"})
    address = serve(runner)
    logs = tmp_path / "logs"
    logs.mkdir()
    workers_, said = workers(slots=2, log_dir=logs if to_files else None)
    answer = workers_.StartWorker(request("w-1", address), None)
    assert answer.error == ""
    # It says so after two megabytes of prints, which nobody reads here.
    wait_until((told / "w-1").exists)
    values = json.loads((told / "w-1").read_text())
    assert values["options"]["beam:option:answer:v1"] == "42"
    assert values["staged"] == {"notes.txt": "staged"}
    environment = values["environment"]
    assert environment["WORKER_ID"] == "w-1"
    assert environment["LEXBEAM_WORKERS_PER_HOST"] == "2"
    assert environment["RUNNER_CAPABILITIES"] == "one two"
    assert environment["JOB_ID"] == "job-7"
    for name in ("CONTROL", "LOGGING"):
        assert environment[f"{name}_API_SERVICE_DESCRIPTOR"] == f'url: "{address}"\n'
    assert "" not in values["path"]
    assert str(Path.cwd()) not in values["path"]
    assert runner.asked_for == ["w-1"]
    folder = Path(environment["SEMI_PERSISTENT_DIRECTORY"])
    (process,) = children()
    workers_.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="w-1"), None)
    assert not process.is_running()
    wait_until(lambda: not folder.exists())
    if to_files:
        assert (logs / "worker-00001.log").stat().st_size > 2_000_000
        assert "yyy" not in said.getvalue()
    else:
        wait_until(lambda: "worker 1: yyy" in said.getvalue())


def test_workers_of_one_name_are_not_mistaken_for_each_other(workers, serve):
    address = serve(Runner({}))
    workers_, said = workers(slots=1)
    for _ in range(2):
        assert workers_.StartWorker(request("1-1", address), None).error == ""
    assert len(children()) == 2
    workers_.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"), None)
    assert len(children()) == 2
    wait_until(lambda: "2 workers are called 1-1" in said.getvalue())
    assert "2 workers share 1 slots" in said.getvalue()
    workers_.close()
    assert children() == []


def test_a_worker_that_dies_is_reported(workers, serve, told, monkeypatch):
    monkeypatch.setenv("CALL", "yes")
    workers_, said = workers()
    address = serve(Runner({}))
    workers_.StartWorker(request("w-1", address), None)
    wait_until((told / "w-1").exists)
    (process,) = children()
    wait_until(lambda: pool.is_connected(process.pid, address))
    # Until the pool has seen it as well.
    wait_until(lambda: workers_._workers[0].has_called)
    process.kill()
    wait_until(lambda: "worker 1 (w-1) has ended, exit code -9" in said.getvalue())
    wait_until(lambda: not workers_._workers)
    assert "worker 2" not in said.getvalue()


def test_a_worker_that_dies_before_it_calls_is_started_again_and_then_given_up(
    workers, serve, told
):
    runner = Runner({})
    workers_, said = workers()
    workers_.StartWorker(request("w-1", serve(runner)), None)
    for number in range(1, pool.MOST_TRIES + 1):
        wait_until(lambda number=number: f"worker {number} (w-1) begins" in said.getvalue())
        wait_until(children)
        children()[0].kill()
        ended = f"worker {number} (w-1) has ended, exit code -9"
        wait_until(lambda ended=ended: ended in said.getvalue())
    wait_until(lambda: "worker w-1 is given up: it died 3 times" in said.getvalue())
    # Its runner would wait for it without end.
    wait_until(lambda: runner.called_by == ["w-1"])
    assert not children()


def test_a_worker_whose_runner_has_gone_before_it_called_is_ended(
    workers, serve, told, monkeypatch
):
    monkeypatch.setattr(pool, "SECONDS_TO_CALL", 0.5)
    workers_, said = workers()
    asked = request("w-1", serve(Runner({})))
    asked.control_endpoint.url = f"127.0.0.1:{free_port()}"
    workers_.StartWorker(asked, None)
    wait_until(lambda: "worker 1 (w-1) has ended, exit code -15" in said.getvalue())
    assert "worker 2" not in said.getvalue()


def test_workers_of_a_runs_earlier_stage_are_ended(workers, serve, told):
    runner = Runner({})
    address = serve(runner)
    workers_, said = workers(slots=3)
    for worker_id, name in (
        ("w-1", "lexbeam-count--1-night"),
        ("w-2", "lexbeam-count--2-other"),
        ("w-3", "lexbeam-bow--1-night"),
    ):
        runner.job_name = name
        assert workers_.StartWorker(request(worker_id, address), None).error == ""
    wait_until(lambda: "worker 1 (w-1) has ended" in said.getvalue())
    assert len(children()) == 2


def test_a_runner_that_does_not_answer_is_an_error(workers):
    workers_, said = workers()
    answer = workers_.StartWorker(request("w-1", "127.0.0.1:9"), None)
    assert "worker w-1 cannot be started: the runner does not answer" in answer.error
    wait_until(lambda: answer.error in said.getvalue())


def test_a_staged_name_is_never_a_path(workers, serve, tmp_path):
    workers_, _ = workers()
    answer = workers_.StartWorker(request("w-1", serve(Runner({"../evil": b"x"}))), None)
    assert "a staged file with the name '../evil'" in answer.error


def wheel(folder: Path, version: str, requires: str = "", says: str = "") -> Path:
    """A wheel of one module that knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"stagedthing-{version}-py3-none-any.whl"
    info = f"stagedthing-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: stagedthing\nVersion: {version}\n{requires}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stagedthing.py", f"version, says = {version!r}, {says!r}\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def staged(folder: Path, version: str, requires: str = "", says: str = "") -> Path:
    """A job's staged files, with a package."""
    path = wheel(folder, version, requires, says)
    (folder / "extra_packages.txt").write_text(path.name + "\n")
    return folder


def imported(python: str, expression: str) -> str:
    result = subprocess.run(
        [python, "-P", "-c", f"import stagedthing, numpy; print({expression})"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return result.stdout.strip()


def test_each_set_of_staged_packages_gets_an_environment_once(tmp_path):
    environments = Environments(tmp_path, sys.executable)
    (tmp_path / "nothing").mkdir()
    assert environments.interpreter(tmp_path / "nothing") == sys.executable
    # What the host has is enough for what the package needs.
    first = environments.interpreter(staged(tmp_path / "a", "1.0", "Requires-Dist: numpy\n"))
    assert imported(first, "stagedthing.version") == "1.0"
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert environments.interpreter(tmp_path / "b") == first
    second = environments.interpreter(staged(tmp_path / "c", "2.0"))
    assert second != first
    assert imported(second, "stagedthing.version") == "2.0"
    assert imported(first, "stagedthing.version") == "1.0"


def test_a_jobs_package_wins_over_the_hosts_of_the_same_version(tmp_path):
    for name in ("host", "job"):
        (tmp_path / name).mkdir()
    of_host = staged(tmp_path / "a", "1.0", says="host")
    host = Environments(tmp_path / "host", sys.executable).interpreter(of_host)
    of_job = staged(tmp_path / "b", "1.0", says="job")
    job = Environments(tmp_path / "job", host).interpreter(of_job)
    assert imported(job, "stagedthing.says") == "job"
    assert imported(host, "stagedthing.says") == "host"


def test_a_package_that_cannot_be_installed_is_named(tmp_path):
    folder = staged(tmp_path / "a", "1.0")
    (folder / "stagedthing-1.0-py3-none-any.whl").write_bytes(b"no wheel")
    with pytest.raises(StagedPackagesError, match="stagedthing-1.0-py3-none-any.whl"):
        Environments(tmp_path, sys.executable).interpreter(folder)


def test_output_is_lost_rather_than_waited_for():
    may_write = threading.Event()

    class Stuck(StringIO):
        def write(self, text: str) -> int:
            may_write.wait()
            return super().write(text)

    stream = Stuck()
    output = Output(stream)
    for number in range(50_000):
        output.write(f"{number}\n")
    may_write.set()
    output.write("last\n")
    output.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "0"
    assert any("lines were lost" in line for line in lines)
    assert len(lines) < 20_000


@pytest.fixture
def command() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """`command(*arguments)`: a pool in a process of its own that is ready, and its port."""
    started = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "lexbeam.pipeline.cli", "worker-pool", *arguments],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "worker pool ready at localhost:" in line, line + process.stderr.read()
        return process, line.split("localhost:")[1].split(":")[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_pool_answers_checks_and_ends_in_good_order(command, capfd):
    process, port = command("--port", "0", "--slots", "2")
    assert main(["worker-pool", "--check", f"localhost:{port}"]) == 0
    assert main(["worker-pool", "--port", port]) == 2
    assert f"--port {port}: nothing can listen there" in capfd.readouterr().err
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "the worker pool has ended" in error
    assert main(["worker-pool", "--check", f"localhost:{port}"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--port is required"),
        (["--port", "70000"], "--port 70000"),
        (["--port", "0", "--slots", "0"], "--slots 0"),
        (["--port", "0", "--python", "no-such-python"], "--python 'no-such-python'"),
        (["--port", "0", "--log_dir", "/dev/null/logs"], "--log_dir '/dev/null/logs'"),
        (["--port", "0", "--unknown"], "--unknown"),
    ],
)
def test_wrong_options_are_found_before_anything_listens(arguments, said, capsys):
    assert main(["worker-pool", *arguments]) == 2
    assert said in capsys.readouterr().err
