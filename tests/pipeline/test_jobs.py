"""Whole jobs from the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lexbeam.models import schemas
from lexbeam.pipeline import publish, stages, workspace
from lexbeam.transforms import part_files, tokenize
from tests.conftest import ROOT
from tests.pipeline.conftest import (
    TEXT_FEATURES,
    good_documents,
    only_run,
    read_dataset,
    read_manifest,
    terms_of,
    write_jsonl,
)

SAMPLE = ROOT / "examples" / "corpus"
COMPARED = ("terms", "documents", "topics", "errors")


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory) -> Path:
    """The sample corpus without BERT."""
    from lexbeam.pipeline.cli import main

    output = tmp_path_factory.mktemp("sample")
    arguments = ["run", "--quiet", "--input", str(SAMPLE), "--output", str(output)]
    arguments += ["--features", TEXT_FEATURES, "--num_topics", "6"]
    assert main(arguments, supervise=False) == 0
    return only_run(output)


def same_rows(left: Path, right: Path) -> None:
    for name in COMPARED:
        assert read_dataset(left, name).equals(read_dataset(right, name)), name


def test_the_sample_gives_every_document_its_features(sample_run):
    documents = read_dataset(sample_run, "documents")
    assert documents.num_rows == 48
    assert documents.schema.equals(schemas.documents_schema(0))
    for row in documents.to_pylist():
        assert row["keywords_tfidf"]
        assert row["keywords_textrank"]
        assert row["keywords_lda"]
        assert row["keywords"]
        assert 0.3 < sum(topic["weight"] for topic in row["topics"]) <= 1.001
        assert row["embedding"] is None
        assert row["keywords_bert"] is None
    assert set(documents["language"].to_pylist()) == {"zh", "en"}


def test_keywords_of_the_sample_name_the_subject(sample_run):
    rows = {row["doc_id"]: row for row in read_dataset(sample_run, "documents").to_pylist()}
    tea = " ".join(
        terms_of(rows["zh-tea-1"]["keywords"]) + terms_of(rows["zh-tea-1"]["keywords_tfidf"])
    )
    assert "茶" in tea
    rail = terms_of(rows["en-rail-1"]["keywords_tfidf"])
    assert {"track", "rail", "rails", "train", "trains", "bridge"} & set(rail)


def test_terms_are_in_ascending_order_with_their_idf(sample_run):
    import math

    terms = read_dataset(sample_run, "terms")
    assert terms.schema.equals(schemas.TERMS)
    names = [term.encode() for term in terms["term"].to_pylist()]
    assert names == sorted(names)
    for row in terms.to_pylist():
        expected = math.log((1 + 48) / (1 + row["document_frequency"])) + 1
        assert row["idf"] == pytest.approx(expected, abs=1e-12)
        assert row["document_frequency"] >= 2
        assert row["collection_frequency"] >= row["document_frequency"]


def test_the_manifest_lists_every_file_with_its_hash(sample_run):
    manifest = read_manifest(sample_run)
    listed = {entry["path"]: entry for entry in manifest["files"]}
    on_disk = {
        str(path.relative_to(sample_run))
        for path in sample_run.rglob("*")
        if path.is_file()
        and path.name not in ("manifest.json", "summary.json", "_SUCCESS", ".lock")
    }
    assert set(listed) == on_disk
    for path, entry in listed.items():
        data = (sample_run / path).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        if path.endswith(".parquet"):
            assert entry["rows"] == pq.ParquetFile(sample_run / path).metadata.num_rows
    assert (sample_run / "_SUCCESS").read_text()
    latest = json.loads((sample_run.parent.parent / "latest.json").read_text())
    assert latest["run_id"] == sample_run.name


def test_verify_finds_each_kind_of_damage(lexbeam, sample_run, tmp_path):
    output = tmp_path / "copy"
    run = output / "runs" / sample_run.name

    def damaged(change) -> str:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(sample_run, run)
        change()
        result = lexbeam("verify", run)
        assert result.code == 1
        return result.out

    part = next((sample_run / "documents").glob("*.parquet")).name
    documents = run / "documents"

    def flip() -> None:
        data = bytearray((documents / part).read_bytes())
        data[len(data) // 2] ^= 1
        (documents / part).write_bytes(data)

    assert "SHA-256" in damaged(flip)
    assert "is missing" in damaged(lambda: (documents / part).unlink())
    assert "bytes" in damaged(lambda: (documents / part).write_bytes(b"short"))
    assert "not in the manifest" in damaged(
        lambda: shutil.copy(documents / part, documents / "part-9.parquet")
    )
    assert "_SUCCESS" in damaged(lambda: (run / "_SUCCESS").unlink())


@pytest.mark.parametrize("block_rows", [1, 7, 512])
def test_the_block_size_does_not_show(lexbeam, sample_run, tmp_path, monkeypatch, block_rows):
    for kind in (tokenize.SplitSource, part_files.ZippedParts):
        monkeypatch.setattr(workspace, kind.__name__, partial(kind, block_rows=block_rows))
    result = lexbeam(
        "run", "--input", SAMPLE, "--output", tmp_path, "--features", TEXT_FEATURES,
        "--num_topics", "6",
    )  # fmt: skip
    assert result.code == 0, result.err
    same_rows(sample_run, only_run(tmp_path))


@pytest.mark.parametrize("size", ["1K", "10K"])
def test_the_split_size_moves_rows_between_files_only(lexbeam, sample_run, tmp_path, size):
    result = lexbeam(
        "run", "--input", SAMPLE, "--output", tmp_path, "--features", TEXT_FEATURES,
        "--num_topics", "6", "--split_size", size,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert len(list((only_run(tmp_path) / "documents").glob("*.parquet"))) > 3
    same_rows(sample_run, only_run(tmp_path))


def test_sublinear_term_frequencies(lexbeam, tmp_path):
    from lexbeam.models.tfidf import to_sklearn

    texts = [f"alpha beta gamma {'alpha ' * 9}", "alpha beta delta delta", "gamma delta epsilon"]
    documents = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    source = write_jsonl(tmp_path / "in.jsonl", documents)
    weights = {}
    for name, options in {"plain": [], "sublinear": ["--sublinear_tf"]}.items():
        arguments = ["--input", source, "--output", tmp_path / name, "--features", "tfidf"]
        result = lexbeam("run", *arguments, "--max_df", "1.0", "--min_df", "1", *options)
        assert result.code == 0, result.err
        run = only_run(tmp_path / name)
        rows = read_dataset(run, "documents")["keywords_tfidf"].to_pylist()
        weights[name] = {k["term"]: k["score"] for k in rows[0]}
        vectorizer = to_sklearn(run / "model")
        row = vectorizer.transform(texts[:1]).toarray()[0]
        expected = dict(zip(vectorizer.get_feature_names_out(), row, strict=True))
        assert weights[name] == pytest.approx({t: w for t, w in expected.items() if w}, abs=1e-6)
    assert weights["plain"]["alpha"] > weights["sublinear"]["alpha"] + 0.05
    # A model keeps its weighting: transform refuses another one, and follows it unasked.
    new = ["--input", source, "--model", tmp_path / "plain", "--output", tmp_path / "new"]
    refused = lexbeam("transform", *new, "--sublinear_tf")
    assert refused.code == 2
    assert "sublinear_tf" in refused.err


@pytest.mark.slow
def test_two_worker_processes_give_the_same(lexbeam, sample_run, tmp_path):
    result = lexbeam(
        "run", "--input", SAMPLE, "--output", tmp_path, "--features", TEXT_FEATURES,
        "--num_topics", "6", "--split_size", "10K", "--runner", "DirectRunner",
        "--direct_running_mode", "multi_processing", "--direct_num_workers", "2",
    )  # fmt: skip
    assert result.code == 0, result.err
    same_rows(sample_run, only_run(tmp_path))


def test_a_complete_run_id_is_a_no_op_and_another_job_is_refused(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--run_id", "night"]
    arguments += ["--features", "tfidf"]
    assert lexbeam(*arguments).code == 0
    run = tmp_path / "out" / "runs" / "night"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = lexbeam(*arguments)
    assert again.code == 0
    assert "complete already" in again.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    other = lexbeam(*arguments, "--top_k", "3")
    assert other.code == 2
    assert "top_k" in other.err
    source.write_text(source.read_text() + '{"id": "more", "text": "one more track"}\n')
    changed = lexbeam(*arguments)
    assert changed.code == 2
    assert "in.jsonl" in changed.err


def test_a_failed_job_is_resumed_by_the_same_command(lexbeam, sample_run, tmp_path, monkeypatch):
    arguments = ["run", "--input", SAMPLE, "--output", tmp_path, "--features", TEXT_FEATURES]
    arguments += ["--num_topics", "6", "--split_size", "20K"]
    extract = stages.extract

    def broken(work, *, has_topics):
        return stages.Stage(
            "extract", lambda pipeline: 1 / 0, extract(work, has_topics=True).is_done
        )

    monkeypatch.setattr(stages, "extract", broken)
    failed = lexbeam(*arguments)
    assert failed.code == 1
    assert "resumes" in failed.err
    assert not (tmp_path / "latest.json").exists()
    monkeypatch.undo()
    tokens = only_run(tmp_path) / "reuse" / "tokens"
    kept = {path: path.stat().st_mtime_ns for path in tokens.glob("[!.]*")}
    victim = sorted(kept)[1]
    victim.unlink()
    resumed = lexbeam(*arguments, "--keep_intermediate")
    assert resumed.code == 0, resumed.err
    assert "resuming" in resumed.err
    now = {path: path.stat().st_mtime_ns for path in tokens.glob("[!.]*")}
    assert {path for path in kept if now[path] != kept[path]} == {victim}
    same_rows(sample_run, only_run(tmp_path))


def test_fit_then_transform_equals_run(lexbeam, sample_run, tmp_path):
    fitted = tmp_path / "fitted"
    options = ["--features", TEXT_FEATURES, "--num_topics", "6"]
    assert lexbeam("fit", "--input", SAMPLE, "--output", fitted, *options).code == 0
    run = only_run(fitted)
    assert not (run / "documents").exists()
    assert read_dataset(run, "terms").equals(read_dataset(sample_run, "terms"))
    assert read_dataset(run, "topics").equals(read_dataset(sample_run, "topics"))
    result = lexbeam(
        "transform", "--input", SAMPLE, "--model", run / "model", "--output", tmp_path / "t"
    )
    assert result.code == 0, result.err
    transformed = only_run(tmp_path / "t")
    assert read_dataset(transformed, "documents").equals(read_dataset(sample_run, "documents"))
    assert lexbeam("verify", transformed).code == 0


def test_transform_refuses_other_settings_than_the_models(lexbeam, sample_run, tmp_path):
    new = ROOT / "examples" / "new" / "new.jsonl"
    arguments = ["transform", "--input", new, "--model", sample_run, "--output", tmp_path]
    result = lexbeam(*arguments, "--num_topics", "9")
    assert result.code == 2
    assert "--num_topics 9" in result.err
    assert "bert" in lexbeam(*arguments, "--features", "tfidf,bert").err
    assert lexbeam("transform", "--input", new, "--model", tmp_path, "--output", tmp_path).code == 2
    assert list(tmp_path.iterdir()) == []
    done = lexbeam(*arguments)
    assert done.code == 0, done.err
    assert read_dataset(only_run(tmp_path), "documents").num_rows == 3


def test_off_features_are_null_and_the_schema_stays(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    result = lexbeam("run", "--input", source, "--output", tmp_path / "o", "--features", "tfidf")
    assert result.code == 0, result.err
    documents = read_dataset(only_run(tmp_path / "o"), "documents")
    assert documents.schema.equals(schemas.documents_schema(0))
    for name in ("keywords_textrank", "keywords_lda", "keywords_bert", "topics", "embedding"):
        assert documents[name].null_count == 4, name
    assert read_dataset(only_run(tmp_path / "o"), "topics").num_rows == 0


def test_more_topics_than_documents_are_reduced_and_said(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    result = lexbeam("run", "--input", source, "--output", tmp_path / "o", "--features", "lda")
    assert result.code == 0, result.err
    assert "50 were asked for" in result.err
    topics = read_dataset(only_run(tmp_path / "o"), "topics")["topic"].to_pylist()
    assert set(topics) <= set(range(4))


def test_limits_that_leave_no_terms_are_lifted_and_said(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents()[1:2])
    result = lexbeam("run", "--input", source, "--output", tmp_path / "o", "--features", "tfidf")
    assert result.code == 0, result.err
    assert "min_df 2 and max_df 0.5 left none: 1 and 1.0 were used" in result.err
    assert read_dataset(only_run(tmp_path / "o"), "terms").num_rows > 0


def test_one_document_has_no_topics(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents()[:1])
    result = lexbeam(
        "run", "--input", source, "--output", tmp_path / "o", "--features", TEXT_FEATURES
    )
    assert result.code == 0, result.err
    (row,) = read_dataset(only_run(tmp_path / "o"), "documents").to_pylist()
    assert row["topics"] is None
    assert row["keywords_tfidf"]


def test_an_empty_corpus_gives_empty_files_of_the_same_schema(lexbeam, tmp_path):
    (tmp_path / "in.jsonl").write_text("\n\n")
    result = lexbeam(
        "run",
        "--input",
        tmp_path / "in.jsonl",
        "--output",
        tmp_path / "o",
        "--features",
        TEXT_FEATURES,
    )
    assert result.code == 0, result.err
    documents = read_dataset(only_run(tmp_path / "o"), "documents")
    assert documents.num_rows == 0
    assert documents.schema.equals(schemas.documents_schema(0))


def test_limit_takes_the_first_documents(lexbeam, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", good_documents())
    result = lexbeam(
        "run", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "o", "--features", "tfidf",
        "--limit", "3",
    )  # fmt: skip
    assert result.code == 0, result.err
    ids = read_dataset(only_run(tmp_path / "o"), "documents")["doc_id"].to_pylist()
    assert ids == [document["id"] for document in good_documents()[:3]]


def test_inspect_shows_the_run_and_its_documents(lexbeam, sample_run):
    shown = lexbeam("inspect", sample_run.parent.parent)
    assert shown.code == 0
    assert "padding" not in shown.out
    assert "topic" in shown.out
    one = lexbeam("inspect", sample_run, "zh-tea-1")
    assert one.code == 0
    assert "茶" in one.out
    missing = lexbeam("inspect", sample_run, "no-such-id")
    assert missing.code == 2
    assert "no-such-id" in missing.err


def test_a_source_that_changes_under_the_plan_is_named(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--run_id", "r"]
    arguments += ["--features", "tfidf"]
    real = stages.tokenize

    def touch_then(work):
        source.write_text(source.read_text() + '{"id": "late", "text": "late track"}\n')
        return real(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "tokenize", touch_then)
        result = lexbeam(*arguments)
    assert result.code == 2
    assert "in.jsonl" in result.err


def test_an_output_folder_may_hold_glob_characters(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    output = tmp_path / "out[1]*?"
    arguments = ["run", "--input", source, "--output", output, "--features", "tfidf"]
    assert lexbeam(*arguments).code == 0
    assert lexbeam("verify", output).code == 0
    assert read_dataset(only_run(output), "documents").num_rows == 4


def test_the_order_of_the_inputs_is_part_of_a_run(lexbeam, tmp_path):
    a = write_jsonl(tmp_path / "a.jsonl", good_documents())
    b = write_jsonl(tmp_path / "b.jsonl", good_documents()[:2])
    arguments = ["run", "--output", tmp_path / "out", "--features", "tfidf", "--run_id", "r"]
    assert lexbeam(*arguments, "--input", a, b).code == 0
    other = lexbeam(*arguments, "--input", b, a)
    assert other.code == 2
    assert "order" in other.err


def test_a_run_cut_off_after_its_manifest_is_finished_by_the_same_command(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    output = tmp_path / "out"
    arguments = ["run", "--input", source, "--output", output, "--features", "tfidf"]
    assert lexbeam(*arguments, "--keep_intermediate").code == 0
    run = only_run(output)
    (run / "_SUCCESS").unlink()
    (output / "latest.json").unlink()
    again = lexbeam(*arguments)
    assert again.code == 0
    assert "complete already" in again.err
    assert only_run(output) == run
    assert (run / "_SUCCESS").exists()
    assert (output / "latest.json").exists()
    assert not (run / "intermediate").exists()


def test_latest_never_moves_to_an_older_run(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path, "--features", "tfidf", "--run_id"]
    assert lexbeam(*arguments, "old").code == 0
    assert lexbeam(*arguments, "new").code == 0
    assert lexbeam(*arguments, "old").code == 0
    assert json.loads((tmp_path / "latest.json").read_text()) == {"run_id": "new"}


def test_a_run_held_by_another_process_is_left_alone(lexbeam, tmp_path, monkeypatch):
    from lexbeam.pipeline import run_lock
    from lexbeam.pipeline.runs import RunDir

    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--features", "tfidf"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "tokenize", lambda work: 1 / 0)
        assert lexbeam(*arguments, "--run_id", "held").code == 1
    monkeypatch.setattr(run_lock, "SECONDS_TO_WAIT", 0.0)
    with run_lock.run_lock(RunDir(str(tmp_path / "out"), "held")):
        named = lexbeam(*arguments, "--run_id", "held")
        assert named.code == 2
        assert "another process" in named.err
        # A job without a name starts a run of its own.
        assert lexbeam(*arguments).code == 0
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2


def test_bundles_that_are_replayed_change_nothing(lexbeam, sample_run, tmp_path):
    result = lexbeam(
        "run",
        *("--input", SAMPLE, "--output", tmp_path, "--features", TEXT_FEATURES),
        *("--num_topics", "6", "--split_size", "10K", "--direct_runner_bundle_repeat", "1"),
    )
    assert result.code == 0, result.err
    same_rows(sample_run, only_run(tmp_path))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("vocabulary.parquet", "vocabulary.parquet"),
        ("phrases.parquet", "phrases.parquet"),
        ("lda/metrics.json", "metrics.json"),
        ("lda/topic_term_counts.npy", "topic_term_counts.npy"),
        ("config.json", "config.json"),
    ],
)
def test_a_damaged_corpus_model_is_wrong_usage(lexbeam, sample_run, tmp_path, file, reason):
    model = tmp_path / "model"
    shutil.copytree(sample_run / "model", model)
    (model / file).write_bytes(b"{}"[: 0 if file.endswith("config.json") else 2])
    new = ROOT / "examples" / "new"
    result = lexbeam("transform", "--input", new, "--model", model, "--output", tmp_path / "out")
    assert result.code == 2, result.err
    assert reason in result.err
    assert not (tmp_path / "out").exists()


def test_the_model_of_an_unfinished_fit_is_refused(lexbeam, sample_run, tmp_path):
    run = tmp_path / "runs" / "half"
    shutil.copytree(sample_run, run)
    (run / "manifest.json").unlink()
    new = ROOT / "examples" / "new"
    result = lexbeam("transform", "--input", new, "--model", run, "--output", tmp_path / "out")
    assert result.code == 2
    assert "not finished" in result.err


def test_a_model_cannot_name_files_outside_its_folder(lexbeam, sample_run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(sample_run / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["text"]["user_dict"] = "../secret.txt"
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "secret.txt").write_text("secret 5 n\n")
    new = ROOT / "examples" / "new"
    result = lexbeam("transform", "--input", new, "--model", model, "--output", tmp_path / "out")
    assert result.code == 2
    assert "user_dict" in result.err


def test_dictionaries_travel_with_the_model(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    words, stops = tmp_path / "words.txt", tmp_path / "stops.txt"
    words.write_text("发酵程度 100 n\n", encoding="utf-8")
    stops.write_text("engineers\n", encoding="utf-8")
    done = lexbeam(
        "run",
        *("--input", source, "--output", tmp_path / "out", "--features", TEXT_FEATURES),
        *("--user_dict", words, "--stopwords", stops, "--min_df", "1", "--max_df", "1.0"),
    )
    assert done.code == 0, done.err
    run = only_run(tmp_path / "out")
    terms = read_dataset(run, "terms")["term"].to_pylist()
    assert "发酵程度" in terms
    assert "engineers" not in terms
    rows = read_dataset(run, "documents").to_pylist()
    assert any("发酵程度" in term for term in terms_of(rows[0]["keywords_textrank"]))
    words.unlink()
    stops.unlink()
    new = lexbeam("transform", "--input", source, "--model", run, "--output", tmp_path / "new")
    assert new.code == 0, new.err
    transformed = read_dataset(only_run(tmp_path / "new"), "documents")
    assert transformed.equals(read_dataset(run, "documents"))


def test_an_unknown_runner_leaves_no_run_behind(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--features", "tfidf"]
    result = lexbeam(*arguments, "--runner", "NoSuchRunner")
    assert result.code == 2
    assert "NoSuchRunner" in result.err
    assert not (tmp_path / "out").exists()


def test_a_copied_run_can_be_verified_and_inspected(lexbeam, sample_run, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(sample_run, copy)
    assert lexbeam("verify", copy).code == 0
    assert lexbeam("inspect", copy, "zh-tea-1").code == 0
    (copy / "manifest.json").write_text('{"files": [')
    damaged = lexbeam("verify", copy)
    assert damaged.code == 1
    assert "manifest.json is damaged" in damaged.out


def test_a_changed_option_is_named_as_it_is_typed(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--run_id", "r"]
    arguments += ["--features", "lda"]
    assert lexbeam(*arguments, "--num_topics", "2").code == 0
    other = lexbeam(*arguments, "--num_topics", "3")
    assert other.code == 2
    assert "--num_topics 3 (2 there)" in other.err


def test_what_beam_says_of_its_options_is_one_line(lexbeam, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    arguments = ["run", "--input", source, "--output", tmp_path / "out", "--features", "tfidf"]
    result = lexbeam(*arguments, "--temp_location")
    assert result.code == 2
    assert "--temp_location" in result.err
    assert "usage:" not in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "fit"])
def test_a_job_that_lost_a_document_is_not_published(lexbeam, tmp_path, monkeypatch, command):
    source = write_jsonl(tmp_path / "in.jsonl", good_documents())
    real = publish.documents_in
    monkeypatch.setattr(publish, "documents_in", lambda work: real(work) + 1)
    arguments = [command, "--input", source, "--output", tmp_path / "out", "--features", "tfidf"]
    result = lexbeam(*arguments)
    assert result.code == 1
    assert "5 documents were read, but 4 kept and 0 rejected" in result.err
    assert not (tmp_path / "out" / "latest.json").exists()


def test_keyword_weights_are_the_models_unless_others_are_given(lexbeam, tmp_path):
    corpus = write_jsonl(tmp_path / "in.jsonl", good_documents())
    weights = tmp_path / "weights.json"
    # The words of a phrase alone count: the shortest come first in English, longest in Chinese.
    weights.write_text(
        json.dumps(
            {
                "english_without_attention": {"nw": -1},
                "chinese_without_attention": {"nw": 1},
            }
        )
    )
    common = ["--features", "tfidf,textrank", "--quiet"]

    def keywords_of(output: Path) -> dict[str, list[str]]:
        rows = read_dataset(only_run(output), "documents").to_pylist()
        return {row["doc_id"]: terms_of(row["keywords"]) for row in rows}

    def run(command: str, name: str, *arguments: str | Path) -> dict[str, list[str]]:
        output = tmp_path / name
        given = [command, "--input", corpus, "--output", output, *common, *arguments]
        assert lexbeam(*given).code == 0
        return keywords_of(output)

    default = run("run", "default")
    weighted = run("run", "weighted", "--keyword_weights", weights)
    assert weighted != default
    words = [len(term.split()) for term in weighted["rail"]]
    assert words == sorted(words)
    characters = [len(term) for term in weighted["tea"]]
    assert sum(characters[:5]) > sum(characters[-5:])
    manifest = read_manifest(only_run(tmp_path / "weighted"))
    assert manifest["config"]["keyword_weights"]["english_without_attention"]["nw"] == -1
    assert run("transform", "same", "--model", tmp_path / "weighted") == weighted
    other = run("transform", "other", "--model", tmp_path / "default", "--keyword_weights", weights)
    assert other == weighted


def test_other_keyword_weights_are_another_job(lexbeam, tmp_path):
    corpus = write_jsonl(tmp_path / "in.jsonl", good_documents())
    weights = tmp_path / "weights.yaml"
    weights.write_text("english: {tfidf: 1, nw1: -0.5}\n")
    command = ["run", "--input", corpus, "--output", tmp_path / "out", "--run_id", "one"]
    command += ["--features", "tfidf", "--quiet"]
    assert lexbeam(*command).code == 0
    result = lexbeam(*command, "--keyword_weights", weights)
    assert result.code == 2
    assert "--keyword_weights" in result.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "must hold a mapping"),
        ("{", "cannot be read"),
        ("french: {nw: 1}", "'french'"),
        ("english: {length: 1}", "'length'"),
        ("english: {nw: much}", "'much': nw must be a finite number"),
    ],
)
def test_wrong_keyword_weights_are_refused_before_anything_runs(lexbeam, tmp_path, text, reason):
    corpus = write_jsonl(tmp_path / "in.jsonl", good_documents())
    weights = tmp_path / "weights.yaml"
    weights.write_text(text)
    command = ["run", "--input", corpus, "--output", tmp_path / "out"]
    result = lexbeam(*command, "--keyword_weights", weights)
    assert result.code == 2
    assert reason in result.err
    assert "--keyword_weights" in result.err
    assert not (tmp_path / "out").exists()
    assert lexbeam(*command, "--keyword_weights", tmp_path / "none.json").code == 2
