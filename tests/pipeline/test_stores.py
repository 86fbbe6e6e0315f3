"""Whole jobs on a store, here fsspec's in memory; MinIO and fake-gcs are in tests/conformance."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from lexbeam.models.keyphrase_weights import KeyphraseWeights
from lexbeam.transforms import storage
from tests.helpers import download, upload
from tests.models.tiny_models import write_tiny_model
from tests.pipeline.conftest import (
    TEXT_FEATURES,
    content_of,
    good_documents,
    only_run,
    read_manifest,
    write_jsonl,
)

TEXT = ("--features", TEXT_FEATURES, "--num_topics", "2", "--min_df", "1", "--max_df", "1.0")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LEXBEAM_CACHE", str(folder))
    return folder


@pytest.fixture
def store() -> str:
    return f"memory://{uuid.uuid4().hex}"


def differing(run: Path, other: Path) -> list[str]:
    """Published files that two runs do not have alike."""
    one, two = content_of(run), content_of(other)
    return sorted(name for name in one | two if one.get(name) != two.get(name))


def copies_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "copies").rglob("*") if path.is_file())


def test_a_job_reads_from_a_store_and_writes_to_it(lexbeam, store, tmp_path, cache):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    with corpus.open("a", encoding="utf-8") as file:
        file.write("no JSON\n")
    words = tmp_path / "words.txt"
    words.write_text("发酵程度 1000 n\n", encoding="utf-8")
    tiny = write_tiny_model(tmp_path / "tiny", "bert")
    bert = ("--features", f"{TEXT_FEATURES},bert", *TEXT[2:], "--max_seq_length", "64")
    common = (*bert, "--dtype", "float32", "--backend", "torch", "--run_id", "a")
    local = lexbeam(
        "run", "--input", corpus, "--output", tmp_path / "out", "--user_dict", words,
        "--model_id", tiny, *common,
    )  # fmt: skip
    assert local.code == 0, local.err
    there = lexbeam(
        "run", "--input", upload(corpus, f"{store}/corpus.jsonl"), "--output", f"{store}/out",
        "--user_dict", upload(words, f"{store}/words.txt"),
        "--model_id", upload(tiny, f"{store}/tiny"), *common,
    )  # fmt: skip
    assert there.code == 0, there.err
    assert f"output: {store}/out/runs/a" in there.err
    run = download(f"{store}/out/runs/a", tmp_path / "downloaded")
    totals = read_manifest(run)["totals"]
    assert (totals["documents_in"], totals["documents_out"], totals["documents_rejected"]) == (
        5,
        4,
        1,
    )
    # Which names the model as the user did.
    assert (differing(run, only_run(tmp_path / "out"))) == ["model/config.json"]
    assert json.loads(storage.read_bytes(f"{store}/out/latest.json")) == {"run_id": "a"}
    names = copies_in(cache)
    assert names.count("words.txt") == names.count("model.safetensors") == 1

    again = lexbeam(
        "run", "--input", f"{store}/corpus.jsonl", "--output", f"{store}/out",
        "--user_dict", f"{store}/words.txt", "--model_id", f"{store}/tiny", *common,
    )  # fmt: skip
    assert again.code == 0
    assert "complete already" in again.err
    for command in (["verify"], ["inspect"], ["runs", "list"]):
        result = lexbeam(*command, f"{store}/out")
        assert result.code == 0, result.err
    assert "发酵程度" in lexbeam("inspect", f"{store}/out", "tea").out

    new = write_jsonl(tmp_path / "new.jsonl", [good_documents()[0] | {"id": "new"}])
    for model, output in ((tmp_path / "out", tmp_path / "t"), (f"{store}/out", f"{store}/t")):
        result = lexbeam("transform", "--input", new, "--model", model, "--output", output)
        assert result.code == 0, result.err
    (run_of_store,) = storage.list_folders(f"{store}/t/runs")
    transformed = download(f"{store}/t/runs/{run_of_store}", tmp_path / "transformed")
    assert content_of(transformed) == content_of(only_run(tmp_path / "t"))


def test_a_new_run_takes_over_from_one_on_the_store(lexbeam, store, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    more = write_jsonl(tmp_path / "more.jsonl", [good_documents()[0] | {"id": "more"}])
    keep = ("--keep_state", "--output", f"{store}/out")
    assert lexbeam("run", "--input", corpus, *TEXT, *keep).code == 0
    second = lexbeam("run", "--input", corpus, "--input", more, *TEXT, *keep)
    assert second.code == 0, second.err
    assert "reused" in second.err
    alone = lexbeam(
        "run", "--input", corpus, "--input", more, *TEXT, "--keep_state", "--output", tmp_path / "o"
    )
    assert alone.code == 0, alone.err
    newest = storage.list_folders(f"{store}/out/runs")[-1]
    got = download(f"{store}/out/runs/{newest}", tmp_path / "got")
    # Which says how many rows were taken over.
    assert differing(got, only_run(tmp_path / "o")) == ["reuse/tokens/part-00000-of-00001.parquet"]
    pruned = lexbeam("runs", "prune", f"{store}/out", "--keep", "1")
    assert pruned.code == 0, pruned.err
    assert all(f"/runs/{newest}/" in file.path for file in storage.list_tree(f"{store}/out/runs"))


def test_a_job_on_a_store_is_resumed(lexbeam, store, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    arguments = ("run", "--input", corpus, *TEXT, "--output")
    assert lexbeam(*arguments, f"{store}/a", "--run_id", "r", "--keep_intermediate").code == 0
    whole = content_of(download(f"{store}/a/runs/r", tmp_path / "whole"))
    # As a job leaves it that was killed in its last stage: nothing is published.
    for name in ("manifest.json", "_SUCCESS", "summary.json"):
        storage.delete(f"{store}/a/runs/r/{name}")
    (part,) = [file.path for file in storage.list_tree(f"{store}/a/runs/r/documents")]
    storage.delete(part)
    resumed = lexbeam(*arguments, f"{store}/a", "--run_id", "r")
    assert resumed.code == 0, resumed.err
    assert "resuming run r" in resumed.err
    assert content_of(download(f"{store}/a/runs/r", tmp_path / "resumed")) == whole


def test_outputs_that_cannot_be_are_wrong_usage(lexbeam, tmp_path, monkeypatch):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    hdfs = lexbeam("run", "--input", corpus, "--output", "hdfs://host/out", *TEXT)
    assert hdfs.code == 2
    assert "--output 'hdfs://host/out'" in hdfs.err
    assert "can only be read" in hdfs.err
    other = lexbeam("run", "--input", corpus, "--output", "ftp://host/out", *TEXT)
    assert other.code == 2
    assert "ftp:// is not supported" in other.err


def test_a_job_of_its_own_cannot_write_to_memory(tmp_path, capfd):
    from lexbeam.pipeline.cli import main

    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    assert main(["run", "--input", str(corpus), "--output", "memory://out", *TEXT]) == 2
    assert "would be gone when the job has ended" in capfd.readouterr().err


def test_a_store_that_does_not_answer_is_named(lexbeam, tmp_path, monkeypatch):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    # Port 9 of this host: nobody listens.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    result = lexbeam("run", "--input", corpus, "--output", "s3://bucket/out", *TEXT)
    assert result.code == 2, result.err
    assert "--output 's3://bucket/out'" in result.err
    assert "127.0.0.1:9" in result.err
    assert not Path("s3:").exists()


def test_weights_and_a_configuration_may_lie_on_a_store(lexbeam, store, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    weights = KeyphraseWeights().as_dict()
    weights["english"]["tfidf"] += 0.25
    storage.put_if_absent(f"{store}/weights.json", json.dumps(weights).encode())
    options = {"input": str(corpus), "keyword_weights": f"{store}/weights.json"}
    storage.put_if_absent(f"{store}/job.yaml", json.dumps(options).encode())
    result = lexbeam("run", "--config", f"{store}/job.yaml", "--output", tmp_path / "out", *TEXT)
    assert result.code == 0, result.err
    used = read_manifest(only_run(tmp_path / "out"))["config"]["keyword_weights"]
    assert used["english"]["tfidf"] == weights["english"]["tfidf"]
    gone = lexbeam(
        "run", "--input", corpus, "--output", tmp_path / "out",
        "--keyword_weights", f"{store}/none.json",
    )  # fmt: skip
    assert gone.code == 2
    assert f"--keyword_weights '{store}/none.json'" in gone.err


def test_a_model_that_is_not_there_is_named(lexbeam, store, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", good_documents())
    result = lexbeam(
        "run", "--input", corpus, "--output", tmp_path / "out", "--model_id", f"{store}/none"
    )
    assert result.code == 2
    assert f"{store}/none" in result.err
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
