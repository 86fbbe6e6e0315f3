"""Whole jobs from and to MinIO (s3://) and fake-gcs-server (gs://)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gcsfs
import pytest
import s3fs

from lexbeam.transforms import host_cache, storage
from tests.conformance.conftest import (
    SAMPLE,
    SECONDS_A_JOB,
    Jobs,
    Outcome,
    lexbeam,
    server,
    start,
    tool,
)
from tests.conformance.same import assert_same
from tests.conformance.test_runners import portable
from tests.conftest import skip_or_fail
from tests.helpers import download, free_port, race, upload, wait_until

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1200)]

BUCKET = "corpora"
KEY, SECRET = "lexbeam", "lexbeam-secret"


@dataclass(frozen=True)
class Store:
    """An object store.

    Attributes:
        url: of its bucket.
        log: of the server.
    """

    url: str
    log: Path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """What is copied from a store goes into a cache of this test alone."""
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path / "cache"))


def set_environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    # Clients of this process know the address of the test's before.
    s3fs.S3FileSystem.clear_instance_cache()
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def s3(tmp_path, monkeypatch) -> Iterator[Store]:
    port, console, log = free_port(), free_port(), tmp_path / "minio.log"
    (tmp_path / "minio" / BUCKET).mkdir(parents=True)
    set_environment(
        monkeypatch,
        {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        },
    )
    command = [
        tool("minio"), "server", "--address", f"127.0.0.1:{port}",
        "--console-address", f"127.0.0.1:{console}", str(tmp_path / "minio"),
    ]  # fmt: skip
    with server(command, port, log, MINIO_ROOT_USER=KEY, MINIO_ROOT_PASSWORD=SECRET):
        yield Store(f"s3://{BUCKET}", log)


@pytest.fixture
def gs(tmp_path, monkeypatch) -> Iterator[Store]:
    port, log = free_port(), tmp_path / "gcs.log"
    (tmp_path / "gcs" / BUCKET).mkdir(parents=True)
    set_environment(monkeypatch, {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"})
    command = [
        tool("fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
        "-public-host", f"127.0.0.1:{port}", "-backend", "filesystem",
        "-filesystem-root", str(tmp_path / "gcs"), "-log-level", "info",
    ]  # fmt: skip
    with server(command, port, log):
        yield Store(f"gs://{BUCKET}", log)


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(request.param)


# Which aiohttp has for bodies of some megabytes; s3fs gives them as they are.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_of_many_writers_one_wins(store, tmp_path):
    path = f"{store.url}/lock"
    results = race(lambda index: storage.put_if_absent(path, b"%d" % index), writers=16)
    assert results.count(True) == 1
    assert storage.read_bytes(path) == b"%d" % results.index(True)
    files = [tmp_path / f"part-{index}" for index in range(16)]
    for index, file in enumerate(files):
        # Larger than one request takes.
        file.write_bytes(b"%02d" % index * (3 << 20))
    results = race(
        lambda index: storage.commit_file(str(files[index]), f"{store.url}/a/part"), writers=16
    )
    assert results.count(True) == 1
    assert storage.read_bytes(f"{store.url}/a/part")[:2] == b"%02d" % results.index(True)


def arguments_on(store: Store, jobs: Jobs, model: Path) -> tuple[str, ...]:
    """The job `run` with everything that it reads on the store."""
    options = list(jobs.options)
    options[options.index("--model_id") + 1] = upload(model, f"{store.url}/tiny")
    sample = upload(SAMPLE, f"{store.url}/sample")
    return ("run", "--input", sample, *options, "--output", f"{store.url}/out")


def assert_same_there(store: Store, run_id: str, jobs: Jobs, folder: Path) -> None:
    run = download(f"{store.url}/out/runs/{run_id}", folder)
    # It names the model as it was given; the rest is the reference's.
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["encoder"]["model_id"].startswith(store.url)
    reference = jobs.references["run"]
    named = json.loads((reference / "model" / "config.json").read_text())
    assert config["encoder"] | {"model_id": ""} == named["encoder"] | {"model_id": ""}
    assert_same(run, reference, without=("model/config.json",))


def downloads_of(store: Store, name: str) -> int:
    """How often the server was asked for the content of a file of this name."""
    pattern = rf"GET /download/\S*{re.escape(name)}\?alt=media"
    return len(re.findall(pattern, store.log.read_text()))


def test_a_job_on_gs(gs, jobs, model, tmp_path):
    arguments = arguments_on(gs, jobs, model)
    outcome = lexbeam(*arguments, "--run_id", "a")
    assert outcome.code == 0, outcome.said
    assert_same_there(gs, "a", jobs, tmp_path / "got")
    assert downloads_of(gs, "model.safetensors") == 1
    assert lexbeam("verify", f"{gs.url}/out").code == 0


# Begins when it is told to, so that several begin at once.
COPY = """
import sys
from lexbeam.transforms import host_cache, storage
storage.exists(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
host_cache.copy_of_folder(sys.argv[1])
"""


def test_of_the_processes_of_a_host_one_fetches_a_model(gs, model):
    url = upload(model, f"{gs.url}/tiny")
    command = [sys.executable, "-c", COPY, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    assert downloads_of(gs, "model.safetensors") == 1
    # Another version is another model.
    storage.put_overwrite(f"{url}/config.json", (model / "config.json").read_bytes() + b"\n")
    host_cache.copy_of_folder(url)
    assert downloads_of(gs, "model.safetensors") == 2


def test_a_job_on_s3_on_prism(s3, jobs, model, tmp_path, prism):
    arguments = arguments_on(s3, jobs, model)
    outcome = lexbeam(*arguments, "--run_id", "a", *portable(prism, "LOOPBACK"))
    assert outcome.code == 0, outcome.said
    assert_same_there(s3, "a", jobs, tmp_path / "got")
    verified = lexbeam("verify", f"{s3.url}/out")
    assert verified.code == 0, verified.said
    model_dir = f"{s3.url}/out/runs/a/model"
    transform = ("transform", "--input", f"{s3.url}/sample/zh.jsonl", "--model", model_dir)
    outcome = lexbeam(*transform, "--output", f"{s3.url}/transformed", "--run_id", "t")
    assert outcome.code == 0, outcome.said
    got = download(f"{s3.url}/transformed/runs/t", tmp_path / "transformed")
    assert_same(got, jobs.references["transform"])


def test_of_two_drivers_with_one_run_id_one_wins(store, jobs, model, tmp_path):
    arguments = (*arguments_on(store, jobs, model), "--run_id", "a")
    drivers = [start(*arguments) for _ in range(2)]
    outcomes = []
    for driver in drivers:
        said, _ = driver.communicate(timeout=SECONDS_A_JOB)
        outcomes.append(Outcome(driver.returncode, said))
    said = "\n".join(outcome.said for outcome in outcomes)
    assert sorted(outcome.code for outcome in outcomes) in ([0, 0], [0, 2]), said
    for outcome in outcomes:
        busy = outcome.code == 2 and "another process is working on run a" in outcome.said
        late = outcome.code == 0 and "is complete already" in outcome.said
        won = outcome.code == 0 and "output: " in outcome.said
        assert busy or late or won, outcome.said
    assert sum("terms  " in outcome.said for outcome in outcomes) == 1, said
    assert_same_there(store, "a", jobs, tmp_path / "got")


def test_a_killed_job_is_resumed(s3, jobs, model, tmp_path):
    arguments = (*arguments_on(s3, jobs, model), "--run_id", "a")
    driver = start(*arguments)
    vocabulary = f"{s3.url}/out/runs/a/model/vocabulary.parquet"
    wait_until(lambda: storage.exists(vocabulary) or driver.poll() is not None, SECONDS_A_JOB)
    assert driver.poll() is None
    # The supervisor's end is the end of the job, which is in a group of its own.
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    outcome = lexbeam(*arguments)
    assert outcome.code == 0, outcome.said
    assert "resuming run a" in outcome.said
    assert_same_there(s3, "a", jobs, tmp_path / "got")


def test_a_bucket_that_is_not_there_is_named(store):
    outcome = lexbeam(
        "run", "--input", SAMPLE, "--output", store.url.replace(BUCKET, "no-such-bucket"),
        "--features", "tfidf",
    )  # fmt: skip
    assert outcome.code == 2, outcome.said
    assert "no-such-bucket" in outcome.said
    assert "Traceback" not in outcome.said


def test_hdfs_is_for_reading_only():
    outcome = lexbeam("run", "--input", SAMPLE, "--output", "hdfs://host/out")
    assert outcome.code == 2
    assert "hdfs:// can only be read" in outcome.said


def test_the_suite_is_offline():
    """Nothing but this host is there, so that no job can have fetched anything elsewhere."""
    if os.environ.get("LEXBEAM_TEST_OFFLINE") != "inside":
        skip_or_fail("not in a network namespace: `make conformance` makes one where it can")
    devices = Path("/proc/net/dev").read_text().splitlines()[2:]
    names = [line.split(":")[0].strip() for line in devices]
    assert names == ["lo"]
