"""Corpus models over time: counts add and subtract, topics go on from earlier ones."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lexbeam.models import counts, lda, schemas
from lexbeam.models.config import LdaConfig
from lexbeam.models.lda_warm_start import places_of_terms, topic_drift, warm_state
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms.compare import KINDS, count_kinds
from lexbeam.transforms.count import CountChange
from tests.pipeline.conftest import content_of, read_dataset, read_manifest, write_jsonl
from tests.pipeline.test_reuse import document


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[CountChange | None]:
    """How each job has merged its counts."""
    found: list[CountChange | None] = []
    change_of = Workspace.count_change

    def spy(self: Workspace) -> CountChange | None:
        found.append(change_of(self))
        return found[-1]

    monkeypatch.setattr(Workspace, "count_change", spy)
    return found


@pytest.fixture
def fit(lexbeam, tmp_path):
    """`fit(id, documents, *options)`: the run; documents lie a few to a file."""

    def start(
        name: str, documents: list[dict[str, Any]], *options: str, command: str = "fit"
    ) -> Path:
        source = tmp_path / "in"
        for path in source.glob("*.jsonl"):
            path.unlink()
        by_file: dict[int, list[dict[str, Any]]] = {}
        for entry in documents:
            by_file.setdefault(int(entry["id"][1:]) // 10, []).append(entry)
        for number, entries in by_file.items():
            path = write_jsonl(source / f"{number:03d}.jsonl", entries)
            # A file that has not changed keeps its time, as where nobody has written it again.
            stamp = 10**9 * (1 + zlib.crc32(path.read_bytes()) % 10**6)
            os.utime(path, ns=(stamp, stamp))
        result = lexbeam(
            command, "--input", source, "--output", tmp_path / "out", "--run_id", name,
            "--features", "tfidf,lda", "--num_topics", "3", "--lda_passes", "6",
            "--split_size", "2K", *options,
        )  # fmt: skip
        assert result.code == 0, result.err
        return tmp_path / "out" / "runs" / name

    return start


def model_files(run: Path) -> dict[str, str]:
    """SHA-256 of everything that was fitted, state included."""
    fitted = ("model/", "terms/", "topics/")
    return {path: sha for path, sha in content_of(run).items() if path.startswith(fitted)}


class TestState:
    def test_counts_are_added_and_taken_away(self, fit, changes):
        first = fit("first", [document(i) for i in range(100)], "--keep_state")
        assert (first / "model" / "state" / "words").is_dir()
        now = [document(i) for i in range(5, 110) if i != 42]
        now[60] = document(65, version=1)
        second = fit("second", now, "--keep_state")
        change = changes[-1]
        assert change is not None
        # Four of eleven files differ, and one is new.
        assert 0 < len(change.added) < 8
        assert 0 < len(change.removed) < 8
        full = fit("full", now, "--keep_state", "--reuse", "none")
        assert changes[-1] is None
        assert any("state/words" in path for path in model_files(full))
        assert model_files(second) == model_files(full)

    def test_nothing_but_additions(self, fit, changes):
        fit("first", [document(i) for i in range(60)], "--keep_state")
        second = fit("second", [document(i) for i in range(70)], "--keep_state")
        assert changes[-1] is not None
        assert not changes[-1].removed
        full = fit("full", [document(i) for i in range(70)], "--keep_state", "--reuse", "none")
        assert model_files(second) == model_files(full)

    def test_the_state_is_used_by_run_and_need_not_be_kept(self, fit, changes):
        fit("first", [document(i) for i in range(60)], "--keep_state")
        second = fit("second", [document(i) for i in range(62)], command="run")
        assert changes[-1] is not None
        assert not (second / "model" / "state").exists()
        full = fit("full", [document(i) for i in range(62)], "--reuse", "none", command="run")
        assert model_files(second) == model_files(full)
        compared = json.loads((second / "summary.json").read_text())["compared"]
        assert compared == {"new": 2, "changed": 0, "unchanged": 60, "removed": 0}

    def test_a_damaged_state_is_not_used(self, fit, changes):
        first = fit("first", [document(i) for i in range(60)], "--keep_state")
        victim = sorted((first / "model" / "state" / "words").glob("*.parquet"))[3]
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(bytes(data))
        second = fit("second", [document(i) for i in range(62)], "--keep_state")
        assert changes[-1] is None
        full = fit("full", [document(i) for i in range(62)], "--keep_state", "--reuse", "none")
        assert model_files(second) == model_files(full)

    def test_where_most_has_changed_all_is_merged(self, fit, changes):
        fit("first", [document(i) for i in range(60)], "--keep_state")
        fit("second", [document(i, version=1) for i in range(55)] + [document(59)])
        assert changes[-1] is None

    def test_a_transform_does_not_see_the_state(self, fit, lexbeam, tmp_path):
        with_state = fit("with", [document(i) for i in range(40)], "--keep_state")
        without = fit("without", [document(i) for i in range(40)])
        found = []
        for model in (with_state, without):
            output = tmp_path / model.name
            source = write_jsonl(tmp_path / "new" / "a.jsonl", [document(200)])
            result = lexbeam("transform", "--input", source, "--model", model, "--output", output)
            assert result.code == 0, result.err
            found.append(read_manifest(next((output / "runs").iterdir()))["fingerprint"])
        assert found[0] == found[1]

    @pytest.mark.parametrize("option", [("--keep_state",), ("--warm_start", "latest")])
    def test_a_transform_keeps_and_starts_nothing(self, lexbeam, tmp_path, option):
        result = lexbeam("transform", "--input", "x", "--model", "m", "--output", tmp_path, *option)
        assert result.code == 2
        assert f"{option[0]} is of run and fit" in result.err

    def test_without_the_store_there_is_no_state(self, lexbeam, tmp_path):
        result = lexbeam("fit", "--input", "x", "--output", tmp_path, "--keep_state",
                         "--reuse_store", "off")  # fmt: skip
        assert result.code == 2
        assert "--reuse_store" in result.err


def table(rows: list[tuple[str, int, int]]) -> pa.Table:
    names = schemas.COUNTS.names
    values = [dict(zip(names, (term, "en", df, cf), strict=True)) for term, df, cf in rows]
    return pa.Table.from_pylist(values, schema=schemas.COUNTS)


def test_counts_minus_counts():
    sums = counts.merge_counts(
        [table([("a", 3, 5), ("b", 1, 1)]), counts.negated(table([("a", 1, 2), ("b", 1, 1)]))]
    )
    assert counts.without_zeros(sums).to_pydict() == table([("a", 2, 3)]).to_pydict()
    with pytest.raises(ValueError, match="more was taken away"):
        counts.without_zeros(counts.negated(table([("a", 1, 1)])))


def test_kinds_of_documents():
    from lexbeam.transforms.compare import DOCUMENTS

    rows = [
        (1, 1, 7, 1), (1, 1, 7, 0),  # unchanged
        (1, 2, 7, 1), (1, 2, 8, 0),  # changed
        (2, 1, 7, 1), (3, 1, 7, 1),  # new
        (4, 1, 7, 0),  # removed
    ]  # fmt: skip
    found = dict(zip(KINDS, count_kinds(np.array(rows, DOCUMENTS)).tolist(), strict=True))
    assert found == {"new": 2, "changed": 1, "unchanged": 1, "removed": 1}
    assert count_kinds(np.empty(0, DOCUMENTS)).tolist() == [0, 0, 0, 0]


class TestWarmStart:
    def test_topics_keep_their_ids_and_the_drift_is_shown(self, fit, lexbeam, tmp_path):
        documents = [document(i) for i in range(80)]
        first = fit("first", documents)
        second = fit("second", [*documents, document(90)], "--warm_start", "latest")
        drift = json.loads((second / "summary.json").read_text())["drift"]
        assert 0 <= drift["mean"] <= drift["max"] < 0.3
        assert "drift 0." in lexbeam("inspect", second).out
        for topic in range(3):
            tops = [
                {
                    row["term"]
                    for row in read_dataset(run, "topics").to_pylist()
                    if row["topic"] == topic and row["rank"] <= 5
                }
                for run in (first, second)
            ]
            assert len(tops[0] & tops[1]) >= 3, topic
        assert json.loads((first / "summary.json").read_text())["drift"] is None

    @pytest.mark.slow
    def test_both_ways_give_the_same_bits(self, fit):
        documents = [document(i) for i in range(60)]
        fit("first", documents)
        now = [*documents, *(document(i) for i in range(100, 120))]
        runs = [
            fit(way, now, "--warm_start", "first", "--reuse", "first", "--lda_execution", way)
            for way in ("local", "distributed")
        ]
        assert model_files(runs[0]) == model_files(runs[1])
        anew = fit("anew", now)
        assert model_files(runs[0]) != model_files(anew)

    @pytest.mark.slow
    def test_a_job_that_stops_goes_on_from_the_same_start(self, fit, lexbeam, tmp_path):
        from lexbeam.transforms.topic_files import TopicFiles

        documents = [document(i) for i in range(60)]
        fit("first", documents)
        expected = fit("whole", documents, "--warm_start", "first", "--reuse", "none")

        def fail(self: TopicFiles, *arguments: object) -> None:
            raise OSError("the machine goes off")

        arguments = ["fit", "--input", tmp_path / "in", "--output", tmp_path / "out",
                     "--run_id", "cut", "--features", "tfidf,lda", "--num_topics", "3",
                     "--lda_passes", "6", "--split_size", "2K", "--reuse", "none",
                     "--warm_start", "first"]  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TopicFiles, "publish", fail)
            assert lexbeam(*arguments).code == 1
        resumed = lexbeam(*arguments)
        assert resumed.code == 0, resumed.err
        assert model_files(tmp_path / "out" / "runs" / "cut") == model_files(expected)
        # And once more: the run is complete, though the latest one is another now.
        assert "complete already" in lexbeam(*arguments).err

    def test_without_an_earlier_model_it_starts_anew(self, fit, lexbeam, tmp_path):
        first = fit("first", [document(i) for i in range(40)], "--warm_start", "latest")
        plain = fit("plain", [document(i) for i in range(40)], "--reuse", "none")
        assert model_files(first) == model_files(plain)
        named = lexbeam("fit", "--input", tmp_path / "in", "--output", tmp_path / "out",
                        "--warm_start", "nobody")  # fmt: skip
        assert named.code == 2
        assert "--warm_start" in named.err

    def test_counts_move_with_their_terms(self):
        config = LdaConfig(num_topics=2)
        earlier = lda.LdaModel(config, np.array([[4, 1], [2, 6], [8, 8]], np.int64) << 30)
        places = places_of_terms(pa.array(["a", "b", "c"]), pa.array(["b", "c", "d"]))
        assert places.tolist() == [1, 2, -1]
        state = warm_state(earlier, places, config)
        assert (state.topic_term_counts >> 30).tolist() == [[2, 6], [8, 8], [0, 0]]
        # A third topic, which the earlier model lacks, begins as in any fit.
        wider = warm_state(earlier, places, LdaConfig(num_topics=3))
        assert (wider.topic_term_counts[:, :2] >> 30).tolist() == [[2, 6], [8, 8], [0, 0]]
        assert (wider.topic_term_counts[:, 2] >> 30).tolist() == [1, 1, 1]
        coarse = warm_state(earlier, places, LdaConfig(num_topics=2, fraction_bits=20))
        assert (coarse.topic_term_counts >> 20).tolist() == [[2, 6], [8, 8], [0, 0]]

    def test_drift_is_a_distance(self):
        config = LdaConfig(num_topics=2)
        same = np.array([[1 << 40, 0], [0, 1 << 40]], np.int64)
        earlier = lda.LdaModel(config, same)
        places = np.array([0, 1])
        assert topic_drift(earlier, earlier, places) == pytest.approx([0, 0], abs=1e-6)
        swapped = lda.LdaModel(config, same[:, ::-1].copy())
        assert topic_drift(earlier, swapped, places) == pytest.approx([1, 1], abs=0.01)
        # All of the first topic's mass lies on a term that the vocabulary has no more.
        assert topic_drift(earlier, earlier, np.array([-1, 1]))[0] == pytest.approx(1, abs=0.01)
