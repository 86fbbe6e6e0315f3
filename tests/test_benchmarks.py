"""The benchmarks' scripts start, and what they measure is what they say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType

import pytest

from lexbeam.models.keyphrase_baselines import jieba_keywords
from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
# A process begins with the peak memory of the one that made it; pytest's is large, a shell's small.
FROM_SMALL_PROCESS = ("sh", "-c", '"$@"; exit $?', "sh")
ZH = [{"title": "茶", "text": "绿茶的香气来自鲜叶。红茶经过发酵，颜色更深！乌龙茶介于两者之间吗？"}]
EN = [
    {"text": "Trains run on rails. Stations lie along the line.\nSignals guard each block! No."},
    {"text": f"Trains run on rails. One that goes on for {'very ' * 12}long."},
]
ENGLISH = ["Trains run on rails.", "Stations lie along the line.", "Signals guard each block!"]


@pytest.fixture(scope="module")
def script_module() -> Iterator[Callable[[str], ModuleType]]:
    """`script_module(name)`: a script of benchmarks/ as a module."""
    loaded: list[str] = []

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # A dataclass looks its module up there.
        sys.modules[spec.name] = module
        loaded.append(spec.name)
        spec.loader.exec_module(module)
        return module

    # As Python does for a script: they import one another.
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield load
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in loaded:
        del sys.modules[name]


@pytest.fixture(scope="module")
def memory(script_module) -> ModuleType:
    return script_module("memory")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_shows_its_help(script, tmp_path):
    command = [sys.executable, str(script), "--help"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("usage:")


def test_sentences_are_cut_and_neither_short_nor_long_nor_twice(memory):
    assert memory.sentences_of(EN) == ENGLISH
    assert memory.sentences_of(ZH) == [
        "绿茶的香气来自鲜叶。",
        "红茶经过发酵，颜色更深！",
        "乌龙茶介于两者之间吗？",
    ]


def test_resampled_documents_have_new_ids_and_all_come(memory):
    drawn = list(islice(memory.resampled([ZH, EN]), 100))
    assert len({document["id"] for document in drawn}) == 100
    assert {document["text"] for document in drawn} == {d["text"] for d in ZH + EN}
    assert {document.get("title") for document in drawn} == {"茶", None}


def test_short_texts_are_distinct_and_of_one_input(memory):
    # Six pairs of each input: a third of them all, and no more.
    drawn = list(memory.short_texts([ZH, EN]))
    assert len(drawn) == 4
    assert len({document["id"] for document in drawn}) == 4
    assert len({document["text"] for document in drawn}) == 4
    for text in (document["text"] for document in drawn):
        parts = [sentence for sentence in ENGLISH if sentence in text]
        assert len(parts) in (0, 2, 3)
        assert (len(" ".join(parts)) == len(text)) == bool(parts)


@pytest.mark.parametrize("case", ["resampled", "short"])
def test_a_seed_gives_one_corpus_and_a_smaller_one_begins_a_larger_one(memory, case, tmp_path):
    def corpus(name: str, size: int, seed: int) -> list[str]:
        path = tmp_path / name
        memory.write_corpus(path, memory.CASES[case]([ZH, EN], seed), size)
        return path.read_text(encoding="utf-8").splitlines()

    whole = corpus("whole", 4, 5)
    assert all(json.loads(line)["id"].startswith(case) for line in whole)
    assert corpus("again", 4, 5) == whole
    assert corpus("half", 2, 5) == whole[:2]
    assert corpus("other", 4, 6) != whole


def test_a_corpus_that_the_inputs_cannot_fill_is_refused(memory, tmp_path):
    with pytest.raises(SystemExit, match="give 4 documents of this kind, not 5"):
        memory.write_corpus(tmp_path / "corpus", memory.short_texts([ZH, EN]), 5)


def test_growth_is_the_last_size_over_the_first(memory):
    def entry(documents: int, peak: int, seconds: float):
        return memory.Measured("short", documents, 1, "extract", peak, 1, seconds, seconds)

    (growth,) = memory.growths([entry(10, 100, 1.0), entry(40, 110, 6.0)])
    assert (growth.peak, growth.seconds) == (pytest.approx(1.1), pytest.approx(1.5))
    assert "NOT FLAT" in memory.growth_line(growth)
    assert memory.growths([entry(10, 100, 1.0)]) == []


@pytest.mark.slow
def test_topics_are_compared_on_one_matrix(shared_corpora, tmp_path):
    report = tmp_path / "figures.json"
    result = subprocess.run(
        [
            *FROM_SMALL_PROCESS,
            *(sys.executable, ROOT / "benchmarks" / "lda.py", "--check", "--json", report),
            *("--input", shared_corpora / "zh_csl_dev.jsonl", "--num_topics", "8", "--runs", "1"),
            *("--min_df", "2", "--parts", "peers,threads", "--documents", "300", "600"),
            *("--peers", "lexbeam,scikit_learn,tomotopy"),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    peers = {entry["peer"]: entry for entry in found["figures"] if "npmi" in entry}
    assert list(peers) == ["lexbeam", "scikit_learn", "tomotopy"]
    # The likelihood of a token: all peers beat guessing, and none is far from the others.
    for entry in peers.values():
        assert -8.5 < entry["likelihood"] < -6.0
        assert 0.1 < entry["diversity"] <= 1.0
        assert -1.0 < entry["npmi"] < 1.0
    assert [entry["threads"] for entry in found["figures"][3:]] == [1, 2]
    assert "more held out" in result.stdout


@pytest.mark.slow
def test_encoders_are_compared_on_the_same_texts(shared_corpora):
    script = ROOT / "benchmarks" / "encode.py"
    result = subprocess.run(
        [
            *FROM_SMALL_PROCESS,
            *(sys.executable, script, "--input", shared_corpora / "en_semeval2017.jsonl"),
            *("--model_id", "all-MiniLM-L6-v2", "--max_seq_length", "64", "--limit", "24"),
            *("--runs", "1", "--parts", "rates,received,padding,retrieval"),
            *("--encoders", "sentence-transformers,transformers,torch-float32,openvino-int8"),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line]
    least = {line[0]: float(line[-2]) for line in lines if line[-1][-3:-2] == "."}
    assert list(least) == [
        "sentence-transformers",
        "transformers",
        "torch-float32",
        "openvino-int8",
    ]
    assert min(list(least.values())[:3]) > 0.9999
    assert 0.9 < least["openvino-int8"] < 0.9999
    assert "received attention: " in result.stdout
    assert "padding en_semeval2017.jsonl" in result.stdout
    (hits,) = (line for line in lines if line[0] == "retrieval")
    assert hits[3] == "torch-float32"
    assert float(hits[4].rstrip(",")) > 0.9  # 24 texts: their first lines find them


@pytest.fixture(scope="module")
def gold_corpus(tmp_path_factory):
    """The sample's Chinese documents and one English one, with their gold keyphrases."""
    gold = ROOT / "examples" / "gold.jsonl"
    rows = map(json.loads, gold.read_text(encoding="utf-8").splitlines())
    keywords = {row["id"]: row["keywords"] for row in rows}
    chinese, english = (
        (ROOT / "examples" / "corpus" / f"{language}.jsonl").read_text(encoding="utf-8")
        for language in ("zh", "en")
    )
    documents = [*map(json.loads, chinese.splitlines())]
    documents.append(next(d for d in map(json.loads, english.splitlines()) if d["id"] in keywords))
    path = tmp_path_factory.mktemp("gold") / "corpus.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for document in documents:
            found = keywords.get(document["id"], [])
            out.write(json.dumps({**document, "keywords": found}, ensure_ascii=False) + "\n")
    return path


