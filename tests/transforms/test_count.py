"""The count stages: whatever the blocks, rounds and splits, the merged parts are the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import counts, keyphrases, schemas
from lexbeam.models.config import CountConfig, TextConfig
from lexbeam.models.tokens import Tokenizer
from lexbeam.transforms import count, fit
from lexbeam.transforms.count import CountFolders, CountSplitDoFn, MergeCountsDoFn
from lexbeam.transforms.part_files import PartFolder, open_part, read_part
from lexbeam.transforms.parts import SplitWork

TEXTS = [
    ("en", "The probe entered a low orbit. Its new telescope mapped the orbit of each moon."),
    ("en", "Engineers welded the new track,\nthen the long bridge. The track held."),
    ("zh", "乌龙茶的发酵程度介于绿茶和红茶之间，茶叶的香气随发酵加深而变化。"),
    ("zh", "茶叶的香气和水温有关，水温越高，茶汤越浓。"),
    ("other", "El tren cruza el puente largo. La lluvia cae sobre la torre."),
    ("en", "the of and."),
    ("en", ""),
    (None, None),  # rejected
]
SCHEMA = pa.schema(
    [
        ("content", pa.string()),
        ("language", pa.string()),
        *((f.name, f.type) for f in schemas.TOKEN_FIELDS[4:]),
        ("dropped", pa.bool_()),
    ]
)
NUM_GROUPS = 1 + 2 * count.NUM_PARTITIONS


@pytest.fixture(scope="module")
def documents() -> pa.RecordBatch:
    """A row for each text, and each once more as a dropped one."""
    languages, texts = zip(*TEXTS * 2, strict=True)
    tokenized = Tokenizer(TextConfig()).tokenize(pa.array(texts), pa.array(languages))
    dropped = [row >= len(TEXTS) for row in range(len(texts))]
    columns = [pa.array(texts), pa.array(languages), *tokenized.columns, pa.array(dropped)]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@dataclass
class Blocks:
    """A source of given blocks; tells how many have been read."""

    splits: Sequence[Sequence[pa.RecordBatch]]
    num_read: int = field(default=0, compare=False)

    @property
    def schema(self) -> pa.Schema:
        return SCHEMA

    def batches(self, split: int) -> Iterator[pa.RecordBatch]:
        for batch in self.splits[split]:
            self.num_read += 1
            yield batch


def cut(documents: pa.RecordBatch, rows: Sequence[int], size: int) -> list[pa.RecordBatch]:
    """The rows in blocks."""
    chosen = documents.take(pa.array(rows, pa.int64()))
    return [chosen.slice(first, size) for first in range(0, len(rows), size)]


def run_counting(source: Blocks, path: Path) -> CountFolders:
    """Both count stages, without a runner."""
    folders = CountFolders.below(str(path), PartFolder(str(path / "splits"), len(source.splits)))
    for split in range(len(source.splits)):
        CountSplitDoFn(SplitWork(source, (folders.splits,))).process(split)
    for index in range(NUM_GROUPS):
        MergeCountsDoFn(folders).process(index)
    assert folders.is_merged()
    return folders


def bytes_of(folders: CountFolders) -> list[bytes]:
    return [Path(part).read_bytes() for part in folders.merged_parts()]


def rounds_of(folders: CountFolders, split: int) -> int:
    with open_part(folders.splits.part(split)) as part:
        rounds, rest = divmod(part.num_row_groups, NUM_GROUPS)
    assert rest == 0
    return rounds


class TestCountBlock:
    def test_counts_what_the_lists_of_terms_and_phrases_hold(self, documents):
        kept = documents.slice(0, len(TEXTS) - 1)
        terms = counts.term_lists(kept["tokens"], kept["kinds"])
        words = counts.count_terms(terms, kept["language"])
        phrases = counts.count_terms(keyphrases.phrase_lists(kept), kept["language"])
        assert words.num_rows > 20
        assert phrases.num_rows > 20
        found = count.count_block(documents)
        assert counts.merge_counts([found.words]).equals(counts.merge_counts([words]))
        assert counts.merge_counts([found.phrases]).equals(counts.merge_counts([phrases]))

    def test_documents_and_tokens_of_each_language(self, documents):
        rows = count.count_block(documents).documents.to_pylist()
        expected = {
            language: (
                [name for name, _ in TEXTS].count(language),
                sum(
                    len(tokens)
                    for tokens, (name, _) in zip(
                        documents["tokens"].to_pylist(), TEXTS, strict=False
                    )
                    if name == language
                ),
            )
            for language in ("en", "zh", "other")
        }
        assert {row["term"] for row in rows} == {""}
        assert {
            row["language"]: (row["document_frequency"], row["collection_frequency"])
            for row in rows
        } == expected

    @pytest.mark.parametrize("rows", [[], [7], [8, 9], [6]])
    def test_blocks_without_terms(self, documents, rows):
        found = count.count_block(documents.take(pa.array(rows, pa.int64())))
        assert found.words.equals(schemas.COUNTS.empty_table())
        assert found.phrases.equals(schemas.COUNTS.empty_table())
        assert found.documents.num_rows == (rows == [6])

    def test_real_text(self, shared_corpora):
        texts, languages = [], []
        for name, language in (("zh_thucnews800", "zh"), ("en_inspec", "en")):
            with (shared_corpora / f"{name}.jsonl").open(encoding="utf-8") as lines:
                for line in list(lines)[:40]:
                    texts.append(json.loads(line)["text"])
                    languages.append(language)
        tokenized = Tokenizer(TextConfig()).tokenize(pa.array(texts), pa.array(languages))
        dropped = pa.array(np.arange(len(texts)) % 7 == 3)
        columns = [pa.array(texts), pa.array(languages), *tokenized.columns, dropped]
        batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        kept = batch.filter(pa.array(np.arange(len(texts)) % 7 != 3))
        found = count.count_block(batch)
        terms = counts.term_lists(kept["tokens"], kept["kinds"])
        for got, lists in ((found.words, terms), (found.phrases, keyphrases.phrase_lists(kept))):
            expected = counts.count_terms(lists, kept["language"])
            assert counts.merge_counts([got]).equals(counts.merge_counts([expected]))


class TestMergeLaws:
    @settings(deadline=None, max_examples=10)
    @given(
        rows=st.lists(st.integers(0, 2 * len(TEXTS) - 1), max_size=30),
        size=st.integers(1, 9),
        cuts=st.lists(st.integers(0, 30), max_size=3),
        max_rows=st.sampled_from([0, 1, 30, 100, 10**6]),
    )
    def test_any_blocks_rounds_and_splits(
        self, tmp_path_factory, documents, rows, size, cuts, max_rows
    ):
        path = tmp_path_factory.mktemp("counts")
        whole = run_counting(Blocks([cut(documents, rows, 100)]), path / "whole")
        bounds = [0, *sorted(min(place, len(rows)) for place in cuts), len(rows)]
        splits = [
            cut(documents, rows[i:j], size) for i, j in zip(bounds[:-1], bounds[1:], strict=True)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(count, "MAX_ROWS_HELD", max_rows)
            parts = run_counting(Blocks(splits[::-1]), path / "parts")
        assert bytes_of(parts) == bytes_of(whole)

    def test_the_merged_parts_hold_every_count(self, tmp_path, documents):
        folders = run_counting(Blocks([cut(documents, range(16), 3)] * 2), tmp_path)
        once = count.count_block(documents)
        for folder, table in (
            (folders.documents, once.documents),
            (folders.words, once.words),
            (folders.phrases, once.phrases),
        ):
            found = pa.concat_tables([read_part(part) for part in folder.parts()])
            assert counts.merge_counts([found]).equals(counts.merge_counts([table, table]))

    def test_vocabulary_and_phrases_over_rounds(self, tmp_path, documents, monkeypatch):
        config = CountConfig(min_df=2, max_df=1.0, max_terms=9)
        rows = list(range(8)) * 2
        whole = run_counting(Blocks([cut(documents, rows, 100)]), tmp_path / "whole")
        monkeypatch.setattr(count, "MAX_ROWS_HELD", 10)
        parts = run_counting(Blocks([cut(documents, rows, 2)]), tmp_path / "parts")
        assert rounds_of(parts, 0) > 4
        expected, limits = fit.vocabulary_of_counts(whole, config)
        found, used = fit.vocabulary_of_counts(parts, config)
        assert found.to_table().equals(expected.to_table())
        assert used == limits == config
        assert len(found) == 9
        assert fit.fit_phrases(parts).table.equals(fit.fit_phrases(whole).table)

    @pytest.mark.parametrize("most", [0, 1, 3, 5, 8, 13, 10_000])
    def test_of_too_many_phrases_those_of_more_documents_stay(self, tmp_path, documents, most):
        rows = [number for number in range(8) for _ in range(number + 1)]
        folders = run_counting(Blocks([cut(documents, rows, 100)]), tmp_path)
        everything = fit.fit_phrases(folders).table
        found = fit.fit_phrases(folders, most).table
        frequencies = sorted(everything["document_frequency"].to_pylist(), reverse=True)
        assert len(set(frequencies)) > 2
        # The most that fit, of which no frequency is cut in two.
        least = min(f for f in {*frequencies, max(frequencies) + 1} if sum(
            other >= f for other in frequencies) <= most)  # fmt: skip
        wanted = everything.filter(pc.greater_equal(everything["document_frequency"], least))
        assert found.equals(wanted)

    def test_the_fallback_keeps_terms_of_one_document(self, tmp_path, documents, monkeypatch):
        monkeypatch.setattr(count, "MAX_ROWS_HELD", 1)
        folders = run_counting(Blocks([cut(documents, [1, 2], 1)]), tmp_path)
        found, used = fit.vocabulary_of_counts(folders, CountConfig(min_df=3))
        assert (used.min_df, used.max_df) == (1, 1.0)
        assert found.terms.to_pylist() == sorted(
            count.count_block(documents.slice(1, 2)).words["term"].to_pylist(), key=str.encode
        )


class TestRounds:
    def test_one_round_where_the_counts_fit(self, tmp_path, documents):
        folders = run_counting(Blocks([cut(documents, range(16), 1), []]), tmp_path)
        assert [rounds_of(folders, split) for split in range(2)] == [1, 1]

    def test_rows_are_held_up_to_the_limit(self, documents, monkeypatch):
        monkeypatch.setattr(count, "MAX_ROWS_HELD", 60)
        source = Blocks([cut(documents, list(range(5)) * 20, 1)])
        blocks_at_group = [
            source.num_read for _ in count.row_groups_of(map(count.count_block, source.batches(0)))
        ]
        starts = blocks_at_group[::NUM_GROUPS]
        assert blocks_at_group == [at for at in starts for _ in range(NUM_GROUPS)]
        # A round leaves as soon as it is full, and not before.
        sizes = [count.count_block(block) for block in source.splits[0][:5]]
        rows = [sum(table.num_rows for table in tables) for tables in sizes]
        assert starts[0] == next(n for n in range(1, 6) if sum(rows[:n]) > 60)
        assert len(starts) > 10

    def test_equal_rows_do_not_end_a_round(self, tmp_path, documents, monkeypatch):
        rows_of_one = sum(t.num_rows for t in count.count_block(documents.slice(0, 1)))
        monkeypatch.setattr(count, "MAX_ROWS_HELD", 2 * rows_of_one)
        folders = run_counting(Blocks([cut(documents, [0] * 50, 1)]), tmp_path)
        assert rounds_of(folders, 0) == 1

    def test_a_split_that_fails_leaves_nothing(self, tmp_path, documents, monkeypatch):
        class Failing(Blocks):
            def batches(self, split: int) -> Iterator[pa.RecordBatch]:
                yield from super().batches(split)
                raise OSError("the disk is gone")

        monkeypatch.setattr(count, "MAX_ROWS_HELD", 1)
        folders = CountFolders.below(str(tmp_path), PartFolder(str(tmp_path / "splits"), 1))
        source = Failing([cut(documents, range(8), 1)])
        with pytest.raises(OSError, match="the disk is gone"):
            CountSplitDoFn(SplitWork(source, (folders.splits,))).process(0)
        assert source.num_read == 8
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_a_part_that_is_there_stays(self, tmp_path, documents):
        folders = CountFolders.below(str(tmp_path), PartFolder(str(tmp_path / "splits"), 1))
        source = Blocks([cut(documents, range(8), 1)])
        CountSplitDoFn(SplitWork(source, (folders.splits,))).process(0)
        part = Path(folders.splits.part(0))
        before = part.read_bytes()
        CountSplitDoFn(SplitWork(Blocks([[]]), (folders.splits,))).process(0)
        assert part.read_bytes() == before
        assert [path for path in part.parent.iterdir() if path.is_file()] == [part]


def test_both_transforms_on_a_runner(tmp_path, documents):
    source = Blocks([cut(documents, range(16), 5), cut(documents, [3, 1], 1)])
    by_hand = run_counting(source, tmp_path / "by_hand")
    splits = PartFolder(str(tmp_path / "run" / "splits"), 2)
    folders = CountFolders.below(str(tmp_path / "run"), splits)
    for transform in (
        count.CountDocumentFrequency(SplitWork(source, (folders.splits,))),
        count.MergeCounts(folders),
    ):
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            _ = pipeline | transform
    assert bytes_of(folders) == bytes_of(by_hand)
