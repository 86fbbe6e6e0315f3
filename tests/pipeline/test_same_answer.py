"""The same corpus gives the same bytes, however it is cut, shared out or ordered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lexbeam.models.tokens import Tokenizer
from lexbeam.pipeline import workspace
from lexbeam.transforms import count, extract, map_blocks, part_files, tokenize
from tests.pipeline.conftest import (
    TEXT_FEATURES,
    Lexbeam,
    only_run,
    read_dataset,
    write_jsonl,
)

CORPORA = (("zh_csl_dev", 150), ("en_inspec", 120), ("zh_thucnews800", 40), ("en_bbc_news", 40))


def documents_of(folder: Path) -> list[dict[str, Any]]:
    """Real documents of both languages in turn, two of them with one id, one of them rejected."""
    documents = []
    for name, number in CORPORA:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:number]
        for line in lines:
            value = json.loads(line)
            kept = {key: value[key] for key in ("title", "text") if key in value}
            documents.append({"id": f"{name}/{value['id']}", **kept})
    random.Random(0).shuffle(documents)
    # Written the same way: which of the two stays may depend on the order, what it holds may not.
    documents.insert(200, dict(documents[20]))
    documents.insert(100, {"id": "empty", "text": " "})
    return documents


@pytest.fixture(scope="module")
def documents(shared_corpora: Path) -> list[dict[str, Any]]:
    return documents_of(shared_corpora)


@pytest.fixture(scope="module")
def plain_run(documents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job as it is run by default."""
    from lexbeam.pipeline.cli import main

    folder = tmp_path_factory.mktemp("plain")
    source = write_jsonl(folder / "in" / "corpus.jsonl", documents)
    assert main(arguments_of(source, folder / "out"), supervise=False) == 0
    return only_run(folder / "out")


def arguments_of(source: Path, output: Path, *options: str) -> list[str]:
    names = ["--input", str(source), "--output", str(output), "--features", TEXT_FEATURES]
    return ["run", "--quiet", *names, "--num_topics", "8", "--lda_passes", "5", *options]


def files_of(run: Path, dataset: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / dataset).iterdir())}


def set_block_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    for kind in (tokenize.SplitSource, part_files.ZippedParts):
        monkeypatch.setattr(workspace, kind.__name__, partial(kind, block_rows=rows))


