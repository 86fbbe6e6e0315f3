"""What a worker is told by its runner before it starts: endpoints, options, the job's files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc
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
from apache_beam.runners.worker.channel_factory import GRPCChannelFactory
from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from google.protobuf import json_format

_SECONDS, _SECONDS_TO_FETCH = 60.0, 600.0
_SECONDS_TO_HANG_UP = 5.0
_JOB_NAME = "beam:option:job_name:v1"
_STAGED, _OPTIONS = "staged", "pipeline_options.json"
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Provision:
    """What a worker needs, in a folder of its own.

    Attributes:
        folder: the worker's; `staged` in it holds the job's files.
        control: where the worker is to ask its runner for work.
        job_name: as the job's options have it; empty where they have none.
        environment: variables by which Beam's worker finds its runner and its options.
    """

    folder: Path
    control: str
    job_name: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def staged(self) -> Path:
        """Folder of the job's files."""
        return self.folder / _STAGED


def provision(request: beam_fn_api_pb2.StartWorkerRequest, folder: Path) -> Provision:
    """Ask the runner, and fetch what the job has staged; raises grpc.RpcError or ValueError."""
    info = _info(request)
    (folder / _STAGED).mkdir()
    options = folder / _OPTIONS
    options.write_text(json_format.MessageToJson(info.pipeline_options), encoding="utf-8")
    endpoint = info.artifact_endpoint.url or request.artifact_endpoint.url
    if info.dependencies:
        _fetch(endpoint, request.worker_id, info, folder / _STAGED)
    logging = info.logging_endpoint.url or request.logging_endpoint.url
    control = info.control_endpoint.url or request.control_endpoint.url
    environment = {
        "WORKER_ID": request.worker_id,
        "PIPELINE_OPTIONS_FILE": str(options),
        "SEMI_PERSISTENT_DIRECTORY": str(folder),
        "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(control),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    if logging:
        environment["LOGGING_API_SERVICE_DESCRIPTOR"] = _descriptor(logging)
    if info.status_endpoint.url:
        environment["STATUS_API_SERVICE_DESCRIPTOR"] = _descriptor(info.status_endpoint.url)
    for name, key in (("JOB_NAME", "job_name"), ("JOB_ID", "job_id")):
        if key in info.metadata:
            environment[name] = info.metadata[key]
    job_name = str(dict(info.pipeline_options).get(_JOB_NAME) or "")
    return Provision(folder, control, job_name, environment)


def hang_up(control: str, worker_id: str) -> None:
    """Tell a runner that a worker is dead: call in its place, and hang up.

    A runner waits for ever for a worker that has died before it first called.
    """
    with _channel(control, worker_id) as channel:
        stub = beam_fn_api_pb2_grpc.BeamFnControlStub(channel)
        call = stub.Control(iter(()), timeout=_SECONDS_TO_HANG_UP)
        try:
            for _ in call:
                break
        except grpc.RpcError:
            return  # It has gone itself, or has understood.
        call.cancel()


def _descriptor(url: str) -> str:
    return str(endpoints_pb2.ApiServiceDescriptor(url=url))


def _channel(endpoint: str, worker_id: str) -> grpc.Channel:
    """A channel on which the runner knows for which worker it is asked."""
    channel = GRPCChannelFactory.insecure_channel(endpoint, options=_ANY_SIZE)
    return grpc.intercept_channel(channel, WorkerIdInterceptor(worker_id))


def _info(request: beam_fn_api_pb2.StartWorkerRequest) -> beam_provision_api_pb2.ProvisionInfo:
    endpoint = request.provision_endpoint.url
    if not endpoint:
        # Runners before the provision service told everything in the request.
        return beam_provision_api_pb2.ProvisionInfo()
    with _channel(endpoint, request.worker_id) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        asked = beam_provision_api_pb2.GetProvisionInfoRequest()
        return stub.GetProvisionInfo(asked, timeout=_SECONDS).info


def _fetch(
    endpoint: str, worker_id: str, info: beam_provision_api_pb2.ProvisionInfo, folder: Path
) -> None:
    with _channel(endpoint, worker_id) as channel:
        stub = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        asked = beam_artifact_api_pb2.ResolveArtifactsRequest(artifacts=info.dependencies)
        artifacts = stub.ResolveArtifacts(asked, timeout=_SECONDS).replacements
        for number, artifact in enumerate(artifacts):
            wanted = beam_artifact_api_pb2.GetArtifactRequest(artifact=artifact)
            with open(folder / _staged_name(artifact, number), "wb") as file:
                for block in stub.GetArtifact(wanted, timeout=_SECONDS_TO_FETCH):
                    file.write(block.data)


def _staged_name(artifact: beam_runner_api_pb2.ArtifactInformation, number: int) -> str:
    """The file's name; raises ValueError where it would lie elsewhere."""
    if artifact.role_urn == common_urns.artifact_roles.PIP_REQUIREMENTS_FILE.urn:
        return f"requirements-{number}.txt"
    if artifact.role_urn != common_urns.artifact_roles.STAGING_TO.urn:
        raise ValueError(f"a staged file of the unknown role {artifact.role_urn!r}")
    payload = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload)
    name = str(payload.staged_name)
    if Path(name).name != name:
        raise ValueError(f"a staged file with the name {name!r}")
    return name
