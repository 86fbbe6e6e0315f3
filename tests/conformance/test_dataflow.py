"""A job for Dataflow: what the service is asked for, and what its graph makes on Prism."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from google.cloud import dataflow

from lexbeam.pipeline.dataflow import session, template
from lexbeam.transforms import storage
from tests.conformance.conftest import SAMPLE, Jobs
from tests.conformance.dataflow_service import PROJECT, REGION, FakeDataflow, SubmittedJob
from tests.conformance.same import assert_same
from tests.conformance.test_stores import Store
from tests.conformance.test_stores import gs as gs
from tests.helpers import download, upload
from tests.pipeline.conftest import Lexbeam, only_run
from tests.pipeline.conftest import lexbeam as lexbeam

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1200)]

IMAGE = "us-docker.pkg.dev/test-project/lexbeam/lexbeam:0.1.0"


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    """Beam looks after its jobs every five seconds, which is far too seldom here."""
    quick = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(min(seconds, 0.1)))
    monkeypatch.setattr(dataflow_runner, "time", quick)
    monkeypatch.setattr(session, "_SECONDS_BETWEEN_LOOKS", 0.1)


@pytest.fixture(autouse=True)
def without_credentials(monkeypatch) -> None:
    """Nobody is asked who we are."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
def workers(gs: Store) -> Iterator[str]:
    """Address of workers that are threads of this process, and so reach the store."""
    address, pool = BeamFnExternalWorkerPoolServicer.start()
    yield address
    pool.stop(grace=1).wait()


@pytest.fixture
def service(prism: str, workers: str) -> Iterator[FakeDataflow]:
    with FakeDataflow(prism, workers) as fake:
        yield fake


def on_dataflow(service: FakeDataflow, *more: str) -> tuple[str, ...]:
    return (
        "--runner", "DataflowRunner", "--project", PROJECT, "--region", REGION,
        "--temp_location", "gs://corpora/tmp", "--sdk_container_image", IMAGE,
        "--dataflow_endpoint", service.endpoint, "--no_auth", "--max_num_workers", "20",
        "--machine_type", "n2-standard-8", *more,
    )  # fmt: skip


def stage_of(job: SubmittedJob) -> str:
    return job.request.name.split("-")[1]


def hints_of(job: SubmittedJob) -> dict[str, str]:
    """Resource hints of all steps, which must have the same."""
    components = job.pipeline.components
    used = {
        transform.environment_id
        for transform in components.transforms.values()
        if transform.environment_id
    }
    (environment,) = (components.environments[name] for name in used)
    return {name: value.decode() for name, value in environment.resource_hints.items()}


