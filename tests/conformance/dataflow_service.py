"""Dataflow's job service, as far as Beam's client asks it; jobs are carried out by Prism."""

from __future__ import annotations

import json
import re
import threading
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner
from google.cloud import dataflow

from lexbeam.transforms import storage

PROJECT, REGION = "test-project", "us-central1"
_JOBS = f"/v1b3/projects/{PROJECT}/locations/{REGION}/jobs"
_ENDED = ("JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")


@dataclass
class SubmittedJob:
    """A job that was created.

    Attributes:
        request: the body of CreateJob, as Google's own type.
        pipeline: what it was asked to run.
        state: as Dataflow calls it.
        error: why it failed.
    """

    request: dataflow.Job
    pipeline: beam_runner_api_pb2.Pipeline
    state: str = "JOB_STATE_PENDING"
    error: str = ""

    @property
    def pool(self) -> Any:
        """The workers that were asked for."""
        (pool,) = self.request.environment.worker_pools
        return pool

    @property
    def options(self) -> dict[str, Any]:
        """Options of the pipeline, as workers get them."""
        return dict(self.request.environment.sdk_pipeline_options["options"])


@dataclass
class FakeDataflow:
    """The service, while it is entered.

    Attributes:
        prism: address of what carries jobs out; empty: nothing does, and jobs stay pending.
        worker_pool: address of the workers.
        jobs: what was created, by id.
    """

    prism: str = ""
    worker_pool: str = ""
    jobs: dict[str, SubmittedJob] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> FakeDataflow:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                code, said = service.answer(method, urlsplit(self.path).path, body)
                data = json.dumps(said).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.answer("GET")

            def do_POST(self) -> None:
                self.answer("POST")

            def do_PUT(self) -> None:
                self.answer("PUT")

            def log_message(self, format: str, *values: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def endpoint(self) -> str:
        """For `--dataflow_endpoint`; Beam speaks REST where it reads localhost."""
        return f"http://localhost:{self._server.server_port}"

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer."""
        if method == "POST" and path == _JOBS:
            return 200, self._create(dataflow.Job.from_json(body))
        if method == "GET" and path == _JOBS:
            return 200, {"jobs": [self._described(job_id) for job_id in self.jobs]}
        match = re.fullmatch(rf"{_JOBS}/([^/]+)(/messages)?", path)
        if match is None or match[1] not in self.jobs:
            return 404, {"error": {"code": 404, "message": f"no {method} {path}"}}
        job = self.jobs[match[1]]
        if match[2]:
            return 200, {"jobMessages": [_message(job.error)] if job.error else []}
        if method == "PUT" and job.state not in _ENDED:
            job.state = dataflow.Job.from_json(body).requested_state.name
        return 200, self._described(match[1])

    def _described(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        return {
            "id": job_id, "name": job.request.name, "currentState": job.state,
            "clientRequestId": job.request.client_request_id,
        }  # fmt: skip

    def _create(self, request: dataflow.Job) -> dict[str, Any]:
        for job_id, job in self.jobs.items():
            if job.request.name == request.name and job.state not in _ENDED:
                return self._described(job_id)  # as the service does
        url = request.environment.sdk_pipeline_options["options"]["pipelineUrl"]
        pipeline = beam_runner_api_pb2.Pipeline.FromString(storage.read_bytes(url))
        job_id = f"job-{len(self.jobs)}"
        self.jobs[job_id] = SubmittedJob(request, pipeline)
        if self.prism:
            thread = threading.Thread(target=self._carry_out, args=(self.jobs[job_id],))
            thread.start()
            self._threads.append(thread)
        return self._described(job_id)

    def _carry_out(self, job: SubmittedJob) -> None:
        job.state = "JOB_STATE_RUNNING"
        try:
            runner = PortableRunner()
            result = runner.run_portable_pipeline(
                with_workers_in(job.pipeline, self.worker_pool),
                PipelineOptions([f"--job_endpoint={self.prism}", "--experiments=beam_fn_api"]),
            )
            state = result.wait_until_finish()
            assert str(state).endswith("DONE"), state
        except Exception:
            job.error = traceback.format_exc()
            job.state = "JOB_STATE_FAILED"
        else:
            job.state = "JOB_STATE_DONE"


def _message(text: str) -> dict[str, Any]:
    return {
        "messageText": text, "messageImportance": "JOB_MESSAGE_ERROR",
        "time": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def with_workers_in(
    pipeline: beam_runner_api_pb2.Pipeline, worker_pool: str
) -> beam_runner_api_pb2.Pipeline:
    """A pipeline for Dataflow whose workers are those of a pool, not of an image."""
    changed = beam_runner_api_pb2.Pipeline()
    changed.CopyFrom(pipeline)
    endpoint = beam_runner_api_pb2.ExternalPayload()
    endpoint.endpoint.url = worker_pool
    for environment in changed.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        environment.urn = common_urns.environments.EXTERNAL.urn
        environment.payload = endpoint.SerializeToString()
        # What an image holds.
        del environment.dependencies[:]
    return changed
