"""Jobs whose processes die: killed at any moment, over a document, hung, or asked to end.

`make test-kills` runs them. LEXBEAM_KILLS says how many random kills there are (10; 50 in
`make soak`), LEXBEAM_KILLS_SEED where they begin.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lexbeam.models.catalogue import resolve_model
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder import prepare_encoder
from lexbeam.models.encoder_backend import resolve_backend
from tests.conftest import ROOT
from tests.helpers import wait_until
from tests.models.tiny_models import write_tiny_model
from tests.pipeline.conftest import (
    content_of,
    good_documents,
    only_run,
    read_dataset,
    read_manifest,
    write_jsonl,
)

pytestmark = pytest.mark.kills

SAMPLE = ROOT / "examples" / "corpus"
POISON = Path(__file__).parent / "poison"
NUM_KILLS = int(os.environ.get("LEXBEAM_KILLS", "10"))
FIRST_SEED = int(os.environ.get("LEXBEAM_KILLS_SEED", "0"))
LONGEST = 120.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A model that has been converted for this machine, as it is after a first run."""
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", "bert")
    spec = resolve_model(str(folder))
    config = EncoderConfig(model_id=str(folder), max_seq_length=64, dtype="float32")
    prepare_encoder(spec, resolve_backend(spec, config))
    return folder


@pytest.fixture(scope="module")
def arguments(tiny) -> list[str]:
    """A job with every stage, in several splits."""
    return [
        "run", "--input", str(SAMPLE), "--split_size", "5K", "--num_topics", "4",
        "--model_id", str(tiny), "--max_seq_length", "64", "--dtype", "float32",
    ]  # fmt: skip


