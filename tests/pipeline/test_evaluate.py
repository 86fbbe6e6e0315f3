"""`lexbeam evaluate` and `inspect --diversity` on runs of the sample corpus."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from lexbeam.models import encoder
from lexbeam.models.keyphrase_diversity import diverse_places
from lexbeam.models.keyphrase_fit import FitProblem, fit_weights
from lexbeam.models.keyphrase_weights import FEATURE_NAMES, KeyphraseWeights, read_weights
from lexbeam.pipeline import evaluation_fit, quiet
from lexbeam.pipeline.cli import main
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.gold import read_gold
from tests.conftest import ROOT
from tests.models.tiny_models import write_tiny_model
from tests.pipeline.conftest import only_run, read_dataset, terms_of, write_jsonl

SAMPLE = ROOT / "examples" / "corpus"
GOLD = ROOT / "examples" / "gold.jsonl"
COLUMNS = ["keywords", "keywords_textrank", "keywords_tfidf"]
BASELINES = {"zh": ["first phrases", "jieba TF-IDF", "jieba TextRank"], "en": ["first phrases"]}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """`job(*options)`: a run without an encoder; returns its output folder."""

    def run(*options: str | Path) -> Path:
        output = tmp_path_factory.mktemp("job")
        arguments = ["run", "--output", output, "--features", "tfidf,textrank", "--quiet", *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quiet, "quiet_libraries", lambda verbose: None)
            assert main([str(argument) for argument in arguments], supervise=False) == 0
        return output

    return run


@pytest.fixture(scope="module")
def sample(job) -> Path:
    return job("--input", SAMPLE)


@pytest.fixture
def evaluate(lexbeam, tmp_path):
    """`evaluate(output, *options)`: the report, and what was printed."""

    def run(output: Path, *options: str | Path) -> tuple[dict[str, Any], str]:
        path = tmp_path / "report.json"
        result = lexbeam("evaluate", output, "--json", path, *options)
        assert result.code == 0, result.err
        return json.loads(path.read_text(encoding="utf-8")), result.out

    return run


def row_of(report: dict[str, Any], language: str, name: str, k: int = 5) -> dict[str, Any]:
    (section,) = (s for s in report["sections"] if s["language"] == language)
    (row,) = (row for row in section["rows"] if row["name"] == name)
    return dict(row["at"][str(k)])


def gold_by_id() -> dict[str, list[str]]:
    rows = map(json.loads, GOLD.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["keywords"] for row in rows}


# --- gold files


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "keywords": ["x"]', "line 2: not valid JSON"),
        ("[1]", r"line 2: \[1\] is no object"),
        ('{"keywords": ["x"]}', "line 2: id must be a string or an integer, not null"),
        ('{"id": true, "keywords": []}', "line 2: id must be .*, not true"),
        ('{"id": "b"}', "line 2: keywords must be a list of strings, not null"),
        ('{"id": "b", "keywords": "x"}', 'line 2: keywords must be .*, not "x"'),
        ('{"id": "b", "keywords": [1]}', r"line 2: keywords must be .*, not \[1\]"),
        ('{"id": "a", "keywords": []}', "line 2: id 'a' stands twice"),
    ],
)
def test_bad_gold_names_file_line_and_value(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "g.jsonl"
    path.write_text('{"id": "a", "keywords": ["x"]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--gold .*g\.jsonl, " + message):
        read_gold(str(path))


def test_gold_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.jsonl cannot be read"):
        read_gold(str(tmp_path / "no.jsonl"))
    path = write_jsonl(tmp_path / "e.jsonl", [{"id": "a", "keywords": []}])
    with pytest.raises(UsageError, match=r"e\.jsonl holds no keywords"):
        read_gold(str(path))


def test_gold_ids_may_be_numbers_and_fields_more(tmp_path: Path) -> None:
    rows = [{"id": 7, "keywords": ["a", "b"], "text": "…"}, {"id": "x", "keywords": []}]
    gold = read_gold(str(write_jsonl(tmp_path / "g.jsonl", rows)))
    assert gold.name == "g.jsonl"
    assert gold.keywords == {"7": ("a", "b"), "x": ()}


# --- scores


def test_every_column_and_baseline_is_scored(sample, evaluate) -> None:
    report, shown = evaluate(sample, "--gold", GOLD)
    assert [section["language"] for section in report["sections"]] == ["zh", "en"]
    for section in report["sections"]:
        names = [row["name"] for row in section["rows"]]
        assert names == COLUMNS + BASELINES[section["language"]]
        assert (section["documents"], section["gold_keyphrases"]) == (12, 60)
        assert section["not_in_run"] == 0
        for row in section["rows"]:
            assert set(row["at"]) == {"5", "10"}
            assert ("fused_better_by" in row["at"]["5"]) == (row["name"] != "keywords")
    assert report["topics"] is None
    assert "gold.jsonl · Chinese · 12 documents, 60 gold keyphrases" in shown
    fused = row_of(report, "zh", "keywords")["all"]["macro"]["f1"]
    assert f"{100 * fused:.1f}" in shown


def test_scores_are_those_of_the_published_lists(sample, evaluate) -> None:
    report, _ = evaluate(sample, "--gold", GOLD, "--k", "3")
    gold = gold_by_id()
    for column in COLUMNS:
        precisions, recalls, f1s, hits = [], [], [], 0
        for row in read_dataset(only_run(sample), "documents").to_pylist():
            if row["language"] != "zh" or row["doc_id"] not in gold:
                continue
            plain = [unicodedata.normalize("NFKC", t).lower() for t in terms_of(row[column])[:3]]
            right = len(set(plain) & set(gold[row["doc_id"]]))
            precisions.append(right / len(plain))
            recalls.append(right / 5)
            f1s.append(2 * right / (len(plain) + 5))
            hits += right
        found = row_of(report, "zh", column, 3)["all"]
        assert found["documents"] == len(f1s) == 12
        assert found["macro"]["precision"] == pytest.approx(sum(precisions) / 12)
        assert found["macro"]["recall"] == pytest.approx(sum(recalls) / 12)
        assert found["macro"]["f1"] == pytest.approx(sum(f1s) / 12)
        assert found["micro"]["recall"] == pytest.approx(hits / 60)


def test_the_difference_is_that_of_the_means(sample, evaluate) -> None:
    report, shown = evaluate(sample, "--gold", GOLD, "--k", "5", "--samples", "300")
    fused = row_of(report, "en", "keywords")["all"]["macro"]["f1"]
    for name in [*COLUMNS[1:], "first phrases"]:
        row = row_of(report, "en", name)
        better = row["fused_better_by"]
        assert better["mean"] == pytest.approx(fused - row["all"]["macro"]["f1"])
        assert better["low"] <= better["mean"] <= better["high"]
        assert f"{100 * better['mean']:+.1f} [" in shown


def test_the_same_seed_gives_the_same_report(sample, evaluate) -> None:
    first, _ = evaluate(sample, "--gold", GOLD, "--seed", "4")
    again, _ = evaluate(sample, "--gold", GOLD, "--seed", "4")
    other, _ = evaluate(sample, "--gold", GOLD, "--seed", "5")
    assert first == again
    assert first["sections"] != other["sections"]


def test_several_gold_files_and_ids_that_the_run_lacks(sample, evaluate, tmp_path: Path) -> None:
    rows = [
        {"id": "zh-tea-1", "keywords": ["绿茶", "没有的词"]},
        {"id": "gone", "keywords": ["x"]},
        {"id": "gone-2", "keywords": ["y"]},
        {"id": "en-tea-1", "keywords": []},
    ]
    more = write_jsonl(tmp_path / "more.jsonl", rows)
    report, shown = evaluate(sample, "--gold", GOLD, more)
    assert [section["gold"] for section in report["sections"]] == ["gold.jsonl"] * 2 + [more.name]
    section = report["sections"][2]
    assert (section["documents"], section["not_in_run"]) == (1, 2)
    assert (section["gold_keyphrases"], section["present_keyphrases"]) == (2, 1)
    assert "2 ids of this file not in the run" in shown
    assert "50% of them in the text" in shown


def test_present_only_counts_what_stands_in_the_text(sample, evaluate, tmp_path: Path) -> None:
    rows = [
        {"id": "zh-tea-1", "keywords": ["绿茶", "没有的词"]},
        {"id": "zh-tea-2", "keywords": ["没有的词"]},
    ]
    report, _ = evaluate(sample, "--gold", write_jsonl(tmp_path / "g.jsonl", rows), "--k", "1")
    jieba = row_of(report, "zh", "jieba TF-IDF", 1)
    assert jieba["all"]["documents"] == 2
    assert jieba["present"]["documents"] == 1
    assert jieba["present"]["macro"]["recall"] in (0.0, 1.0)
    assert jieba["all"]["macro"]["recall"] == jieba["present"]["macro"]["recall"] / 4


def test_topics_are_reported_where_lda_ran(job, evaluate) -> None:
    output = job("--input", SAMPLE, "--features", "lda", "--num_topics", "4")
    report, shown = evaluate(output, "--gold", GOLD)
    assert report["topics"]["num_topics"] == 4
    assert f"coherence (NPMI) {report['topics']['coherence_npmi']:.3f}" in shown
    names = [row["name"] for row in report["sections"][0]["rows"]]
    assert names == ["keywords_lda", *BASELINES["zh"]]
    # Without fused keywords nothing is compared with them.
    assert "fused_better_by" not in report["sections"][0]["rows"][1]["at"]["5"]


def test_a_transform_is_evaluated_by_its_model(sample, lexbeam, evaluate, tmp_path: Path) -> None:
    output = tmp_path / "new"
    result = lexbeam("transform", "--model", sample, "--input", SAMPLE, "--output", output)
    assert result.code == 0, result.err
    new, _ = evaluate(output, "--gold", GOLD)
    old, _ = evaluate(sample, "--gold", GOLD)
    assert new["sections"] == old["sections"]
    weights = tmp_path / "weights.json"
    fitted, _ = evaluate(output, "--gold", GOLD, "--fit_weights", weights)
    assert fitted["fit"]["notes"] == []


def test_a_corpus_model_that_is_gone_is_named(job, lexbeam, tmp_path: Path) -> None:
    output = job("--input", SAMPLE)
    shutil.rmtree(Path(only_run(output)) / "model")
    result = lexbeam("evaluate", output, "--gold", GOLD)
    assert result.code == 2
    assert "the corpus model of run" in result.err
    assert "config.json" in result.err


def test_diversity_filters_every_list(sample, evaluate) -> None:
    plain, _ = evaluate(sample, "--gold", GOLD, "--k", "10")
    filtered, shown = evaluate(sample, "--gold", GOLD, "--k", "10", "--diversity")
    assert "near-duplicates and sub-phrases are left out" in shown
    expected, gold = [], gold_by_id()
    for row in read_dataset(only_run(sample), "documents").to_pylist():
        if row["language"] == "zh" and row["doc_id"] in gold:
            terms = terms_of(row["keywords"])
            kept = [terms[place] for place in diverse_places(terms, "zh")][:10]
            right = len(set(kept) & set(gold[row["doc_id"]]))
            expected.append(2 * right / (len(kept) + 5))
    found = row_of(filtered, "zh", "keywords", 10)["all"]["macro"]["f1"]
    assert found == pytest.approx(sum(expected) / 12)
    assert found != row_of(plain, "zh", "keywords", 10)["all"]["macro"]["f1"]


# --- texts


@pytest.fixture
def moving(job, tmp_path: Path):
    """A run whose input can be taken away: its output folder and its input."""
    source = tmp_path / "corpus"
    shutil.copytree(SAMPLE, source)
    return job("--input", source), source


def test_without_the_input_only_the_columns_are_scored(moving, evaluate, lexbeam) -> None:
    output, source = moving
    before, _ = evaluate(output, "--gold", GOLD)
    shutil.rmtree(source)
    after, shown = evaluate(output, "--gold", GOLD)
    for section in after["sections"]:
        assert [row["name"] for row in section["rows"]] == COLUMNS
        assert section["present_keyphrases"] is None
        assert section["note"].startswith("the text of 24 of 24 documents is missing")
        assert "present" not in section["rows"][0]["at"]["5"]
    assert row_of(after, "zh", "keywords")["all"] == row_of(before, "zh", "keywords")["all"]
    assert "no baselines, and nothing for present keyphrases" in shown
    result = lexbeam("evaluate", output, "--gold", GOLD, "--fit_weights", source / "w.json")
    assert result.code == 2
    assert "--fit_weights needs the texts" in result.err


def test_a_changed_input_is_not_taken_for_the_old_one(moving, evaluate) -> None:
    output, source = moving
    with (source / "zh.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "new", "text": "新的文本"}\n')
    report, _ = evaluate(output, "--gold", GOLD)
    for section in report["sections"]:
        assert "zh.jsonl" in section["note"]


def test_kept_texts_are_enough(job, evaluate, tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    shutil.copytree(SAMPLE, source)
    output = job("--input", source, "--keep_text")
    before, _ = evaluate(output, "--gold", GOLD)
    shutil.rmtree(source)
    after, _ = evaluate(output, "--gold", GOLD)
    assert before == after
    assert after["sections"][0]["note"] is None


# --- wrong usage


def test_what_cannot_be_evaluated_is_said(sample, lexbeam, tmp_path: Path) -> None:
    def error_of(*arguments: str | Path) -> str:
        result = lexbeam("evaluate", *arguments)
        assert result.code == 2
        assert result.out == ""
        return result.err

    assert "--gold" in error_of(sample)
    assert "--k 30: the lists of run" in error_of(sample, "--gold", GOLD, "--k", "5,30")
    assert "is no list of whole numbers" in error_of(sample, "--gold", GOLD, "--k", "0")
    assert "--samples" in error_of(sample, "--gold", GOLD, "--samples", "0")
    assert "neither a run" in error_of(tmp_path, "--gold", GOLD)
    other = write_jsonl(tmp_path / "o.jsonl", [{"id": "no", "keywords": ["x"]}])
    message = error_of(sample, "--gold", other)
    assert "none of its 1 ids, as 'no', is in run" in message
    assert "whose ids are as 'en-tea-1'" in message
    output = tmp_path / "fit"
    assert lexbeam("fit", "--input", SAMPLE, "--output", output, "--features", "tfidf").code == 0
    assert "has no documents: it is a fit" in error_of(output, "--gold", GOLD)


def test_a_json_file_that_cannot_be_written_is_named(sample, lexbeam, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = lexbeam("evaluate", sample, "--gold", GOLD, "--json", tmp_path / "file" / "x.json")
    assert result.code == 2
    assert "--json" in result.err


def test_help_states_the_protocol(lexbeam) -> None:
    result = lexbeam("evaluate", "--help")
    assert result.code == 0
    for word in ("F@k = 2PR / (P + R)", "Porter", "paired bootstrap", "conditional logit"):
        assert word in result.out


# --- fitted weights


def test_fitted_weights_are_used_by_a_run(sample, job, evaluate, tmp_path: Path) -> None:
    weights = tmp_path / "weights.json"
    report, shown = evaluate(sample, "--gold", GOLD, "--k", "5", "--fit_weights", weights)
    fit = report["fit"]
    names = ["english_without_attention", "chinese_without_attention"]
    assert sorted(fit["fitted"]) == sorted(names)
    for language, name in zip(("en", "zh"), names, strict=True):
        fitted = fit["fitted"][name]
        # The features were computed again, and the old weights give the old keywords.
        fused = row_of(report, language, "keywords")["all"]["macro"]["f1"]
        assert fitted["f1_before"] == pytest.approx(fused)
        assert fitted["f1_after"] >= fitted["f1_before"]
        assert fitted["documents"] == 12
        assert name in shown
    read = read_weights(weights)
    assert read.as_dict() == fit["weights"]
    assert read.english == KeyphraseWeights().english
    assert read.chinese_without_attention != KeyphraseWeights().chinese_without_attention
    output = job("--input", SAMPLE, "--keyword_weights", weights)
    again, _ = evaluate(output, "--gold", GOLD, "--k", "5")
    # Fitted to these very documents.
    new = row_of(again, "zh", "keywords")["all"]["macro"]["f1"]
    assert new > row_of(report, "zh", "keywords")["all"]["macro"]["f1"]
    assert report["fit"]["notes"] == []


def watch_problems(monkeypatch) -> list[FitProblem]:
    """What weights are fitted to from now on, in order: English, then Chinese."""
    problems = []

    def watched(problem, *args):
        problems.append(problem)
        return fit_weights(problem, *args)

    monkeypatch.setattr(evaluation_fit, "fit_weights", watched)
    return problems


def test_gold_sets_weigh_alike(sample, evaluate, tmp_path, monkeypatch) -> None:
    rows = [{"id": key, "keywords": words} for key, words in gold_by_id().items()]
    chinese = [row for row in rows if row["id"].startswith("zh")]
    small = write_jsonl(tmp_path / "small.jsonl", chinese[:2])
    large = write_jsonl(tmp_path / "large.jsonl", chinese[2:])
    problems = watch_problems(monkeypatch)
    evaluate(sample, "--gold", small, large, "--fit_weights", tmp_path / "w.json")
    (problem,) = problems
    assert problem.weights.tolist() == pytest.approx([1 / 2] * 2 + [1 / 10] * 10)


def test_too_little_gold_leaves_the_weights(sample, evaluate, lexbeam, tmp_path: Path) -> None:
    rows = [{"id": key, "keywords": words} for key, words in gold_by_id().items()]
    few = write_jsonl(tmp_path / "few.jsonl", rows[:4] + rows[12:])
    report, shown = evaluate(sample, "--gold", few, "--fit_weights", tmp_path / "w.json")
    assert list(report["fit"]["fitted"]) == ["chinese_without_attention"]
    assert "not fitted: english_without_attention: need 10 documents" in shown
    default = KeyphraseWeights().english_without_attention.as_dict()
    assert report["fit"]["weights"]["english_without_attention"] == default
    none = write_jsonl(tmp_path / "none.jsonl", rows[:4])
    result = lexbeam("evaluate", sample, "--gold", none, "--fit_weights", tmp_path / "w2.json")
    assert result.code == 2
    assert "need 10 documents" in result.err
    assert not (tmp_path / "w2.json").exists()


def test_weights_are_fitted_with_attention_too(lexbeam, evaluate, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path / "cache"))
    tiny = write_tiny_model(tmp_path / "model", "bert")
    output = tmp_path / "bert"
    result = lexbeam(
        "run", "--input", SAMPLE, "--output", output, "--model_id", tiny, "--features",
        "tfidf,textrank,bert", "--backend", "torch", "--dtype", "float32",
        "--max_seq_length", "64",
    )  # fmt: skip
    assert result.code == 0, result.err
    problems = watch_problems(monkeypatch)
    report, _ = evaluate(output, "--gold", GOLD, "--k", "5", "--fit_weights", tmp_path / "w.json")
    attention = [problem.features[FEATURE_NAMES.index("att")].any() for problem in problems]
    assert attention == [True, False, True, False]
    assert "keywords_bert" in [row["name"] for row in report["sections"][0]["rows"]]
    for language, name in (("en", "english"), ("zh", "chinese")):
        fused = row_of(report, language, "keywords")["all"]["macro"]["f1"]
        assert report["fit"]["fitted"][name]["f1_before"] == pytest.approx(fused)
        without = report["fit"]["weights"][f"{name}_without_attention"]
        assert without["att"] == 0.0
    shutil.rmtree(tiny)
    monkeypatch.setattr(encoder, "_encoders", {})
    result = lexbeam("evaluate", output, "--gold", GOLD, "--fit_weights", tmp_path / "w.json")
    assert result.code == 2
    assert "--fit_weights needs the run's model" in result.err


# --- display


def test_inspect_leaves_near_duplicates_out_where_asked(sample, lexbeam) -> None:
    rows = read_dataset(only_run(sample), "documents").to_pylist()
    (row,) = (row for row in rows if row["doc_id"] == "zh-sport-2")
    terms = terms_of(row["keywords"])
    kept = [terms[place] for place in diverse_places(terms, "zh")]
    left_out = next(term for term in terms[:8] if term not in kept)
    plain = lexbeam("inspect", sample, "zh-sport-2").out.split("fused keywords")[1]
    filtered = lexbeam("inspect", sample, "zh-sport-2", "--diversity").out.split("fused keywords")
    shown = filtered[1].partition("\n\n")[0].split()
    assert left_out in plain.partition("\n\n")[0].split()
    assert left_out not in shown
    assert kept[0] in shown
    assert lexbeam("inspect", sample, "--diversity").code == 0