def set_threads(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    for module in (map_blocks, count):
        monkeypatch.setattr(module, "kernel_threads", lambda: number)


VARIANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "blocks of 1": lambda patch: set_block_rows(patch, 1),
    "blocks of 7": lambda patch: set_block_rows(patch, 7),
    "blocks of 512": lambda patch: set_block_rows(patch, 512),
    "one thread": lambda patch: set_threads(patch, 1),
    "five threads": lambda patch: (set_threads(patch, 5), set_block_rows(patch, 3))[0],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_and_threads_do_not_show(
    lexbeam: Lexbeam,
    plain_run: Path,
    documents: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
) -> None:
    VARIANTS[variant](monkeypatch)
    source = write_jsonl(tmp_path / "in" / "corpus.jsonl", documents)
    assert lexbeam(*arguments_of(source, tmp_path / "out")).code == 0
    for dataset in ("terms", "topics", "documents", "errors"):
        assert files_of(only_run(tmp_path / "out"), dataset) == files_of(plain_run, dataset)


@pytest.mark.parametrize("size", ["20K", "200K"])
def test_splits_move_rows_between_files_only(
    lexbeam: Lexbeam, plain_run: Path, documents: list[dict[str, Any]], tmp_path: Path, size: str
) -> None:
    source = write_jsonl(tmp_path / "in" / "corpus.jsonl", documents)
    assert lexbeam(*arguments_of(source, tmp_path / "out", "--split_size", size)).code == 0
    run = only_run(tmp_path / "out")
    assert len(files_of(run, "documents")) > 2
    assert files_of(run, "terms") == files_of(plain_run, "terms")
    for dataset in ("documents", "topics", "errors"):
        assert read_dataset(run, dataset).equals(read_dataset(plain_run, dataset))


@pytest.mark.slow
def test_a_users_words_reach_every_worker_process(
    lexbeam: Lexbeam, documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in" / "corpus.jsonl", documents)
    words = tmp_path / "words.txt"
    words.write_text("提出了一种 3 n\n研究结果表明\n算法 0\n", encoding="utf-8")
    processes = ["--direct_running_mode", "multi_processing", "--direct_num_workers", "2"]
    ways = {"one": [], "two": ["--split_size", "100K", "--runner", "DirectRunner", *processes]}
    for name, options in ways.items():
        given = ["--user_dict", str(words), *options]
        assert lexbeam(*arguments_of(source, tmp_path / name, *given)).code == 0
    one, two = (only_run(tmp_path / name) for name in ways)
    assert "提出了一种" in read_dataset(one, "terms")["term"].to_pylist()
    assert "算法" not in read_dataset(one, "terms")["term"].to_pylist()
    assert files_of(one, "terms") == files_of(two, "terms")
    assert read_dataset(one, "documents").equals(read_dataset(two, "documents"))


@pytest.mark.slow
def test_two_worker_processes_do_not_show(
    lexbeam: Lexbeam, plain_run: Path, documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in" / "corpus.jsonl", documents)
    processes = ["--direct_running_mode", "multi_processing", "--direct_num_workers", "2"]
    options = ["--split_size", "100K", "--runner", "DirectRunner", *processes]
    assert lexbeam(*arguments_of(source, tmp_path / "out", *options)).code == 0
    run = only_run(tmp_path / "out")
    assert files_of(run, "terms") == files_of(plain_run, "terms")
    for dataset in ("documents", "topics", "errors"):
        assert read_dataset(run, dataset).equals(read_dataset(plain_run, dataset))


def test_the_order_of_the_documents_does_not_show(
    lexbeam: Lexbeam, plain_run: Path, documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    shuffled = list(documents)
    random.Random(1).shuffle(shuffled)
    source = write_jsonl(tmp_path / "in" / "corpus.jsonl", shuffled)
    assert lexbeam(*arguments_of(source, tmp_path / "out", "--split_size", "100K")).code == 0
    run = only_run(tmp_path / "out")
    for dataset in ("terms", "topics"):
        assert files_of(run, dataset) == files_of(plain_run, dataset)
    rows = [read_dataset(path, "documents") for path in (plain_run, run)]
    assert rows[0]["doc_id"].to_pylist() != rows[1]["doc_id"].to_pylist()
    assert rows[0].sort_by("doc_id").equals(rows[1].sort_by("doc_id"))
    for path in (plain_run, run):
        reasons = read_dataset(path, "errors")["error_type"].to_pylist()
        assert sorted(reasons) == ["duplicate-id", "empty-text"]


@pytest.mark.parametrize("stage", ["tokenize", "extract"])
def test_a_document_that_fails_costs_itself_alone(
    lexbeam: Lexbeam,
    plain_run: Path,
    documents: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    bad = documents[150]

    def failing(real: Callable[..., Any], contents_of: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*arguments: Any) -> Any:
            if any(text and bad["text"] in text for text in contents_of(*arguments)):
                raise ValueError("this one cannot be done")
            return real(*arguments)

        return checked

    if stage == "tokenize":
        real = Tokenizer.tokenize
        checked = failing(real, lambda _, contents, languages: contents.to_pylist())
        monkeypatch.setattr(Tokenizer, "tokenize", checked)
    else:
        real = extract.document_features
        checked = failing(real, lambda batch, *_: batch["content"].to_pylist())
        monkeypatch.setattr(extract, "document_features", checked)
    source = write_jsonl(tmp_path / "in" / "corpus.jsonl", documents)
    assert lexbeam(*arguments_of(source, tmp_path / "out")).code == 0
    run = only_run(tmp_path / "out")
    errors = read_dataset(run, "errors").to_pylist()
    (failed,) = (row for row in errors if row["error_type"] == f"{stage}-failed")
    assert (failed["doc_id"], failed["stage"]) == (bad["id"], stage)
    assert "this one cannot be done" in failed["message"]
    before = read_dataset(plain_run, "documents")["doc_id"].to_pylist()
    after = read_dataset(run, "documents")["doc_id"].to_pylist()
    assert after == [doc_id for doc_id in before if doc_id != bad["id"]]
    assert len(after) + len(errors) == len(documents)
