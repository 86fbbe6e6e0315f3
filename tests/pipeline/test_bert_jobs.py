"""Whole jobs with an encoder: a tiny random model, and the default one on a few documents."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lexbeam.models import catalogue, encoder, encoder_backend
from lexbeam.pipeline import workspace
from lexbeam.transforms import part_files
from tests.conftest import ROOT, skip_or_fail
from tests.models.tiny_models import DIMENSIONS, write_tiny_model
from tests.pipeline.conftest import (
    good_documents,
    only_run,
    read_dataset,
    read_manifest,
    write_jsonl,
)

FLOAT32 = ("--backend", "torch", "--dtype", "float32")
SAMPLE = ROOT / "examples" / "corpus"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", "bert")


@pytest.fixture
def run_tiny(lexbeam, tiny, tmp_path, monkeypatch):
    """Run the sample with the tiny model; returns the run."""
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path / "cache"))

    def run(output: str, *options: str | Path) -> Path:
        result = lexbeam(
            "run", "--output", tmp_path / output, "--model_id", tiny, "--max_seq_length", "64",
            "--num_topics", "4", *FLOAT32, *options,
        )  # fmt: skip
        assert result.code == 0, result.err
        return only_run(tmp_path / output)

    return run


def embeddings_of(run: Path) -> np.ndarray:
    column = read_dataset(run, "documents")["embedding"]
    return np.array(column.to_pylist(), dtype=np.float64)


def test_every_document_has_an_embedding_of_length_one(run_tiny, lexbeam):
    run = run_tiny("out", "--input", SAMPLE)
    documents = read_dataset(run, "documents")
    assert documents.schema.field("embedding").type == pa.list_(pa.float32(), DIMENSIONS)
    assert np.linalg.norm(embeddings_of(run), axis=1) == pytest.approx(1.0, abs=1e-5)
    for row in documents.to_pylist():
        assert row["num_tokens"] > 0
        assert row["num_chunks"] > 1
        assert row["truncated"] is False
        assert row["keywords_bert"]
    totals = read_manifest(run)["totals"]
    assert totals["model_tokens"] == sum(documents["num_tokens"].to_pylist())
    assert 1.0 <= totals["padding_ratio"] <= 1.10
    assert lexbeam("verify", run).code == 0


def test_split_and_block_sizes_move_embeddings_by_less_than_1e_5(run_tiny, monkeypatch):
    whole = run_tiny("whole", "--input", SAMPLE)
    monkeypatch.setattr(workspace, "ZippedParts", partial(part_files.ZippedParts, block_rows=3))
    cut = run_tiny("cut", "--input", SAMPLE, "--split_size", "5K", "--max_batch_tokens", "128")
    assert np.abs(embeddings_of(whole) - embeddings_of(cut)).max() < 1e-5
    left, right = (read_dataset(run, "documents") for run in (whole, cut))
    for name in ("doc_id", "keywords_tfidf", "keywords_textrank", "keywords_lda", "topics"):
        assert left[name].equals(right[name]), name
    for ours, theirs in zip(
        left["keywords"].to_pylist(), right["keywords"].to_pylist(), strict=True
    ):
        scores = [abs(a["score"] - b["score"]) for a, b in zip(ours, theirs, strict=True)]
        assert max(scores) < 1e-3


def test_truncate_encodes_the_first_window_only(run_tiny):
    run = run_tiny("out", "--input", SAMPLE, "--long_documents", "truncate")
    rows = read_dataset(run, "documents").to_pylist()
    assert {row["num_chunks"] for row in rows} == {1}
    assert any(row["truncated"] for row in rows)


def test_a_text_that_breaks_the_encoder_costs_only_itself(run_tiny, tmp_path, monkeypatch):
    documents = [*good_documents(), {"id": "poison", "text": "a poison pill on the track"}]
    source = write_jsonl(tmp_path / "in.jsonl", documents)
    real = encoder.TextTokenizer.tokenize

    def refuse(self, contents):
        if any("poison" in content for content in contents):
            raise RuntimeError("the tokenizer chokes")
        return real(self, contents)

    monkeypatch.setattr(encoder.TextTokenizer, "tokenize", refuse)
    run = run_tiny("out", "--input", source)
    assert read_dataset(run, "documents")["doc_id"].to_pylist() == [
        d["id"] for d in good_documents()
    ]
    (error,) = read_dataset(run, "errors").to_pylist()
    assert (error["doc_id"], error["stage"], error["error_type"]) == (
        "poison",
        "encode",
        "encode-failed",
    )
    assert "chokes" in error["message"]
    assert read_manifest(run)["totals"]["documents_counted_but_rejected"] == 1


def test_rejected_and_dropped_rows_are_not_encoded(run_tiny, tmp_path):
    documents = [good_documents()[0], {"id": "no"}, *good_documents(), {"id": "empty", "text": ""}]
    source = write_jsonl(tmp_path / "in.jsonl", documents)
    run = run_tiny("out", "--input", source, "--keep_intermediate")
    assert embeddings_of(run).shape == (4, DIMENSIONS)
    encoded = read_dataset(run / "reuse", "encoded")["embedding"].to_pylist()
    assert [row for row, vector in enumerate(encoded) if vector is None] == [1, 2, 6]
    types = read_dataset(run, "errors")["error_type"].to_pylist()
    assert types == ["missing-text", "duplicate-id", "empty-text"]


def test_transform_uses_the_fitted_encoder(run_tiny, lexbeam, tmp_path):
    run = run_tiny("out", "--input", SAMPLE)
    new = ROOT / "examples" / "new"
    arguments = ["transform", "--input", new, "--model", run, "--output", tmp_path / "new"]
    done = lexbeam(*arguments)
    assert done.code == 0, done.err
    assert embeddings_of(only_run(tmp_path / "new")).shape == (3, DIMENSIONS)
    again = lexbeam(*arguments, "--max_seq_length", "32")
    assert again.code == 2
    assert "--max_seq_length 32" in again.err


def test_cuda_that_is_not_there_is_a_usage_error(lexbeam, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_backend, "_torch_has_cuda", lambda: False)
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--model_id", tiny]
    result = lexbeam(*arguments, "--device", "cuda", "--max_seq_length", "64")
    assert result.code == 2
    assert "--device 'cuda'" in result.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def default_model() -> Path:
    name = "multilingual-e5-small-q4"
    if not catalogue.is_present(name):
        skip_or_fail(f"the model {name} is not here; `lexbeam models pull {name}` fetches it")
    return catalogue.resolve_model(name).directory


def test_embeddings_equal_transformers_with_mean_pooling(lexbeam, default_model, tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    documents = good_documents()
    source = write_jsonl(tmp_path / "in.jsonl", documents)
    result = lexbeam("run", "--input", source, "--output", tmp_path / "out", *FLOAT32)
    assert result.code == 0, result.err
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    model = AutoModel.from_pretrained(default_model, add_pooling_layer=False).eval()
    expected = []
    for document in documents:
        title = document.get("title")
        # The text alone where it begins with the title already.
        repeated = title is None or document["text"].startswith(title)
        content = document["text"] if repeated else f"{title}\n{document['text']}"
        with torch.inference_mode():
            inputs = tokenizer("passage: " + content, return_tensors="pt")
            vector = model(**inputs).last_hidden_state[0].mean(dim=0)
        expected.append((vector / vector.norm()).numpy())
    found = embeddings_of(only_run(tmp_path / "out"))
    assert np.abs(found - np.array(expected)).max() < 1e-5


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("config.json", '"num_hidden_layers": 2', '"num_hidden_layers": 3', "3 layers"),
        ("config.json", '"hidden_size": 32', '"hidden_size": 64', "64 dimensions"),
        ("tokenizer.json", "{", "{}", "tokenizer.json"),
    ],
)
def test_a_damaged_encoder_is_found_before_anything_is_launched(
    lexbeam, tiny, tmp_path, monkeypatch, file, old, new, named
):
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    text = (model / file).read_text(encoding="utf-8")
    assert old in text
    damaged = new if new == "{}" else text.replace(old, new)
    (model / file).write_text(damaged, encoding="utf-8")
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--model_id", model]
    result = lexbeam(*arguments, "--max_seq_length", "64", *FLOAT32)
    assert result.code == 2, result.err
    assert named in result.err
    assert str(model) in result.err
    assert not (tmp_path / "out").exists()