def poison(effects: dict[str, str]) -> dict[str, str]:
    """The environment in which the stages die in these ways: see poison/sitecustomize.py."""
    value = ",".join(f"{stage}:{effect}" for stage, effect in effects.items())
    return {"PYTHONPATH": str(POISON), "LEXBEAM_TEST_POISON": value}


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """The command line in a process of its own; `on_interrupt`: what SIGINT does to it at first."""
    started = []

    def run(
        *arguments: str | Path, on_interrupt: signal.Handlers = signal.SIG_DFL, **environment: str
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lexbeam.pipeline.cli", *map(str, arguments)]
        process = subprocess.Popen(
            command, text=True, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONFAULTHANDLER": "1"} | environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, on_interrupt),
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error; fails with where every process stands that hangs."""
    try:
        _, error = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        hanging = psutil.Process(process.pid)
        for each in reversed([hanging, *hanging.children(recursive=True)]):
            each.send_signal(signal.SIGABRT)
            time.sleep(1.0)
        pytest.fail(f"took longer than {LONGEST} s:\n{process.communicate()[1]}")
    return process.returncode, error


def processes_of(output: Path) -> list[psutil.Process]:
    """Every living process that works on the output."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(output) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory) -> tuple[dict[str, str], float]:
    """What a job gives that nobody disturbs, and how many seconds it takes."""
    output = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", *arguments, "--quiet"]
    subprocess.run([*command, "--output", str(output)], check=True, timeout=LONGEST)
    return content_of(only_run(output)), time.monotonic() - began


def start_and_wait(
    start: Start, command: list[str | Path], chance: random.Random, seconds: float
) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A job at a random moment, and its processes; again where it was done before."""
    output = Path(command[command.index("--output") + 1])
    while True:
        process = start(*command)
        time.sleep(chance.uniform(0.1, 0.95) * seconds)
        victims = processes_of(output)
        if victims:
            return process, victims
        finish(process)
        shutil.rmtree(output)


class TestKilledAtAnyMoment:
    @pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + NUM_KILLS))
    def test_the_same_command_gives_the_same_output(
        self, start, arguments, undisturbed, tmp_path, lexbeam, seed
    ):
        expected, seconds = undisturbed
        chance = random.Random(seed)
        output = tmp_path / "out"
        # Every second job has a name; the others are found by what they do.
        name = ["--run_id", "night"] if seed % 2 else []
        command = [*arguments, "--output", output, *name]
        process, victims = start_and_wait(start, command, chance, seconds)
        # The supervisor, the job, or both at once.
        for victim in chance.sample(victims, chance.randint(1, len(victims))):
            victim.kill()
        finish(process)
        wait_until(lambda: not processes_of(output), 10)
        num_done = len(list(output.glob("runs/*/_SUCCESS")))
        assert list(output.glob("runs/*/manifest.json")) or not (output / "latest.json").exists()

        code, error = finish(start(*command))
        assert code == 0, error
        runs = sorted((output / "runs").iterdir())
        # Where the first job was through all the same, one without a name is a new one.
        assert len(runs) == (1 if name else 1 + num_done)
        for run in runs:
            assert content_of(run) == expected
            assert lexbeam("verify", run).code == 0
            left = [path for path in run.rglob(".*") if path.name != ".lock"]
            assert not left
            assert not (run / "intermediate").exists()
        assert json.loads((output / "latest.json").read_text()) == {"run_id": run.name}

    def test_a_job_that_is_killed_alone_goes_on_by_itself(
        self, start, arguments, undisturbed, tmp_path
    ):
        process = start(*arguments, "--output", tmp_path)
        wait_until(lambda: list(tmp_path.glob("runs/*/reuse/tokens/*.parquet")))
        (job,) = psutil.Process(process.pid).children()
        job.kill()
        code, error = finish(process)
        assert code == 0, error
        assert "ended by SIGKILL" in error
        assert "resuming run" in error
        assert content_of(only_run(tmp_path)) == undisturbed[0]

    def test_a_job_ends_with_its_supervisor(self, start, arguments, tmp_path):
        process = start(*arguments, "--output", tmp_path)
        wait_until(lambda: list(tmp_path.glob("runs/*/plan.json")))
        process.kill()
        finish(process)
        wait_until(lambda: not processes_of(tmp_path), 10)
        assert not list(tmp_path.glob("runs/*/manifest.json"))

    def test_a_job_that_dies_at_once_every_time_is_given_up(self, start, tmp_path):
        source = write_jsonl(tmp_path / "in.jsonl", good_documents())
        # Deadly before any split is begun: nobody can tell which document it is.
        code, error = finish(
            start(
                "run", "--input", source, "--output", tmp_path / "out",
                **poison({"plan": "SIGSEGV"}),
            )
        )  # fmt: skip
        assert code == 1
        assert "ended by SIGSEGV, for the 3. time" in error


def deadly_documents(*stages: str) -> list[dict[str, str]]:
    """Forty documents; d11 is deadly in the first stage, d30 in the second."""
    documents = [
        {"id": f"d{i}", "text": f"The railway has {i} bridges, and a track of length {i * i}. " * 3}
        for i in range(40)
    ]
    for row, stage in zip((11, 30), stages, strict=False):
        documents[row]["text"] += f" This one is POISON{stage}."
    return documents


class TestDeadlyDocuments:
    @pytest.fixture
    def job(self, start, tmp_path) -> Callable[..., tuple[Path, str]]:
        """`job(command, documents, deadly, *options)`: the run, and what was said meanwhile."""

        def work(
            command: str, documents: list[dict[str, str]], deadly: dict[str, str], *options: str
        ) -> tuple[Path, str]:
            source = write_jsonl(tmp_path / "in.jsonl", documents)
            places = ("--input", source, "--output", tmp_path / "out")
            code, error = finish(start(command, *places, *options, **poison(deadly)))
            assert code == 0, error
            return only_run(tmp_path / "out"), error

        return work

    @pytest.mark.parametrize(
        ("deadly", "features"),
        [
            ({"tokenize": "SIGSEGV", "count": "SIGABRT"}, "tfidf"),
            ({"bow": "SIGKILL", "extract": "SIGKILL"}, "tfidf"),
            ({"encode": "SIGSEGV"}, "tfidf,bert"),
        ],
        ids=["tokenize and count", "bow and extract", "encode"],
    )
    def test_they_go_to_errors_and_the_others_come_out(self, job, lexbeam, tiny, deadly, features):
        # Both documents die where there is one stage.
        stages = [*deadly, *deadly][:2]
        run, _ = job(
            "run", deadly_documents(*stages), deadly, "--features", features,
            "--model_id", tiny, "--max_seq_length", "64", "--dtype", "float32",
            "--split_size", "6K", "--min_df", "1",
        )  # fmt: skip
        errors = read_dataset(run, "errors").to_pylist()
        assert [row["doc_id"] for row in errors] == ["d11", "d30"]
        for row, stage in zip(errors, stages, strict=True):
            assert (row["stage"], row["error_type"]) == (stage, "process-died")
            assert deadly[stage] in row["message"]
        kept = read_dataset(run, "documents")["doc_id"].to_pylist()
        assert kept == [f"d{i}" for i in range(40) if i not in (11, 30)]
        assert lexbeam("verify", run).code == 0

    def test_in_the_bags_of_words_of_a_fit(self, job):
        deadly, options = {"bow": "SIGSEGV"}, ("--features", "tfidf", "--min_df", "1")
        run, _ = job("fit", deadly_documents("bow")[:20], deadly, *options)
        totals = read_manifest(run)["totals"]
        assert (totals["documents_counted"], totals["documents_rejected"]) == (19, 1)

    def test_in_worker_processes(self, job):
        documents = deadly_documents("tokenize", "tokenize")
        run, said = job(
            "fit", documents, {"tokenize": "SIGSEGV"}, "--features", "tfidf",
            "--direct_running_mode", "multi_processing", "--direct_num_workers", "2",
            "--reuse_store", "off",
        )  # fmt: skip
        assert "a worker process died in stage tokenize" in said
        errors = read_dataset(run, "errors").to_pylist()
        assert [row["doc_id"] for row in errors] == ["d11", "d30"]
        assert read_manifest(run)["totals"]["documents_counted"] == 38

    def test_documents_that_hang(self, job):
        deadly, options = {"extract": "hang"}, ("--features", "tfidf", "--stall_timeout", "6")
        run, said = job("run", deadly_documents("extract")[:20], deadly, *options)
        assert "made no progress in stage extract" in said
        errors = read_dataset(run, "errors").to_pylist()
        assert [row["doc_id"] for row in errors] == ["d11"]
        assert "no progress" in errors[0]["message"]


@pytest.mark.parametrize(
    ("number", "on_interrupt"),
    [(signal.SIGINT, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_IGN)],
    ids=["ctrl-c", "terminated-in-the-background"],
)
def test_a_job_that_is_asked_to_end_can_be_resumed(
    start, arguments, undisturbed, tmp_path, number, on_interrupt
):
    process = start(*arguments, "--output", tmp_path, on_interrupt=on_interrupt)
    wait_until(lambda: list(tmp_path.glob("runs/*/reuse/tokens/*.parquet")))
    process.send_signal(number)
    code, error = finish(process)
    assert code == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not processes_of(tmp_path)
    code, error = finish(start(*arguments, "--output", tmp_path))
    assert code == 0, error
    assert "resuming run" in error
    assert content_of(only_run(tmp_path)) == undisturbed[0]
