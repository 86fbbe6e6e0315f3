"""The LDA stage in one worker and in a pipeline a pass: the same bits, and nothing lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from lexbeam.models import lda, lda_statistics, schemas
from lexbeam.models.config import ConfigError, CountConfig, LdaConfig
from lexbeam.models.vocabulary import fit_vocabulary
from lexbeam.transforms import fit_topics, lda_passes
from lexbeam.transforms.fit_topics import FitTopics
from lexbeam.transforms.lda_checkpoints import LdaCheckpoints
from lexbeam.transforms.part_files import PartFolder, read_part, write_part
from lexbeam.transforms.topic_files import HELD_OUT_MODULUS, TopicFiles, held_out_mask

CONFIG = LdaConfig(num_topics=5, passes=6)
NUM_TERMS = 70
Rows = list[dict[str, Any]]


def bags(num_documents: int = 90, seed: int = 2) -> Rows:
    """Bags of words of three subjects, and a few documents without any."""
    generator = np.random.default_rng(seed)
    rows: Rows = []
    for number in range(num_documents):
        subject = int(generator.integers(3))
        terms = generator.integers(20 * subject, 20 * subject + 30, 40)
        ids, counts = np.unique(terms, return_counts=True)
        rows.append({"term_ids": ids.tolist(), "counts": counts.tolist()})
        if number % 20 == 7:
            rows.append({"term_ids": None, "counts": None})
    return rows


def make_files(folder: Path, rows: Rows, num_splits: int = 4) -> TopicFiles:
    """A run's folders up to the bag of words; every third document may be held out."""
    files = TopicFiles(
        bow=PartFolder(str(folder / "bow"), num_splits),
        tokens=PartFolder(str(folder / "tokens"), num_splits),
        model_dir=str(folder / "model"),
        topics=PartFolder(str(folder / "topics"), 1),
        checkpoints=LdaCheckpoints(str(folder / "lda")),
    )
    hashes = [f"{HELD_OUT_MODULUS if n % 3 == 0 else 1:064x}" for n in range(len(rows))]
    for split, indices in enumerate(np.array_split(np.arange(len(rows)), num_splits)):
        batch = pa.Table.from_pylist([rows[i] for i in indices], schema=schemas.BOW)
        write_part(files.bow.part(split), batch)
        tokens = [{"text_sha256": hashes[i]} for i in indices]
        table = pa.Table.from_pylist(tokens, schema=schemas.tokens_schema())
        write_part(files.tokens.part(split), table)
    counts = pa.table(
        {
            "term": [f"term{n:02d}" for n in range(NUM_TERMS)],
            "language": ["en"] * NUM_TERMS,
            "document_frequency": pa.array([2] * NUM_TERMS, pa.int64()),
            "collection_frequency": pa.array([3] * NUM_TERMS, pa.int64()),
        }
    )
    (folder / "model").mkdir(parents=True)
    vocabulary, _ = fit_vocabulary([counts], {"en": 90}, CountConfig(min_df=1, max_df=1.0))
    vocabulary.save(folder / "model" / "vocabulary.parquet")
    return files


def run_local(files: TopicFiles, config: LdaConfig | None = CONFIG, *options: str) -> None:
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(options)) as pipeline:
        _ = pipeline | "FitTopics" >> FitTopics(files, config)


def run_distributed(
    files: TopicFiles, config: LdaConfig = CONFIG, *options: str, pipelines: int | None = None
) -> int:
    """All pipelines, or the first few; returns their number."""
    done = 0
    for build in lda_passes.distributed_fit(files, config):
        if done == pipelines:
            break
        with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(options)) as pipeline:
            build(pipeline)
        done += 1
    return done


def results(files: TopicFiles) -> dict[str, bytes]:
    """Every byte that a fit leaves behind."""
    folder = Path(files.model_dir, "lda")
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}
    return found | {"topics": Path(files.topics.part(0)).read_bytes()}


