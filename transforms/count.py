"""The corpus stage: counts of words and candidate phrases, the vocabulary, bags of words.

Counts are Arrow tables, one for each split and hash partition, never an element for each term.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.models import counts, keyphrases, schemas
from lexbeam.models.vocabulary import cached_vocabulary
from lexbeam.transforms import blocks, progress
from lexbeam.transforms.part_files import (
    BlockSource,
    PartFolder,
    open_part,
    write_part,
    write_row_groups,
)
from lexbeam.transforms.parts import ListIndices, ListMissing

NUM_PARTITIONS = 32
_MERGE_ROWS = 1_000_000


@dataclass(frozen=True)
class CountFolders:
    """Where counts go.

    Attributes:
        splits: a part for each split: the counts of each kind and partition, a row group each.
        words: merged counts of words, a part for each hash partition.
        phrases: merged counts of candidate phrases, likewise.
        documents: one part, with a row for each language: documents and tokens.
    """

    splits: PartFolder
    words: PartFolder
    phrases: PartFolder
    documents: PartFolder

    @classmethod
    def below(cls, path: str, num_splits: int) -> CountFolders:
        """The folders below one."""
        return cls(
            splits=PartFolder(f"{path}/splits", num_splits),
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
    is_kept = pc.invert(batch["dropped"])
    columns = [
        pc.if_else(is_kept, batch[name], pa.scalar(None, batch[name].type))
        if name in ("content", "tokens", "kinds", "starts", "ends", "language")
        else batch[name]
        for name in batch.schema.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


class _Running:
    """Counts of one kind, merged whenever enough has come together."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows > _MERGE_ROWS and len(self._tables) > 1:
            merged = self.merged()
            # What does not shrink must not be merged again with every block.
            self._tables, self._rows = [merged], 0

    def merged(self) -> pa.Table:
        return counts.merge_counts(self._tables)


class CountSplitDoFn(beam.DoFn):  # type: ignore[misc]
    """A split's counts into its part, a row group for each merged part."""

    def __init__(self, source: BlockSource, folders: CountFolders) -> None:
        self._source = source
        self._folders = folders
        self._documents = Metrics.counter("CountDocumentFrequency", "documents-in")

    def process(self, split: int) -> None:
        words, phrases = _Running(), _Running()
        documents: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for batch in self._source.batches(split):
            kept = without_dropped(batch)
            kept = kept.filter(pc.is_valid(kept["tokens"]))
            terms = counts.term_lists(kept["tokens"], kept["kinds"])
            words.add(counts.count_terms(terms, kept["language"]))
            phrases.add(counts.count_terms(keyphrases.phrase_lists(kept), kept["language"]))
            lengths = pc.list_value_length(kept["tokens"]).to_pylist()
            for language, length in zip(kept["language"].to_pylist(), lengths, strict=True):
                documents[language] += 1
                tokens[language] += length
            self._documents.inc(kept.num_rows)
            progress.report("count", kept.num_rows)
        groups = [_document_counts(documents, tokens)]
        for running in (words, phrases):
            groups += counts.partition_counts(running.merged(), NUM_PARTITIONS)
        write_row_groups(self._folders.splits.part(split), groups)


def _document_counts(documents: Mapping[str, int], tokens: Mapping[str, int]) -> pa.Table:
    languages = sorted(documents)
    return pa.table(
        [
            pa.array([""] * len(languages), pa.string()),
            pa.array(languages, pa.string()),
            pa.array([documents[language] for language in languages], pa.int64()),
            pa.array([tokens[language] for language in languages], pa.int64()),
        ],
        schema=schemas.COUNTS,
    )


class MergeCountsDoFn(beam.DoFn):  # type: ignore[misc]
    """Merges one partition's row group of every split into its part."""

    def __init__(self, folders: CountFolders) -> None:
        self._folders = folders

    def process(self, index: int) -> None:
        path = self._folders.merged_parts()[index]
        running = _Running()
        for split_part in self._folders.splits.parts():
            with open_part(split_part) as part:
                running.add(part.read_row_group(index))
        write_part(path, running.merged())


class CountDocumentFrequency(beam.PTransform):  # type: ignore[misc]
    """Counts words, phrases and documents of every split into its part.

    Counts are as large as the text, so they go through files: only indices are shuffled.
    """

    def __init__(self, source: BlockSource, folders: CountFolders) -> None:
        super().__init__()
        self._source = source
        self._folders = folders

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "MissingSplits" >> ListMissing((self._folders.splits,))
            | "CountSplit" >> beam.ParDo(CountSplitDoFn(self._source, self._folders))
        )


class MergeCounts(beam.PTransform):  # type: ignore[misc]
    """Merges the splits' counts, partition by partition."""

    def __init__(self, folders: CountFolders) -> None:
        super().__init__()
        self._folders = folders

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Partitions" >> ListIndices(len(self._folders.merged_parts()))
            | "MergeCounts" >> beam.ParDo(MergeCountsDoFn(self._folders))
        )


class BagOfWordsDoFn(beam.DoFn):  # type: ignore[misc]
    """Blocks of tokens to blocks of schemas.BOW; rejected and dropped rows are null."""

    def __init__(self, vocabulary_path: str) -> None:
        self._vocabulary_path = vocabulary_path

    def process(self, block: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        split = blocks.split_of(block)
        if blocks.is_last(block):
            yield blocks.last_block(schemas.BOW, split)
            return
        kept = without_dropped(block)
        terms = counts.term_lists(kept["tokens"], kept["kinds"])
        bow = cached_vocabulary(self._vocabulary_path).bag_of_words(terms)
        yield blocks.of_split(bow, split)


class CountTermsOfDocuments(beam.PTransform):  # type: ignore[misc]
    """Blocks of tokens to bags of words over a vocabulary."""

    def __init__(self, vocabulary_path: str) -> None:
        super().__init__()
        self._vocabulary_path = vocabulary_path

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        bag = BagOfWordsDoFn(self._vocabulary_path)
        return blocks_in | "BagOfWords" >> beam.ParDo(bag).with_output_types(pa.RecordBatch)