def keyphrases_script(*options):
    command = [sys.executable, ROOT / "benchmarks" / "keyphrases.py", *options]
    return subprocess.run(command, capture_output=True, text=True)


def jieba_f1(gold_corpus) -> float:
    """Macro F at 5 of `jieba.analyse.extract_tags` on the Chinese documents, by hand."""
    documents = map(json.loads, gold_corpus.read_text(encoding="utf-8").splitlines())
    values = []
    for document in documents:
        if document["keywords"] and document["id"].startswith("zh"):
            contents = [f"{document['title']}\n{document['text']}"]
            (found,) = jieba_keywords(contents, "tfidf", 5)
            right = len(set(found) & set(document["keywords"]))
            values.append(2 * right / (len(found) + len(document["keywords"])))
    return sum(values) / len(values)


@pytest.mark.slow
def test_keyphrases_of_peers_are_scored_as_lexbeams(gold_corpus, tmp_path):
    report = tmp_path / "figures.json"
    result = keyphrases_script(
        *("--gold", gold_corpus, "--features", "tfidf,textrank", "--k", "5", "--json", report),
        *("--peers", "jieba_tfidf,jieba_textrank", "--timed_documents", "6"),
    )
    assert result.returncode == 0, result.stderr
    # One English document is not enough for a table.
    (section,) = json.loads(report.read_text(encoding="utf-8"))
    assert section["language"] == "zh"
    rows = {row["name"]: row for row in section["rows"]}
    columns = ["keywords", "keywords_textrank", "keywords_tfidf"]
    assert list(rows) == [*columns, "first phrases", "jieba TF-IDF", "jieba TextRank"]
    fused = rows["keywords"]["at"]["5"]["all"]["macro"]["f1"]
    for name, row in rows.items():
        assert (row["ms"] is None) == (name == "first phrases")
        assert row["ms"] is None or row["ms"] > 0
        if name != "keywords":
            better = row["at"]["5"]["fused_better_by"]["mean"]
            assert better == pytest.approx(fused - row["at"]["5"]["all"]["macro"]["f1"])
        assert f"{name} " in result.stdout
    assert 0 < section["cost"]["fused_ms"] < rows["keywords"]["ms"]
    assert section["cost"]["documents"] == 6
    found = rows["jieba TF-IDF"]["at"]["5"]["all"]["macro"]["f1"]
    assert found == pytest.approx(jieba_f1(gold_corpus))