@dataclass(frozen=True)
class Expected:
    """What one worker gives."""

    rows: Rows
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    rows = bags()
    files = make_files(tmp_path_factory.mktemp("local"), rows)
    run_local(files)
    return Expected(rows, results(files))


@pytest.mark.parametrize("num_splits", [1, 4, 7])
def test_a_pipeline_a_pass_gives_the_same_bits(
    expected: Expected, tmp_path: Path, num_splits: int
) -> None:
    files = make_files(tmp_path, expected.rows, num_splits)
    # The corpus is measured, each pass is a pipeline, and the topics are published.
    assert run_distributed(files) == CONFIG.passes + 2
    assert results(files) == expected.files


def test_bundles_that_are_replayed_count_once(expected: Expected, tmp_path: Path) -> None:
    files = make_files(tmp_path, expected.rows)
    run_distributed(files, CONFIG, "--direct_runner_bundle_repeat=1")
    assert results(files) == expected.files


def test_small_blocks_give_the_same_bits(
    expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lda_statistics, "BLOCK_BYTES", 3 * 5 * 8)
    files = make_files(tmp_path, expected.rows)
    run_distributed(files, CONFIG, pipelines=3)
    blocks = list((tmp_path / "lda" / "pass-0002").glob("block-*.npy"))
    assert len(blocks) == -(-NUM_TERMS // 3)
    run_distributed(files)
    assert results(files) == expected.files


@pytest.mark.parametrize("made", [0, 1, 2, 4, CONFIG.passes + 1])
def test_a_fit_goes_on_from_its_last_pass(expected: Expected, tmp_path: Path, made: int) -> None:
    files = make_files(tmp_path, expected.rows)
    run_distributed(files, pipelines=made)
    left = CONFIG.passes + 2 - made
    assert run_distributed(files) == left
    assert results(files) == expected.files
    # One checkpoint is enough to go on from.
    assert [path.name for path in (tmp_path / "lda").glob("pass-*")] == ["pass-0006"]


def test_what_an_unfinished_pass_left_behind_does_no_harm(
    expected: Expected, tmp_path: Path
) -> None:
    files = make_files(tmp_path, expected.rows)
    run_distributed(files, pipelines=4)
    (tmp_path / "lda" / "pass-0003" / "state.json").unlink()
    (tmp_path / "lda" / "pass-0003" / "totals.json").unlink()
    # The state after pass 2 was deleted when pass 3 was committed: it is made again.
    assert files.checkpoints.latest() is None
    run_distributed(files)
    assert results(files) == expected.files


def test_a_worker_that_fails_costs_its_pass_alone(
    expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(tmp_path, expected.rows)
    real = TopicFiles.bag

    def broken(self: TopicFiles, split: int) -> lda.Bow:
        latest = self.checkpoints.latest()
        if split == 2 and latest is not None and latest.completed_passes == 3:
            raise OSError("the disk is gone")
        return real(self, split)

    with monkeypatch.context() as patch:
        patch.setattr(TopicFiles, "bag", broken)
        with pytest.raises(Exception, match="the disk is gone"):
            run_distributed(files)
    latest = files.checkpoints.latest()
    assert latest is not None
    assert latest.completed_passes == 3
    assert run_distributed(files) == 4
    assert results(files) == expected.files


@pytest.mark.parametrize("then", ["local", "distributed"])
def test_one_worker_leaves_checkpoints_that_either_way_goes_on_from(
    expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    files = make_files(tmp_path, expected.rows)
    real = lda.fit

    def cut_off(*arguments: Any, on_pass: Any, **named: Any) -> lda.LdaModel | None:
        def stop_after_four(state: lda.LdaState, metrics: lda.PassMetrics) -> None:
            on_pass(state, metrics)
            if metrics.pass_number == 4:
                raise KeyError("cut off")

        return real(*arguments, on_pass=stop_after_four, **named)

    with monkeypatch.context() as patch:
        patch.setattr(fit_topics, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(lda, "fit", cut_off)
        with pytest.raises(Exception, match="cut off"):
            run_local(files)
    latest = files.checkpoints.latest()
    assert latest is not None
    assert latest.completed_passes == 4
    if then == "local":
        passes: list[int] = []
        monkeypatch.setattr(fit_topics.progress, "report", lambda _, number: passes.append(number))
        run_local(files)
        assert passes == [4, 1, 1]
    else:
        assert run_distributed(files) == 4  # the corpus' size, two passes, the topics
    assert results(files) == expected.files


def test_both_ways_keep_the_same_documents_out_and_stop_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LdaConfig(num_topics=3, passes=60)
    every = make_files(tmp_path / "every", bags())
    run_local(every, config)
    monkeypatch.setattr(lda, "MIN_HELD_OUT_DOCUMENTS", 20)
    local = make_files(tmp_path / "local", bags())
    run_local(local, config)
    quality = json.loads(results(local)["metrics.json"])
    assert 40 < quality["lda_passes"] < 60
    assert results(local)["topic_term_counts.npy"] != results(every)["topic_term_counts.npy"]
    distributed = make_files(tmp_path / "distributed", bags())
    assert run_distributed(distributed, config) == quality["lda_passes"] + 2
    assert results(distributed) == results(local)


def test_variational_bayes_runs_both_ways(tmp_path: Path) -> None:
    config = replace(CONFIG, inference="vb")
    models = []
    for name, fit in (("local", run_local), ("distributed", run_distributed)):
        files = make_files(tmp_path / name, bags())
        fit(files, config)
        models.append(lda.LdaModel.load(Path(files.model_dir, "lda")))
    one, two = (model.topic_term_counts / 2.0**30 for model in models)
    assert np.abs(one - two).max() < 1e-4
    assert one.sum() > 0


@pytest.mark.parametrize(("num_documents", "num_topics"), [(0, 0), (1, 0), (2, 2), (4, 4)])
def test_small_corpora_get_few_topics_or_none(
    tmp_path: Path, num_documents: int, num_topics: int
) -> None:
    found = []
    for name, fit in (("local", run_local), ("distributed", run_distributed)):
        files = make_files(tmp_path / name, bags(num_documents), num_splits=1)
        fit(files)
        found.append(results(files))
        assert json.loads(found[-1]["metrics.json"])["num_topics"] == num_topics
        topics = set(read_part(files.topics.part(0))["topic"].to_pylist())
        assert topics == set(range(num_topics))
    assert found[0] == found[1]


def test_too_much_mass_is_found_before_the_first_pass(tmp_path: Path) -> None:
    rows = [{"term_ids": [0], "counts": [2**31 - 1]}] * 5
    files = make_files(tmp_path, rows, num_splits=2)
    with pytest.raises(ConfigError, match=r"--lda_fraction_bits 30: .* take 29"):
        run_distributed(files)
    assert not list((tmp_path / "lda").glob("pass-*"))
    run_distributed(files, replace(CONFIG, fraction_bits=29))
    assert files.topics.is_complete()


def test_held_out_documents_follow_from_their_text() -> None:
    values = [f"{n:064x}" for n in (0, 49, 50, 51, 100)] + [None]
    mask = held_out_mask(pa.chunked_array([pa.array(values)]))
    assert mask.tolist() == [True, False, True, False, True, False]


def test_arrays_add_up_in_any_grouping() -> None:
    combine = lda_passes.SumArrays()
    arrays = [np.array([1, -(2**62), n], np.int64) for n in range(3)]
    accumulators = []
    for array in arrays:
        accumulator = combine.add_input(combine.create_accumulator(), lda_passes.to_bytes(array))
        accumulators.append(accumulator)
    empty = combine.create_accumulator()
    left = combine.merge_accumulators([accumulators[0], empty, accumulators[1]])
    left = combine.extract_output(combine.add_input(left, lda_passes.to_bytes(arrays[2])))
    right = combine.merge_accumulators([empty, accumulators[2], accumulators[1], accumulators[0]])
    assert left == right == lda_passes.to_bytes(sum(arrays))
