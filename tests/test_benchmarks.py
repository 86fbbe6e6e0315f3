"""The benchmarks' scripts start, and what they measure is what they say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from types import ModuleType

import pytest

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
def memory() -> Iterator[ModuleType]:
    path = ROOT / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("benchmarks_memory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


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
