"""The corpus stage: counts of words and candidate phrases, the vocabulary, bags of words.

Counts are Arrow tables, one for each split and hash partition, never an element for each term.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.models import counts, schemas
from lexbeam.models.config import LANGUAGES
from lexbeam.models.keyphrase_candidates import find_candidates
from lexbeam.models.token_blocks import Int8Array, Int64Array
from lexbeam.models.vocabulary import cached_vocabulary
from lexbeam.transforms import blocks, host_cache, progress
from lexbeam.transforms.map_blocks import MapBlocksDoFn
from lexbeam.transforms.part_files import PartFolder, open_part, read_part, write_row_groups
from lexbeam.transforms.parts import ListIndices, ListSplits, SplitWork
from lexbeam.transforms.threads import kernel_threads, map_in_order

NUM_PARTITIONS = 32
# Rows of counts that a split holds at most, about 50 bytes each. Where half of them are left once
# they are summed, they are written out, and the split's next round begins.
MAX_ROWS_HELD = 2_000_000


@dataclass(frozen=True)
class CountFolders:
    """Where counts go.

    Attributes:
        splits: a part for each split: rounds of row groups, in each round one for each merged
            part, in the order of `merged_parts`.
        words: merged counts of words, a part for each hash partition.
        phrases: merged counts of candidate phrases, likewise.
        documents: one part, with a row for each language: documents and tokens.
    """

    splits: PartFolder
    words: PartFolder
    phrases: PartFolder
    documents: PartFolder

    @classmethod
    def below(cls, path: str, splits: PartFolder) -> CountFolders:
        """The folders of the merged counts below one, beside that of the splits."""
        return cls(
            splits=splits,
            words=PartFolder(f"{path}/words", NUM_PARTITIONS),
            phrases=PartFolder(f"{path}/phrases", NUM_PARTITIONS),
            documents=PartFolder(f"{path}/documents", 1),
        )

    def merged_parts(self) -> list[str]:
        """The merged parts, in the order of the row groups that they are merged from."""
        return [*self.documents.parts(), *self.words.parts(), *self.phrases.parts()]

    def is_merged(self) -> bool:
        """Whether every merged part is there."""
        folders = (self.words, self.phrases, self.documents)
        return all(folder.is_complete() for folder in folders)


def without_dropped(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with `tokens` (and what goes with them) null where `dropped` is true."""
    if not pc.any(batch["dropped"]).as_py():
        return batch
    is_kept = pc.invert(batch["dropped"])
    columns = [
        pc.if_else(is_kept, batch[name], pa.scalar(None, batch[name].type))
        if name in ("content", "tokens", "kinds", "starts", "ends", "language")
        else batch[name]
        for name in batch.schema.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


class Counts(NamedTuple):
    """Counts of some documents, as tables of `schemas.COUNTS`."""

    documents: pa.Table
    """A row for each language: documents, and their tokens of every kind; the term is empty."""
    words: pa.Table
    """The words that are terms."""
    phrases: pa.Table
    """The keys of candidate phrases."""


def count_block(batch: pa.RecordBatch) -> Counts:
    """Counts of a block's documents, but for the rejected and the dropped ones.

    Depends on nothing but the block and shares nothing, so that threads may run it side by side.

    Args:
        batch: the columns that `find_candidates` takes, and `dropped`.
    """
    batch = without_dropped(batch)
    batch = batch.filter(pc.is_valid(batch["tokens"]))
    found = find_candidates(batch)
    block = found.block
    is_term = block.kinds == schemas.TERM
    occurrences = np.bincount(found.documents[found.phrases], minlength=batch.num_rows)
    return Counts(
        documents=_document_counts(block.languages, counts.list_lengths(batch["tokens"])),
        words=counts.count_codes(
            block.codes[is_term],
            counts.row_offsets(is_term)[block.offsets],
            block.languages,
            block.terms,
            LANGUAGES,
        ),
        # Candidates of a document stand side by side, and so do their occurrences.
        phrases=counts.count_codes(
            found.key_ids[found.phrases],
            counts.row_offsets(occurrences),
            block.languages,
            found.keys,
            LANGUAGES,
        ),
    )


def _document_counts(languages: Int8Array, lengths: Int64Array) -> pa.Table:
    """Documents and tokens of each language that occurs."""
    documents = np.bincount(languages, minlength=len(LANGUAGES))
    tokens = np.bincount(languages, weights=lengths, minlength=len(LANGUAGES))
    columns = [
        pa.array([""] * len(LANGUAGES), pa.string()),
        pa.array(LANGUAGES, pa.string()),
        pa.array(documents, pa.int64()),
        pa.array(tokens.astype(np.int64)),
    ]
    return pa.table(columns, schema=schemas.COUNTS).filter(pa.array(documents > 0))


def row_groups_of(counted: Iterable[Counts]) -> Iterator[pa.Table]:
    """The row groups of a split's part, from the counts of its blocks.

    About `MAX_ROWS_HELD` rows are held, whatever the split's size.
    """
    sums = _new_sums()
    for block in counted:
        for kind, table in zip(sums, block, strict=True):
            kind.add(table)
        if sum(kind.num_rows for kind in sums) <= MAX_ROWS_HELD:
            continue
        for kind in sums:
            kind.compact()
        if sum(kind.num_rows for kind in sums) > MAX_ROWS_HELD // 2:
            yield from _round(sums)
            sums = _new_sums()
    yield from _round(sums)


def _new_sums() -> list[counts.CountSums]:
    """Sums of nothing, one for each field of `Counts`."""
    return [counts.CountSums() for _ in Counts._fields]


def _round(sums: list[counts.CountSums]) -> Iterator[pa.Table]:
    """A table for each of `CountFolders.merged_parts`."""
    documents, words, phrases = sums
    yield documents.compact()
    for kind in (words, phrases):
        yield from counts.partition_counts(kind.compact(), NUM_PARTITIONS)


class CountSplitDoFn(beam.DoFn):  # type: ignore[misc]
    """A split's counts into its part, which is committed when it is whole."""

    def __init__(self, work: SplitWork) -> None:
        self._work = work
        self._documents = Metrics.counter("CountDocumentFrequency", "documents-in")

    def process(self, split: int) -> None:
        if self._work.take_over(split):
            return
        (folder,) = self._work.folders
        row_groups = row_groups_of(self._counted(split))
        with self._work.attempt(split):
            write_row_groups(folder.part(split), row_groups, distinct=("term",))

    def _counted(self, split: int) -> Iterator[Counts]:
        batches = self._work.source.batches(split)
        for counted in map_in_order(count_block, batches, kernel_threads()):
            frequencies = counted.documents["document_frequency"]
            num_documents = pc.sum(frequencies, min_count=0).as_py()
            self._documents.inc(num_documents)
            progress.report("count", num_documents)
            yield counted


@dataclass(frozen=True)
class CountChange:
    """Merged counts of an earlier run, and how those of now differ from them.

    Attributes:
        merged: the earlier merged parts, in the order of `CountFolders.merged_parts`.
        added: parts of the splits that are new.
        removed: the earlier run's parts of those that are gone or have changed.
    """

    merged: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


class MergeCountsDoFn(beam.DoFn):  # type: ignore[misc]
    """Merges one partition's row groups of every split into its part.

    One row group is read at a time, and held are the partition's distinct rows. Where the merged
    counts of an earlier run are known only what differs is added and taken away: counts are whole
    numbers, so that the sums are the same.
    """

    def __init__(self, folders: CountFolders, change: CountChange | None = None) -> None:
        self._folders = folders
        self._change = change

    def process(self, index: int) -> None:
        merged = counts.merge_counts(self._tables(index))
        if self._change is not None:
            merged = counts.without_zeros(merged)
        write_row_groups(self._folders.merged_parts()[index], [merged], distinct=("term",))

    def _tables(self, index: int) -> Iterator[pa.Table]:
        if self._change is None:
            yield from self._row_groups(self._folders.splits.parts(), index)
            return
        yield read_part(self._change.merged[index])
        yield from self._row_groups(self._change.added, index)
        yield from map(counts.negated, self._row_groups(self._change.removed, index))

    def _row_groups(self, split_parts: Iterable[str], index: int) -> Iterator[pa.Table]:
        groups_per_round = len(self._folders.merged_parts())
        for split_part in split_parts:
            with open_part(split_part) as part:
                for group in range(index, part.num_row_groups, groups_per_round):
                    yield part.read_row_group(group)


class CountDocumentFrequency(beam.PTransform):  # type: ignore[misc]
    """Counts words, phrases and documents of every split into its part.

    Counts are as large as the text, so they go through files: only indices are shuffled. The work
    has one folder, `CountFolders.splits`.
    """

    def __init__(self, work: SplitWork) -> None:
        super().__init__()
        self._work = work

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Splits" >> ListSplits(self._work)
            | "CountSplit" >> beam.ParDo(CountSplitDoFn(self._work))
        )