def test_the_graphs_of_a_run_make_its_output_on_prism(
    gs: Store, service: FakeDataflow, jobs: Jobs, lexbeam: Lexbeam, tmp_path: Path
):
    url = upload(SAMPLE, f"{gs.url}/in")
    outcome = lexbeam(
        "run", "--input", url, "--output", f"{gs.url}/out", *jobs.options,
        *on_dataflow(service, "--worker_ram", "6G"),
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert_same(only_run(download(f"{gs.url}/out", tmp_path / "out")), jobs.references["run"])

    submitted = {stage_of(job): job for job in service.jobs.values()}
    assert list(submitted) == [
        "tokenize", "duplicates", "count", "merge", "vocabulary", "bow", "lda", "encode", "index",
        "extract",
    ]  # fmt: skip
    for stage, job in submitted.items():
        assert job.state == "JOB_STATE_DONE"
        assert job.request.type_.name == "JOB_TYPE_BATCH"
        assert len(job.request.name) <= 63
        assert job.pool.machine_type == "n2-standard-8"
        assert job.pool.autoscaling_settings.max_num_workers == 20
        assert [image.container_image for image in job.pool.sdk_harness_container_images] == [IMAGE]
        experiments = list(job.request.environment.experiments)
        assert "no_use_multiple_sdk_containers" in experiments
        assert "use_multiple_sdk_containers" not in experiments
        assert job.pool.num_threads_per_worker == 2
        wanted = {"beam:resources:min_ram_bytes:v1": str(6 << 30)} if stage == "encode" else {}
        assert hints_of(job) == wanted, stage
        assert len(job.pipeline.SerializeToString()) < 100_000
        assert len(dataflow.Job.to_json(job.request)) < 1 << 20


def test_only_the_encoder_asks_for_a_gpu_and_no_worker_goes_without(
    gs: Store, service: FakeDataflow, jobs: Jobs, lexbeam: Lexbeam
):
    documents = upload(SAMPLE / "zh.jsonl", f"{gs.url}/in/zh.jsonl")
    model = upload(jobs.references["fit"], f"{gs.url}/fitted")
    outcome = lexbeam(
        "transform", "--input", documents, "--model", model, "--output", f"{gs.url}/out",
        *on_dataflow(service, "--gpu_type", "nvidia-l4"),
    )  # fmt: skip
    # Nothing here has a GPU.
    assert outcome.code == 1
    (line,) = [line for line in outcome.err.splitlines() if "the Dataflow job failed: " in line]
    assert "the run is set to cuda; this machine has none" in line
    submitted = {stage_of(job): job for job in service.jobs.values()}
    assert list(submitted) == ["tokenize", "duplicates", "bow", "encode"]
    assert {stage: hints_of(job) for stage, job in submitted.items() if hints_of(job)} == {
        "encode": {"beam:resources:accelerator:v1": "type:nvidia-l4;count:1;install-nvidia-driver"}
    }
    config = json.loads(storage.read_bytes(f"{run_of(gs.url)}/plan.json"))["config"]["encoder"]
    assert (config["device"], config["max_batch_tokens"]) == ("cuda", 32_768)


def run_of(url: str) -> str:
    """The one run of an output below a bucket."""
    (run_id,) = storage.list_folders(f"{url}/out/runs")
    return f"{url}/out/runs/{run_id}"


class DriverDied(BaseException):
    """Nothing catches it, and nothing is put in order."""


def test_a_job_whose_driver_has_died_is_cancelled_first(
    gs: Store, lexbeam: Lexbeam, monkeypatch: pytest.MonkeyPatch
):
    documents = upload(SAMPLE / "zh.jsonl", f"{gs.url}/in/zh.jsonl")
    with FakeDataflow() as service:
        command = (
            "fit", "--input", documents, "--output", f"{gs.url}/out", "--run_id", "Of_one.driver",
            "--features", "tfidf", *on_dataflow(service),
        )  # fmt: skip

        def die(*_: object) -> None:
            raise DriverDied

        # A driver that is gone cancels nothing.
        monkeypatch.setattr(dataflow_runner.DataflowPipelineResult, "cancel", lambda result: None)
        monkeypatch.setattr(session.DataflowSession, "_started", die)
        with pytest.raises(DriverDied):
            lexbeam(*command)
        (left,) = service.jobs.values()
        assert left.state == "JOB_STATE_PENDING"
        assert left.request.name.endswith("-of-one-driver")
        with pytest.raises(DriverDied):
            lexbeam(*command)
        first, second = service.jobs.values()
        assert first.state == "JOB_STATE_CANCELLED"
        assert first.request.name == second.request.name


def test_ctrl_c_cancels_the_job(gs: Store, lexbeam: Lexbeam, monkeypatch: pytest.MonkeyPatch):
    documents = upload(SAMPLE / "zh.jsonl", f"{gs.url}/in/zh.jsonl")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session.DataflowSession, "_started", interrupt)
    with FakeDataflow() as service:
        outcome = lexbeam(
            "fit", "--input", documents, "--output", f"{gs.url}/out", "--features", "tfidf",
            *on_dataflow(service),
        )  # fmt: skip
        assert outcome.code == 130
        (job,) = service.jobs.values()
        assert job.state == "JOB_STATE_CANCELLED"


def test_the_template_launches_one_job_that_drives_the_others(gs: Store):
    with FakeDataflow() as service:
        template.main(
            [
                f"--input={gs.url}/in", f"--output={gs.url}/out", "--job_name=nightly",
                f"--template_location={gs.url}/launches/1", *on_dataflow(service),
            ]
        )  # fmt: skip
        assert not service.jobs  # which is for the launcher to create
    job = dataflow.Job.from_json(storage.read_bytes(f"{gs.url}/launches/1"))
    assert job.name == "nightly"
    (pool,) = job.environment.worker_pools
    assert pool.num_workers == pool.autoscaling_settings.max_num_workers == 1
    url = job.environment.sdk_pipeline_options["options"]["pipelineUrl"]
    assert b"Drive/Run" in storage.read_bytes(url)
