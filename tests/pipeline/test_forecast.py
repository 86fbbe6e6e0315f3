"""`lexbeam plan`: the sample, the laws, and what it says of jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lexbeam.models.config import ConfigError
from lexbeam.pipeline.forecast import sample, view
from lexbeam.pipeline.forecast.laws import Cost, Forecaster, Power, Scale
from lexbeam.transforms import readers, splits
from tests.pipeline.conftest import write_jsonl
from tests.pipeline.test_flink_rules import SAMPLE

STAGES = (
    "tokenize", "duplicates", "count", "merge", "vocabulary", "bow", "lda", "index", "extract",
    "publish",
)  # fmt: skip


def documents(number: int, text: str = "the railway has a new bridge ") -> list[dict[str, str]]:
    return [{"id": str(row), "text": text * (1 + row % 7)} for row in range(number)]


def layout_of(*inputs: Path, **values: object) -> splits.Layout:
    config = splits.InputConfig(inputs=tuple(map(str, inputs)), **values)
    return splits.plan_layout(config, 10_000)


class TestSample:
    def test_how_many_documents_there_are(self, tmp_path):
        write_jsonl(tmp_path / "a.jsonl", documents(5_000))
        write_jsonl(tmp_path / "b.jsonl", documents(50, "x" * 3_000))
        pq.write_table(pa.table({"text": ["some text"] * 777}), tmp_path / "c.parquet")
        for name in ("d.txt", "e.txt"):
            (tmp_path / name).write_text("a document")
        drawn = sample.draw(layout_of(tmp_path))
        assert drawn.num_documents == pytest.approx(5_000 + 50 + 777 + 2, rel=0.05)

    def test_the_limit_holds(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", documents(5_000))
        drawn = sample.draw(layout_of(path, limit=1_234))
        assert drawn.num_documents == 1_234
        (split,) = drawn.of_size(1_000).splits
        found = rows_of(drawn.of_size(1_000))
        assert found == pytest.approx(1_000, rel=0.1)
        assert all(piece.max_rows for piece in split.pieces)

    def test_it_comes_from_all_over_the_input(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", documents(20_000))
        drawn = sample.draw(layout_of(path))
        (split,) = drawn.of_size(640).splits
        starts = [piece.start for piece in split.pieces]
        assert len(starts) == 64
        assert starts[0] == 0
        assert starts[-1] > 0.9 * path.stat().st_size
        assert rows_of(drawn.of_size(640)) == pytest.approx(640, rel=0.1)

    @pytest.mark.parametrize("text", ["\n\n", '{"id": "rejected"}\nno JSON\n'])
    def test_an_input_without_documents_is_named(self, tmp_path, text):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(ConfigError, match="--input"):
            sample.draw(layout_of(tmp_path / "a.jsonl"))


def rows_of(layout: splits.Layout) -> int:
    (split,) = layout.splits
    return sum(b.num_rows for b in readers.read_split(split, layout.sources, layout.config))


class TestLaws:
    def test_a_cost_is_found_again(self):
        found = Cost.fitted([(x, x**0.5, 2 + 0.003 * x + 0.1 * x**0.5) for x in (1e2, 1e3, 1e4)])
        assert found.fixed == pytest.approx(2, rel=1e-3)
        assert found.work(1e6, 1e3) == pytest.approx(3_100, rel=1e-3)

    def test_what_is_distinct_is_most_of_a_cost_but_not_all(self):
        found = Cost.fitted([(x, x**0.5, 2 + x**0.5) for x in (1e2, 1e3, 1e4)])
        assert found.work(1e4, 1e2) == pytest.approx(100, rel=1e-3)
        assert found.slope * 1e4 == pytest.approx(20, rel=1e-3)

    def test_no_part_is_negative(self):
        found = Cost.fitted([(1, 1, 3.0), (2, 1, 2.0), (4, 1, 1.0)])
        assert min(found.fixed, found.slope, found.distinct) >= 0

    def test_distinct_terms_grow_as_a_power(self):
        curve = Power.through([(100, 50), (1_000, 500 * 10**-0.4), (10_000, 500 * 100**0.5 * 0.2)])
        assert curve(10_000) == pytest.approx(1_000)
        assert 0 <= curve.exponent <= 1
        # One sample alone says nothing of how they grow.
        assert Power.through([(10, 5), (10, 5)])(20) == 10

    @staticmethod
    def job(documents: int) -> dict[str, object]:
        figures = {
            "seconds": 0.5 + documents * 1e-3, "peak": 300e6, "written": documents * 100,
            "shuffled": 22, "largest_record": 22,
        }  # fmt: skip
        stages = {stage: dict(figures) for stage in STAGES}
        stages["duplicates"]["shuffled"] = 24 * documents
        sizes = {
            "documents": documents, "characters": 200 * documents, "count_rows": 60 * documents,
            "terms": 10 * documents, "candidates": 30 * documents, "phrases": documents,
            "vocabulary": 5 * documents,
        }  # fmt: skip
        return {"stages": stages, "sizes": sizes}

    def forecaster(self, encoder: dict[str, float] | None = None) -> Forecaster:
        jobs = [self.job(number) for number in (1_000, 4_000, 16_000)]
        return Forecaster(jobs, encoder, documents_per_split=10_000, max_terms=200_000)

    SCALE = Scale(
        documents=10_000_000, workers=1, splits=1_000, stage_seconds=0, num_topics=50, passes=30,
        is_local=True, threads=2,
    )  # fmt: skip

    def test_one_worker_takes_what_the_sample_took_so_many_times(self):
        found = self.forecaster().forecast("tokenize", self.SCALE)
        assert found.seconds == pytest.approx(0.5 + 10_000, rel=1e-3)
        assert found.written == pytest.approx(1e9)
        assert found.shuffled == pytest.approx(22 * 1_000)
        assert found.parallel == 1_000

    @pytest.mark.parametrize(("workers", "share"), [(10, 0.1), (300, 4 / 1_000), (5_000, 1e-3)])
    def test_workers_share_the_splits_and_the_last_round_is_not_full(self, workers, share):
        scale = replace(self.SCALE, workers=workers, stage_seconds=10)
        found = self.forecaster().forecast("bow", scale)
        assert found.seconds == pytest.approx(10.5 + 10_000 * share, rel=1e-3)

    def test_what_one_worker_does_is_not_shared(self):
        for stage in ("vocabulary", "lda", "publish"):
            many = replace(self.SCALE, workers=100)
            one, hundred = (self.forecaster().forecast(stage, s) for s in (self.SCALE, many))
            assert one.seconds == hundred.seconds
            assert one.parallel == 1

    def test_a_distributed_lda_is_shared_and_exchanges_its_sums(self):
        scale = replace(self.SCALE, workers=100, is_local=False, stage_seconds=10)
        found = self.forecaster().forecast("lda", scale)
        assert found.seconds < 10 * 32 + 0.1 * 10_000
        assert found.shuffled == 30 * 200_000 * 50 * 8 * 100
        assert found.largest_record == 1 << 20

    def test_places_of_documents_are_what_grows_in_memory(self):
        scale = replace(self.SCALE, documents=1_000_000_000)
        found = self.forecaster().forecast("duplicates", scale)
        assert found.memory > 300e6 + 3 * 24 * 1e9 / 64
        assert found.shuffled == pytest.approx(24e9, rel=1e-3)
        assert self.forecaster().forecast("tokenize", scale).memory == 300e6

    def test_the_encoder_goes_by_characters(self):
        encoder = {
            "load_seconds": 2.0, "seconds": 10.0, "documents": 100, "characters": 50_000,
            "tokens": 30_000, "peak": 900e6, "dimensions": 384,
        }  # fmt: skip
        forecaster = self.forecaster(encoder)
        assert forecaster.stages()[7] == "encode"
        found = forecaster.forecast("encode", self.SCALE)
        assert found.seconds == pytest.approx(2 + 10_000_000 * 200 * 10 / 50_000)
        assert found.memory == 900e6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (99, "99 s"), (200, "3.3 min"), (9e4, "25 h"), (9e5, "10 d")],
)  # fmt: skip
def test_times_are_short(seconds, text):
    assert view.seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (35e6, "35 MB"), (2e15, "2 PB")],
)  # fmt: skip
def test_bytes_are_short(number, text):
    assert view.bytes_text(number) == text


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--docs", "many"), "--docs"),
            (("--docs", "0"), "--docs"),
            (("--workers", "0"), "--workers"),
            (("--runner", "FlinkRunner"), "--runner"),
            (("--gpu_type", "nvidia-l4"), "--gpu_type"),
            (("--features", "colour"), "--features"),
            (("--input", "nowhere.jsonl"), "nowhere.jsonl"),
        ],
    )
    def test_wrong_usage_is_named(self, lexbeam, arguments, said):
        result = lexbeam("plan", "--input", SAMPLE, *arguments)
        assert result.code == 2
        assert said in result.err

    @pytest.mark.slow
    def test_a_whole_forecast(self, lexbeam, tmp_path):
        result = lexbeam(
            "plan", "--input", SAMPLE, "--features", "tfidf,lda", "--num_topics", "4",
            "--docs", "1e9", "--workers", "200", "--json", tmp_path / "plan.json",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "1,000,000,000 documents" in result.out
        assert "200 workers like this machine, 10 s a pipeline" in result.out
        assert "in a pipeline for every pass" in result.out
        assert "the largest single record is" in result.out
        report = json.loads((tmp_path / "plan.json").read_text())
        assert tuple(stage["stage"] for stage in report["stages"]) == STAGES
        assert report["input_documents"] == 48
        assert all(stage["seconds"] > 0 for stage in report["stages"])
        places = report["stages"][1]["shuffled"]
        assert 24e9 < places < 40e9

    def test_what_cannot_be_measured_is_an_error(self, lexbeam, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.exit('no sample today')\n")
        result = lexbeam("plan", "--input", SAMPLE, "--features", "tfidf")
        assert result.code == 1
        assert "the sample cannot be measured" in result.err