def test_a_peer_that_is_not_known_is_named_before_anything_runs(gold_corpus):
    result = keyphrases_script("--gold", gold_corpus, "--peers", "jieba_tfidf,no_such_peer")
    assert result.returncode == 1
    assert result.stderr.startswith("--peers: no no_such_peer; there are jieba_tfidf,")
    assert result.stdout == ""


def test_a_peer_that_is_not_installed_is_named(script_module, monkeypatch):
    peers = script_module("keyphrase_peers")
    gone = peers.PEERS["yake"]._replace(module="no_such_module")
    monkeypatch.setitem(peers.PEERS, "yake", gone)
    peers.require_peers(["jieba_tfidf"])
    with pytest.raises(SystemExit, match=r"not installed: no_such_module(.|\n)*keyphrases-peers"):
        peers.require_peers(["jieba_tfidf", "yake"])


def test_the_corpora_of_two_days(script_module):
    reuse = script_module("reuse")
    documents = [{"id": f"d{number}", "text": f"Text {number}."} for number in range(205)]
    yesterday, today = reuse.two_days(documents, 0.05, seed=3)
    was, now = ({row["id"]: row["text"] for row in day} for day in (yesterday, today))
    assert (len(was), len(now), len(now.keys() - was.keys())) == (200, 200, 5)
    assert sum(was[name] != now[name] for name in was.keys() & now.keys()) == 5
    assert all(row["text"] == f"Text {row['id'][1:]}." for row in yesterday)


def test_what_is_fixed_is_taken_off_one_worker_and_two(script_module):
    scaling = script_module("scaling")
    few_on_one, few_on_two = [{"bow": 3.0}] * 3, [{"bow": 1.0}, {"bow": 2.0}, {"bow": 9.0}]
    (found,) = scaling.scaled(few_on_one, few_on_two, [{"bow": 13.0}] * 3, [{"bow": 7.0}] * 3)
    assert (found.one, found.two, found.ratio) == (10.0, 5.0, 2.0)
    assert "2.00" in scaling.lines([found])[1]


@pytest.mark.slow
def test_a_run_is_planned_and_its_stages_carried_out_one_by_one(tmp_path):
    def child(*arguments):
        command = [sys.executable, ROOT / "benchmarks" / "memory.py", "--child", *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    corpus = ROOT / "examples" / "corpus" / "en.jsonl"
    planned = child("plan", "--input", corpus, "--output", tmp_path, "--features", "tfidf")
    assert planned["splits"] == 1
    for stage in ("tokenize", "duplicates"):
        said = child(stage, planned["run"])
        assert said["rows"] == 18
        assert said["seconds"] > 0


@pytest.mark.slow
def test_trainings_are_compared_on_the_same_sequences():
    script = ROOT / "benchmarks" / "train.py"
    corpus = ROOT / "examples" / "corpus" / "en.jsonl"
    found = subprocess.run(
        [
            *(sys.executable, script, "--input", corpus, "--preset", "tiny", "--steps", "1"),
            *("--runs", "1", "--max_seq_length", "64", "--batch_tokens", "512"),
            *("--parts", "mixed,parity"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rates = re.findall(r"^  (\w+) +([\d,]+) tokens/s", found.stdout, re.MULTILINE)
    assert [name for name, _ in rates] == ["packed", "padded", "trainer"]
    assert all(int(rate.replace(",", "")) > 0 for _, rate in rates)
    packed, padded = re.findall(r"(?:packed|padded) (\d+\.\d+)", found.stdout)
    assert float(packed) == pytest.approx(float(padded), abs=1e-5)


@pytest.mark.slow
def test_a_classifier_is_compared_on_its_own_split(tmp_path):
    words = {"tea": "leaf cup pot kettle", "rail": "train track station engine"}
    rows = [
        {"id": f"{label}{number}", "text": f"{each} {number % 5}", "label": label}
        for label, text in words.items()
        for number in range(10)
        for each in [" ".join(text.split()[number % 4 :])]
    ]
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = [{"doc_id": row["id"]} for row in rows[::5]]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held_out))
    record = {
        "after": {"accuracy": 0.75, "macro_f1": 0.7}, "identity": {"seed": 3},
        "seconds": {"train": 60.0},
    }  # fmt: skip
    (tmp_path / "training.json").write_text(json.dumps(record))
    found = subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks" / "classify.py"),
            *("--input", corpus, "--model", tmp_path),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "seed 3, 4 held out: lexbeam 0.7500 (macro F1 0.7000)  TF-IDF 1.0000" in found.stdout
    assert "no worse in 0 of 1" in found.stdout
