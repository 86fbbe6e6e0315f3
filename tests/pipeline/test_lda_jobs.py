"""LDA through whole jobs: either way of carrying it out, on several runners, cut off, too large."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lexbeam.pipeline import corpus_model
from tests.helpers import free_port
from tests.pipeline.conftest import (
    Lexbeam,
    good_documents,
    only_run,
    read_dataset,
    read_manifest,
    write_jsonl,
)

PASSES = 4


@pytest.fixture(scope="module")
def source(shared_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real documents of both languages."""
    documents = []
    for name, number in (("zh_thucnews800", 60), ("en_bbc_news", 60), ("en_inspec", 80)):
        lines = (shared_corpora / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines[:number]:
            value = json.loads(line)
            documents.append({"id": f"{name}/{value['id']}", "text": value["text"]})
    return write_jsonl(tmp_path_factory.mktemp("source") / "corpus.jsonl", documents)


def arguments_of(source: Path, output: Path, *options: str, passes: int = PASSES) -> list[str]:
    names = ["--input", str(source), "--output", str(output), "--features", "lda"]
    return ["run", "--quiet", *names, "--num_topics", "8", "--lda_passes", str(passes), *options]


def execution_of(run: Path) -> str:
    return str(json.loads((run / "plan.json").read_text(encoding="utf-8"))["lda_execution"])


@pytest.fixture(scope="module")
def local_run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All passes in this process."""
    from lexbeam.pipeline.cli import main

    output = tmp_path_factory.mktemp("local")
    assert main(arguments_of(source, output), supervise=False) == 0
    run = only_run(output)
    assert execution_of(run) == "local"
    return run


def topic_bytes(run: Path) -> dict[str, bytes]:
    """The model and the published topics."""
    found = {path.name: path.read_bytes() for path in sorted((run / "model" / "lda").iterdir())}
    topics = {path.name: path.read_bytes() for path in sorted((run / "topics").iterdir())}
    return found | topics


def assert_same(run: Path, expected: Path) -> None:
    """Bit for bit: sums, topics, and what the documents got of them."""
    assert topic_bytes(run) == topic_bytes(expected)
    assert read_dataset(run, "documents").equals(read_dataset(expected, "documents"))


def test_a_corpus_too_large_for_a_worker_is_fitted_a_pipeline_a_pass(
    lexbeam: Lexbeam, source: Path, local_run: Path, tmp_path: Path
) -> None:
    options = ["--worker_ram", "1M", "--split_size", "100K", "--keep_intermediate"]
    assert lexbeam(*arguments_of(source, tmp_path, *options)).code == 0
    run = only_run(tmp_path)
    assert execution_of(run) == "distributed"
    assert_same(run, local_run)
    (last,) = (run / "intermediate" / "lda").glob("pass-*")
    assert last.name == f"pass-{PASSES:04d}"
    checkpoint = json.loads((last / "state.json").read_text(encoding="utf-8"))
    assert checkpoint["metrics"]["pass_number"] == PASSES
    assert checkpoint["metrics"]["log_likelihood"] < 0


PROCESSES = (
    *("--runner", "DirectRunner"),
    *("--direct_running_mode", "multi_processing", "--direct_num_workers", "2"),
)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["local", "distributed"])
def test_two_worker_processes_give_the_same_bits(
    lexbeam: Lexbeam, source: Path, local_run: Path, tmp_path: Path, execution: str
) -> None:
    options = ["--split_size", "100K", "--lda_execution", execution, *PROCESSES]
    assert lexbeam(*arguments_of(source, tmp_path, *options)).code == 0
    assert execution_of(only_run(tmp_path)) == execution
    assert_same(only_run(tmp_path), local_run)


@contextlib.contextmanager
def worker_pool(folder: Path) -> Iterator[str]:
    """Beam's pool of workers in a process group of its own; gives its address."""
    port = free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["apache_beam.runners.worker.worker_pool_main", "--service_port", str(port)]
    with (folder / "pool.log").open("wb") as log:
        pool = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=os.environ | {"PATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_port(port)
        yield f"localhost:{port}"
    finally:
        os.killpg(pool.pid, 15)
        pool.wait()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["local", "distributed"])
def test_the_portable_runner_gives_the_same_bits(
    source: Path, local_run: Path, tmp_path: Path, execution: str
) -> None:
    options = ["--split_size", "100K", "--lda_execution", execution]
    options += ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
    with worker_pool(tmp_path) as address:
        options.append(f"--environment_config={address}")
        arguments = arguments_of(source, tmp_path / "out", *options)
        # In a process of its own, which can be ended where a worker hangs.
        result = subprocess.run(
            [sys.executable, "-m", "lexbeam.pipeline.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert result.returncode == 0, result.stderr
    assert_same(only_run(tmp_path / "out"), local_run)


@pytest.mark.slow
def test_a_fit_that_is_killed_goes_on_from_its_last_pass(
    lexbeam: Lexbeam, source: Path, tmp_path: Path
) -> None:
    passes = 30
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert lexbeam(*arguments_of(source, whole, passes=passes)).code == 0
    arguments = arguments_of(source, cut, "--lda_execution", "distributed", passes=passes)
    process = subprocess.Popen(
        [sys.executable, "-m", "lexbeam.pipeline.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(cut.glob("runs/*/intermediate/lda/pass-000[3-9]/state.json")):
            assert process.poll() is None, "the job ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (only_run(cut) / "topics").exists()
    arguments.remove("--quiet")
    resumed = lexbeam(*arguments)
    assert resumed.code == 0, resumed.err
    assert "resuming" in resumed.err
    assert_same(only_run(cut), only_run(whole))


def test_the_way_may_change_when_a_run_is_resumed(
    lexbeam: Lexbeam, source: Path, local_run: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from lexbeam.transforms import lda_passes

    real = lda_passes.RunPass.expand

    def stop_after_two(self: Any, pbegin: Any) -> Any:
        if self._done.completed_passes == 2:
            raise OSError("the cluster is gone")
        return real(self, pbegin)

    arguments = arguments_of(source, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(lda_passes.RunPass, "expand", stop_after_two)
        assert lexbeam(*arguments, "--lda_execution", "distributed").code == 1
    assert lexbeam(*arguments, "--lda_execution", "local").code == 0
    assert_same(only_run(tmp_path), local_run)


def test_variational_bayes_is_another_model(
    lexbeam: Lexbeam, source: Path, local_run: Path, tmp_path: Path
) -> None:
    arguments = arguments_of(source, tmp_path / "out", "--lda_inference", "vb")
    assert lexbeam(*arguments).code == 0
    run = only_run(tmp_path / "out")
    assert read_manifest(run)["config"]["lda"]["inference"] == "vb"
    assert (
        topic_bytes(run)["topic_term_counts.npy"] != topic_bytes(local_run)["topic_term_counts.npy"]
    )
    rows = read_dataset(run, "documents").to_pylist()
    assert all(row["topics"] and row["keywords_lda"] for row in rows)
    # New documents are folded in as these were.
    new = ["transform", "--quiet", "--input", source, "--model", run, "--output", tmp_path / "new"]
    assert lexbeam(*new).code == 0
    transformed = read_dataset(only_run(tmp_path / "new"), "documents")
    assert transformed.equals(read_dataset(run, "documents"))


def test_a_few_new_documents_get_what_a_million_get(
    lexbeam: Lexbeam, source: Path, local_run: Path, tmp_path: Path
) -> None:
    lines = source.read_text(encoding="utf-8").splitlines()
    chosen = [lines[n] for n in (3, 77, 150)]
    (tmp_path / "few.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    new = ["transform", "--quiet", "--input", tmp_path / "few.jsonl", "--model", local_run]
    assert lexbeam(*new, "--output", tmp_path / "new").code == 0
    expected = {row["doc_id"]: row for row in read_dataset(local_run, "documents").to_pylist()}
    rows = read_dataset(only_run(tmp_path / "new"), "documents").to_pylist()
    assert len(rows) == 3
    for row in rows:
        assert row["topics"] == expected[row["doc_id"]]["topics"]
        assert row["keywords_lda"] == expected[row["doc_id"]]["keywords_lda"]


def test_too_many_tokens_are_found_before_the_fit(
    lexbeam: Lexbeam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    real = corpus_model.cached_vocabulary

    def enlarged(path: str) -> Any:
        vocabulary = real(path)
        frequency = np.array([2**34], np.int64)
        return SimpleNamespace(
            collection_frequency=frequency, document_frequency=vocabulary.document_frequency
        )

    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--features", "lda"]
    with monkeypatch.context() as patch:
        patch.setattr(corpus_model, "cached_vocabulary", enlarged)
        result = lexbeam(*arguments)
    assert result.code == 2
    wanted = r"--lda_fraction_bits 30: 64 bits cannot hold a topic of 17,179,869,184 tokens .* 28"
    assert re.search(wanted, result.err), result.err
    assert not (only_run(tmp_path / "out") / "model" / "lda").exists()
    assert lexbeam(*arguments, "--lda_fraction_bits", "28").code == 0


def test_one_document_gives_no_topics_and_that_is_said(lexbeam: Lexbeam, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", good_documents()[:1])
    for execution in ("local", "distributed"):
        output = tmp_path / execution
        result = lexbeam(
            *("run", "--input", source, "--output", output, "--features", "lda"),
            *("--lda_execution", execution),
        )
        assert result.code == 0, result.err
        assert "none: fewer than two documents" in result.err
        (row,) = read_dataset(only_run(output), "documents").to_pylist()
        assert row["topics"] is None
        assert row["keywords_lda"] is None