class MergeCounts(beam.PTransform):  # type: ignore[misc]
    """Merges the splits' counts, partition by partition, from an earlier run's where it can."""

    def __init__(self, folders: CountFolders, change: CountChange | None = None) -> None:
        super().__init__()
        self._folders = folders
        self._change = change

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Partitions" >> ListIndices(len(self._folders.merged_parts()))
            | "MergeCounts" >> beam.ParDo(MergeCountsDoFn(self._folders, self._change))
        )


class BagOfWordsDoFn(MapBlocksDoFn[pa.RecordBatch]):
    """Blocks of tokens to blocks of schemas.BOW; rejected and dropped rows are null."""

    def __init__(self, vocabulary_path: str) -> None:
        self._vocabulary_path = vocabulary_path

    def setup(self) -> None:
        super().setup()
        self._vocabulary = cached_vocabulary(host_cache.copy_of_file(self._vocabulary_path))

    def compute(self, block: pa.RecordBatch) -> pa.RecordBatch:
        kept = without_dropped(block)
        return self._vocabulary.bag_of_words(counts.term_lists(kept["tokens"], kept["kinds"]))

    def emit(self, result: pa.RecordBatch, split: int) -> list[pa.RecordBatch]:
        return [blocks.of_split(result, split)]

    def emit_last(self, split: int) -> list[pa.RecordBatch]:
        return [blocks.last_block(schemas.BOW, split)]


class CountTermsOfDocuments(beam.PTransform):  # type: ignore[misc]
    """Blocks of tokens to bags of words over a vocabulary."""

    def __init__(self, vocabulary_path: str) -> None:
        super().__init__()
        self._vocabulary_path = vocabulary_path

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        bag = BagOfWordsDoFn(self._vocabulary_path)
        return blocks_in | "BagOfWords" >> beam.ParDo(bag).with_output_types(pa.RecordBatch)
