"""A run takes over what an earlier one has computed, and gives what a full run would give."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lexbeam.models.encoder import Encoder
from lexbeam.models.tokens import Tokenizer
from lexbeam.pipeline import versions
from tests.models.tiny_models import write_tiny_model
from tests.pipeline.conftest import read_dataset, read_manifest, write_jsonl

ENGLISH = "bridge river lamp harbour gull flag night mill water boat".split()
CHINESE = "桥 河水 港口 海鸥 红旗 小船 磨坊 灯塔 夜里 码头".split()


def document(number: int, version: int = 0) -> dict[str, Any]:
    """A text of its own for each number and version, in one of two languages."""
    chance = np.random.default_rng([number, version])
    words = chance.choice(CHINESE if number % 3 == 0 else ENGLISH, 30)
    text = " ".join(words) + f" number {number} version {version}."
    return {"id": f"d{number}", "text": text}


NEARLY_EQUAL = ("keywords_bert", "keywords")

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", "bert")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text has been encoded."""
    texts: Counter[str] = Counter()
    encode = Encoder.encode_counted

    def counting(self: Encoder, contents: list[str | None]) -> Any:
        texts.update(text for text in contents if text is not None)
        return encode(self, contents)

    monkeypatch.setattr(Encoder, "encode_counted", counting)
    return texts


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text has been tokenized."""
    texts: Counter[str] = Counter()
    tokenize = Tokenizer.tokenize

    def counting(self: Tokenizer, contents: Any, languages: Any) -> Any:
        texts.update(text for text in contents.to_pylist() if text is not None)
        return tokenize(self, contents, languages)

    monkeypatch.setattr(Tokenizer, "tokenize", counting)
    return texts


@pytest.fixture
def run(lexbeam, tiny, tmp_path) -> Run:
    """`run(id, input, *options)`: a job with every feature in one output folder; its run."""

    def start(name: str, source: Path, *options: str | Path, command: str = "run") -> Path:
        result = lexbeam(
            command, "--input", source, "--output", tmp_path / "out", "--run_id", name,
            "--model_id", tiny, "--max_seq_length", "64", "--backend", "torch",
            "--dtype", "float32", "--split_size", "4K", "--num_topics", "3", *options,
        )  # fmt: skip
        assert result.code == 0, result.err
        return tmp_path / "out" / "runs" / name

    return start


def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def assert_same(reused: Path, full: Path) -> None:
    """The same output, as the data model means it: embeddings within 1e-5."""
    left, right = (read_manifest(run)["files"] for run in (reused, full))
    for dataset in ("terms", "topics", "errors", "model"):
        same = [
            {e["path"]: e["sha256"] for e in files if e["path"].startswith(f"{dataset}/")}
            for files in (left, right)
        ]
        assert same[0], dataset
        assert same[0] == same[1], dataset
    folders = [run / "documents" for run in (reused, full)]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        ours, theirs = (pq.read_table(folder / name) for folder in folders)
        vectors = [np.array(table["embedding"].to_pylist()) for table in (ours, theirs)]
        assert vectors[0].shape == vectors[1].shape
        if vectors[0].size:
            assert np.abs(vectors[0] - vectors[1]).max() < 1e-5
        exact = [n for n in ours.schema.names if n not in ("embedding", *NEARLY_EQUAL)]
        assert ours.select(exact).equals(theirs.select(exact)), name
        for column in NEARLY_EQUAL:
            pairs = zip(ours[column].to_pylist(), theirs[column].to_pylist(), strict=True)
            for pair in pairs:
                scores = [[entry["score"] for entry in entries] for entries in pair]
                assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def texts_of(documents: list[dict[str, Any]]) -> set[str]:
    return {entry["text"] for entry in documents}


class TestIncremental:
    def test_new_files_are_worked_on_and_old_ones_are_not(self, run, tmp_path, encoded, tokenized):
        source = tmp_path / "in"
        old, new = [document(i) for i in range(60)], [document(i) for i in range(100, 110)]
        write_jsonl(source / "a.jsonl", old)
        run("first", source)
        assert set(encoded) == set(tokenized) == texts_of(old)
        encoded.clear()
        tokenized.clear()
        write_jsonl(source / "b.jsonl", new)
        second = run("second", source)
        assert set(encoded) == texts_of(new)
        # The two files' ends share no split: whole splits have been taken over.
        assert set(tokenized) >= texts_of(new)
        assert len(tokenized) < len(old)
        said = summary(second)
        assert said["compared"] == {"new": 10, "changed": 0, "unchanged": 60, "removed": 0}
        assert said["reused"] == {"run_id": "first", "tokens": 60, "embeddings": 60}
        assert_same(second, run("full", source, "--reuse", "none"))

    def test_changed_removed_and_moved_documents(self, run, tmp_path, encoded):
        source = write_jsonl(tmp_path / "in.jsonl", [document(i) for i in range(80)])
        run("first", source)
        encoded.clear()
        changed = [document(i, version=1) for i in (5, 50)]
        now = [document(i) for i in range(80) if i not in (5, 50, 7)]
        # What stood first stands last now, and a document has become another one's text.
        now = [*now[40:], *changed, *now[:40], {"id": "twin", "text": document(3)["text"]}]
        write_jsonl(source, now)
        second = run("second", source)
        assert set(encoded) == texts_of(changed)
        said = summary(second)
        assert said["compared"] == {"new": 1, "changed": 2, "unchanged": 77, "removed": 1}
        assert said["reused"]["embeddings"] == 78
        assert_same(second, run("full", source, "--reuse", "none"))

    def test_renamed_files(self, run, tmp_path, encoded, tokenized):
        source = tmp_path / "in"
        for name in ("a", "b"):
            documents = [document(i + ord(name)) for i in range(0, 90, 2)]
            write_jsonl(source / f"{name}.jsonl", documents)
        run("first", source)
        encoded.clear()
        tokenized.clear()
        (source / "a.jsonl").rename(source / "c.jsonl")
        second = run("second", source)
        assert not encoded
        assert not tokenized
        kinds = Counter(read_dataset(second, "documents")["source"].to_pylist())
        assert set(kinds) == {"b.jsonl", "c.jsonl"}
        assert_same(second, run("full", source, "--reuse", "none"))

    def test_an_id_that_becomes_a_duplicate_and_one_that_no_longer_is(self, run, tmp_path):
        source = tmp_path / "in"
        twice = {"id": "d1", "text": "another text under an id that was there before"}
        write_jsonl(source / "a.jsonl", [document(i) for i in range(40)])
        write_jsonl(source / "b.jsonl", [document(200), twice, *map(document, range(60, 90))])
        run("first", source)
        # Now b's d1 stands first, and a's is dropped, though the bytes of b are the same.
        (source / "a.jsonl").rename(source / "z.jsonl")
        second = run("second", source)
        assert_same(second, run("full", source, "--reuse", "none"))
        (row,) = (r for r in read_dataset(second, "documents").to_pylist() if r["doc_id"] == "d1")
        assert row["source"] == "b.jsonl"

    def test_transform_reuses_as_run_does(self, run, tmp_path, encoded):
        source = write_jsonl(tmp_path / "in.jsonl", [document(i) for i in range(60)])
        fitted = run("fitted", source)
        encoded.clear()
        new = [document(i) for i in range(300, 306)]
        write_jsonl(source, [*map(document, range(60)), *new])

        def transform(name: str, *options: str) -> Path:
            from lexbeam.pipeline.cli import main

            arguments = ["transform", "--input", source, "--output", tmp_path / "out",
                         "--model", fitted, "--run_id", name, "--split_size", "4K",
                         "--quiet", *options]  # fmt: skip
            assert main([str(argument) for argument in arguments], supervise=False) == 0
            return tmp_path / "out" / "runs" / name

        second = transform("second")
        assert set(encoded) == texts_of(new)
        full = transform("full", "--reuse", "none")
        left, right = (read_dataset(run, "documents") for run in (second, full))
        assert left["doc_id"].equals(right["doc_id"])
        assert left["keywords_tfidf"].equals(right["keywords_tfidf"])
        assert summary(second)["compared"]["new"] == 6

    @pytest.mark.slow
    def test_a_third_run_reuses_what_the_second_one_reused(self, run, tmp_path, encoded):
        source = write_jsonl(tmp_path / "in.jsonl", [document(i) for i in range(50)])
        run("first", source)
        write_jsonl(source, [document(i) for i in range(52)])
        run("second", source)
        shutil.rmtree(tmp_path / "out" / "runs" / "first")
        encoded.clear()
        write_jsonl(source, [document(i) for i in range(53)])
        third = run("third", source)
        assert set(encoded) == {document(52)["text"]}
        assert_same(third, run("full", source, "--reuse", "none"))


class TestWhatStandsAgainstIt:
    @pytest.fixture
    def source(self, tmp_path) -> Path:
        return write_jsonl(tmp_path / "in.jsonl", [document(i) for i in range(30)])

    def test_other_encoder_settings_reuse_tokens_only(self, run, source, encoded, tokenized):
        run("first", source)
        encoded.clear()
        tokenized.clear()
        second = run("second", source, "--max_seq_length", "32")
        assert len(encoded) == 30
        assert not tokenized
        assert summary(second)["reused"]["embeddings"] == 0

    def test_another_tokenizer_reuses_embeddings_only(self, run, source, tmp_path, encoded):
        run("first", source)
        encoded.clear()
        words = tmp_path / "words.txt"
        words.write_text("河水港口 5 n\n", encoding="utf-8")
        second = run("second", source, "--user_dict", words)
        assert not encoded
        assert summary(second)["reused"] == {"run_id": "first", "tokens": 0, "embeddings": 30}
        assert_same(second, run("full", source, "--user_dict", words, "--reuse", "none"))

    def test_other_packages_reuse_nothing(self, run, source, encoded, monkeypatch):
        run("first", source)
        encoded.clear()
        here = versions.installed_versions()
        changed = here | {"jieba": "0.1", "torch": "0.1"}
        for module in ("prepare", "publish"):
            monkeypatch.setattr(f"lexbeam.pipeline.{module}.installed_versions", lambda: changed)
        second = run("second", source)
        assert len(encoded) == 30
        assert summary(second)["reused"] is None

    def test_the_store_may_be_off(self, run, source, encoded):
        first = run("first", source, "--reuse_store", "off")
        assert not (first / "reuse").exists()
        encoded.clear()
        run("second", source)
        assert len(encoded) == 30

    def test_a_run_may_be_named(self, run, lexbeam, source, tmp_path, encoded):
        run("first", source)
        run("other", source, "--max_seq_length", "32")
        encoded.clear()
        assert summary(run("third", source, "--reuse", "first"))["reused"]["run_id"] == "first"
        assert not encoded
        missing = lexbeam("run", "--input", source, "--output", tmp_path / "out",
                          "--features", "tfidf", "--reuse", "nobody")  # fmt: skip
        assert missing.code == 2
        assert "--reuse" in missing.err
        assert "nobody" in missing.err

    def test_a_damaged_part_is_not_taken_over(self, run, source, encoded):
        first = run("first", source)
        for folder in ("encoded", "tokens", "counts", "index"):
            victim = sorted((first / "reuse" / folder).glob("part-*"))[folder == "tokens"]
            data = bytearray(victim.read_bytes())
            data[len(data) // 2] ^= 1
            # A new file: what has been taken over shares its bytes with the old one.
            victim.unlink()
            victim.write_bytes(bytes(data))
        second = run("second", source)
        full = run("full", source, "--reuse", "none")
        assert_same(second, full)

    def test_an_earlier_run_that_is_removed_meanwhile(self, run, source, tmp_path, monkeypatch):
        from lexbeam.pipeline import stages
        from lexbeam.pipeline.workspace import Workspace

        first = run("first", source)
        tokenize = stages.tokenize

        def remove_then(work: Workspace) -> stages.Stage:
            shutil.rmtree(first)
            return tokenize(work)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "tokenize", remove_then)
            second = run("second", source)
        assert_same(second, run("full", source, "--reuse", "none"))

    def test_failed_documents_get_another_chance(self, run, source, monkeypatch):
        def failing(text: str) -> Any:
            encode = Encoder._tokenize

            def tokenize(self: Encoder, texts: dict[int, str], errors: dict[int, str]) -> Any:
                for row in [row for row, value in texts.items() if text in value]:
                    errors[row] = "it fails today"
                kept = {row: value for row, value in texts.items() if row not in errors}
                return encode(self, kept, errors)

            return tokenize

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Encoder, "_tokenize", failing("number 7 "))
            first = run("first", source)
        assert read_dataset(first, "errors")["doc_id"].to_pylist() == ["d7"]
        second = run("second", source)
        assert not read_dataset(second, "errors").num_rows
        assert summary(second)["reused"]["embeddings"] == 29


def test_parts_that_are_taken_over_share_their_bytes(run, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [document(i) for i in range(30)])
    first, second = run("first", source), run("second", source)
    for folder in ("tokens", "counts", "encoded"):
        for part in (first / "reuse" / folder).glob("*.parquet"):
            assert os.path.samefile(part, second / "reuse" / folder / part.name)
