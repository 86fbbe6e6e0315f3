"""Beam's worker pool service: a process for each worker that a runner asks for.

Unlike Beam's own pool it hands on pipeline options, installs what a job has staged, never lets a
worker wait for somebody to read what it prints, and answers health checks.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import grpc
import psutil
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import log
from lexbeam.pipeline.workers.environment import Environments, StagedPackagesError
from lexbeam.pipeline.workers.names import is_followed_by
from lexbeam.pipeline.workers.output import Output
from lexbeam.pipeline.workers.provision import Provision, hang_up, provision
from lexbeam.transforms.threads import WORKERS_PER_HOST

SECONDS_TO_END = 5.0
# A worker that dies before it has called its runner is started again, up to so many in all.
MOST_TRIES = 3
_SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_CALL = 15.0
_SECONDS_TO_CONNECT = 2.0
_THREADS = 32
_MODULE = "apache_beam.runners.worker.sdk_worker_main"


@dataclass(frozen=True)
class PoolConfig:
    """How a pool is run.

    Attributes:
        host: the address to listen at.
        port: the port; 0 for any free one.
        slots: worker processes that share the host's cores.
        log_dir: folder for what workers print, a file a worker; None: standard error.
        python: the workers' interpreter.
    """

    host: str
    port: int
    slots: int
    log_dir: str | None
    python: str


class Worker:
    """A process that works for a runner.

    Attributes:
        number: of all that the pool has started.
        worker_id: as its runner calls it.
        control: where its runner listens.
        job_name: its job's.
        has_called: whether it was seen to be connected there.
        is_stopped: whether it was told to end.
    """

    def __init__(
        self, number: int, worker_id: str, told: Provision, process: subprocess.Popen[bytes]
    ) -> None:
        self.number = number
        self.worker_id = worker_id
        self.control = told.control
        self.job_name = told.job_name
        self.has_called = False
        self.is_stopped = False
        self._folder = told.folder
        self._process = process

    def wait(self) -> int:
        """Its exit code when it has ended, negative for a signal; its folder is removed."""
        began = time.monotonic()
        while not self.has_called:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS_BETWEEN_LOOKS)
                break
            self.has_called = is_connected(self._process.pid, self.control)
            if time.monotonic() - began > SECONDS_TO_CALL and not is_listening(self.control):
                # Its runner has gone meanwhile, and it would go on trying to call.
                self.stop()
        code = self._process.wait()
        # Whatever it has started ends with it.
        self._signal(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
        return code

    def stop(self) -> None:
        """End it, in good order where it does not take too long."""
        self.is_stopped = True
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def is_connected(pid: int, address: str) -> bool:
    """Whether a process is connected to a port of that number."""
    port = int(address.rpartition(":")[2])
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(
        connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port == port
        for connection in connections
    )


def is_listening(address: str) -> bool:
    """Whether anybody listens at an address."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT):
            return True
    except OSError:
        return False


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):  # type: ignore[misc]
    """Starts and stops workers; the service that runners call.

    Args:
        config: how.
        stream: where the pool and its workers say what they do.
    """

    def __init__(self, config: PoolConfig, stream: TextIO) -> None:
        self._config = config
        self._output = Output(stream)
        self._folder = Path(tempfile.mkdtemp(prefix="lexbeam-pool-"))
        self._environments = Environments(self._folder, config.python)
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._num_started = 0
        self._is_closed = False

    def say(self, level: str, event: str, text: str, **fields: Any) -> None:
        """A line for the user."""
        log.write(level, event, text, stream=self._output, **fields)  # type: ignore[arg-type]

    def StartWorker(  # noqa: N802, D102
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        try:
            self._start(request)
        except (OSError, ValueError, grpc.RpcError, StagedPackagesError) as error:
            text = f"worker {request.worker_id} cannot be started: {_reason(error)}"
            self.say("error", "worker-failed", text, worker_id=request.worker_id)
            return beam_fn_api_pb2.StartWorkerResponse(error=text)
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(  # noqa: N802, D102
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        with self._lock:
            found = [worker for worker in self._workers if worker.worker_id == request.worker_id]
        if len(found) == 1:
            found[0].stop()
        elif found:
            # Runners that share a pool may all have a worker 1-1, and know of no other's. A worker
            # ends by itself when its runner has gone.
            text = f"{len(found)} workers are called {request.worker_id}: none is stopped"
            self.say("warning", "same-name", text, worker_id=request.worker_id)
        return beam_fn_api_pb2.StopWorkerResponse()

    def _start(self, request: beam_fn_api_pb2.StartWorkerRequest, tries: int = 1) -> None:
        with self._lock:
            self._num_started += 1
            number = self._num_started
        folder = self._folder / f"worker-{number}"
        folder.mkdir()
        try:
            told = provision(request, folder)
            python = self._environments.interpreter(told.staged)
            process = self._spawn(python, number, folder, told.environment)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        worker = Worker(number, request.worker_id, told, process)
        self._stop_earlier(worker.job_name)
        with self._lock:
            self._workers.append(worker)
            num_alive = len(self._workers)
            is_closed = self._is_closed
        text = f"worker {number} ({worker.worker_id}) begins, process {process.pid}"
        self.say("info", "worker-begins", text, worker_id=worker.worker_id, pid=process.pid)
        if num_alive > self._config.slots:
            text = f"{num_alive} workers share {self._config.slots} slots: see --slots"
            self.say("warning", "more-than-slots", text)
        self._in_thread(self._await, worker, request, tries)
        if process.stdout is not None:
            self._in_thread(self._output.copy, process.stdout, f"worker {number}: ")
        if is_closed:
            worker.stop()

    def _stop_earlier(self, job_name: str) -> None:
        """Stop the workers of a run's stages before this one.

        A Flink task manager that has survived a failure of the job may keep some without end.
        """
        with self._lock:
            found = [
                worker for worker in self._workers if is_followed_by(worker.job_name, job_name)
            ]
        for worker in found:
            self._in_thread(worker.stop)

    def _spawn(
        self, python: str, number: int, folder: Path, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        # -P, and a folder of its own: what lies where the pool was started is nobody's module.
        command = [python, "-P", "-m", _MODULE]
        variables = os.environ | {WORKERS_PER_HOST: str(self._config.slots)} | environment
        log_file = None
        if self._config.log_dir is not None:
            log_file = open(Path(self._config.log_dir, f"worker-{number:05d}.log"), "ab")
        try:
            return subprocess.Popen(
                command, cwd=folder, env=variables, stdin=subprocess.DEVNULL,
                stdout=log_file or subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        finally:
            if log_file is not None:
                log_file.close()

    def _in_thread(self, function: Any, *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _await(
        self, worker: Worker, request: beam_fn_api_pb2.StartWorkerRequest, tries: int
    ) -> None:
        code = worker.wait()
        with self._lock:
            self._workers.remove(worker)
        # SIGTERM is how the pool and runners stop one.
        is_well = worker.is_stopped or code in (0, -signal.SIGTERM)
        level = "info" if is_well else "warning"
        text = f"worker {worker.number} ({worker.worker_id}) has ended, exit code {code}"
        self.say(level, "worker-ended", text, worker_id=worker.worker_id, exit_code=code)
        if not is_well and not worker.has_called:
            self._replace(worker, request, tries)

    def _replace(
        self, dead: Worker, request: beam_fn_api_pb2.StartWorkerRequest, tries: int
    ) -> None:
        """Start a worker again of whose death its runner knows nothing: it would wait for ever."""
        if self._is_closed:
            return
        if tries < MOST_TRIES:
            with suppress(OSError, ValueError, grpc.RpcError, StagedPackagesError):
                self._start(request, tries + 1)
                return
        text = f"worker {dead.worker_id} is given up: it died {tries} times before it worked"
        self.say("error", "worker-given-up", text, worker_id=dead.worker_id)
        hang_up(dead.control, dead.worker_id)

    def close(self) -> None:
        """End all workers, and leave nothing behind."""
        with self._lock:
            self._is_closed = True
            workers = list(self._workers)
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            list(threads.map(Worker.stop, workers))
        self.say("info", "pool-ended", f"the worker pool has ended, {len(workers)} workers with it")
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return f"the runner does not answer: {error.details()}"
    return str(error)


def serve(config: PoolConfig, stream: TextIO, stop: threading.Event) -> None:
    """Run a pool until the event is set.

    Raises ConfigError where nothing can listen at the address.
    """
    pool = WorkerPool(config, stream)
    try:
        # Two pools at one port would each get some of the calls.
        server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = _listen(server, config)
        server.start()
        threads = "thread" if _threads_a_worker(config) == 1 else "threads"
        text = (
            f"worker pool ready at {config.host}:{port}: {config.slots} slots, "
            f"{_threads_a_worker(config)} {threads} a worker"
        )
        pool.say("info", "pool-ready", text, host=config.host, port=port, slots=config.slots)
        stop.wait()
        servicer.enter_graceful_shutdown()
        server.stop(grace=0).wait()
    finally:
        pool.close()


def _listen(server: grpc.Server, config: PoolConfig) -> int:
    try:
        port = server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError:
        port = 0
    if not port:
        reason = f"nothing can listen there at {config.host}; is the port taken?"
        raise ConfigError("port", config.port, reason)
    return int(port)


def _threads_a_worker(config: PoolConfig) -> int:
    from lexbeam.models.cores import usable_cores

    return max(1, usable_cores() // config.slots)
