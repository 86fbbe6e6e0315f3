"""How a corpus differs from that of an earlier run: documents new, changed, unchanged and removed.

Only hashes are shuffled: 128 bits of a document's id, 64 bits of its text, 25 bytes a document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.transforms import checksums, storage
from lexbeam.transforms.duplicates import Places, by_partition, places_of
from lexbeam.transforms.part_files import PartFolder, open_part, read_arrow, read_part, write_arrow
from lexbeam.transforms.parts import GroupByNumber, ListIndices
from lexbeam.transforms.published import PublishedRun
from lexbeam.transforms.text_index import half_hashes

KINDS = ("new", "changed", "unchanged", "removed")
DOCUMENTS = np.dtype([("high", "<u8"), ("low", "<u8"), ("text", "<u8"), ("is_now", "u1")])
"""Id and text of a document by their hashes, and whether it is in this run or the earlier one."""

_NUM_PARTITIONS = 16
_IDS = pa.schema([("high", pa.uint64()), ("low", pa.uint64()), ("text", pa.uint64())])
_ROWS_READ = 1 << 16
_COLUMNS = ["id_hash", "text_sha256"]


@dataclass(frozen=True)
class Corpus:
    """The documents of a run: rows of its tokens parts that are neither rejected nor dropped.

    Attributes:
        tokens: the tokens parts.
        dropped: the dropped rows.
        run: of an earlier run: parts that were damaged since it was published are left out.
        ids: what `KeepIds` has written, where it has: it is read instead.
    """

    tokens: PartFolder
    dropped: PartFolder
    run: PublishedRun | None = None
    ids: PartFolder | None = None

    def is_sound(self, split: int) -> bool:
        """Whether a split's parts can be read."""
        paths = (self.tokens.part(split), self.dropped.part(split))
        return self.run is None or all(map(self.run.is_sound, paths))


class ReadDocumentsDoFn(beam.DoFn):  # type: ignore[misc]
    """DOCUMENTS of a split, by partition of the id."""

    def __init__(self, corpus: Corpus, *, is_now: bool) -> None:
        self._corpus = corpus
        self._is_now = is_now

    def process(self, split: int) -> Iterator[tuple[int, bytes]]:
        if not self._corpus.is_sound(split):
            return
        dropped = read_part(self._corpus.dropped.part(split), ["row"])["row"].to_numpy()
        first_row = 0
        with open_part(self._corpus.tokens.part(split)) as part:
            for batch in part.iter_batches(_ROWS_READ, columns=_COLUMNS):
                ids = places_of(batch["id_hash"], split, first_row)
                texts = places_of(half_hashes(batch["text_sha256"]), split, first_row)
                first_row += batch.num_rows
                kept = ~np.isin(ids["row"], dropped)
                yield from by_partition(self._documents(ids[kept], texts[kept]), _NUM_PARTITIONS)

    def _documents(self, ids: Places, texts: Places) -> Places:
        documents = np.empty(len(ids), DOCUMENTS)
        documents["high"], documents["low"] = ids["high"], ids["low"]
        documents["text"], documents["is_now"] = texts["high"], self._is_now
        return documents


def count_kinds(documents: Places) -> npt.NDArray[np.int64]:
    """(4,) counts of KINDS.

    documents: (n,) DOCUMENTS; an id stands once in each run at most.
    """
    order = np.lexsort([documents["is_now"], documents["low"], documents["high"]])
    documents = documents[order]
    # An id that both runs have: the earlier document comes first.
    pairs = (documents["high"][1:] == documents["high"][:-1]) & (
        documents["low"][1:] == documents["low"][:-1]
    )
    same_text = documents["text"][1:] == documents["text"][:-1]
    both, unchanged = int(pairs.sum()), int((pairs & same_text).sum())
    now = int(documents["is_now"].sum())
    removed = len(documents) - now - both
    return np.array([now - both, both - unchanged, unchanged, removed], np.int64)


def ids_folder(path: str) -> PartFolder:
    """The files of `KeepIds`."""
    return PartFolder(path, _NUM_PARTITIONS, "arrow")


class WriteIdsDoFn(beam.DoFn):  # type: ignore[misc]
    """A partition's documents, sorted by id, as its part."""

    def __init__(self, folder: PartFolder) -> None:
        self._folder = folder

    def process(self, element: tuple[int, Iterable[bytes]]) -> None:
        partition, pieces = element
        documents = np.frombuffer(b"".join(pieces), DOCUMENTS)
        documents = documents[np.lexsort([documents["low"], documents["high"]])]
        columns = [pa.array(np.ascontiguousarray(documents[name])) for name in _IDS.names]
        write_arrow(self._folder.part(partition), pa.table(columns, schema=_IDS))


class ReadIdsDoFn(beam.DoFn):  # type: ignore[misc]
    """DOCUMENTS of a partition that `WriteIdsDoFn` has written."""

    def __init__(self, folder: PartFolder, run: PublishedRun | None) -> None:
        self._folder = folder
        self._run = run

    def process(self, partition: int) -> Iterator[tuple[int, bytes]]:
        path = self._folder.part(partition)
        if self._run is not None and not self._run.is_sound(path):
            return
        table = read_arrow(path)
        documents = np.zeros(table.num_rows, DOCUMENTS)
        for name in _IDS.names:
            documents[name] = table[name].to_numpy()
        yield partition, documents.tobytes()


class KeepIds(beam.PTransform):  # type: ignore[misc]
    """Writes the ids and texts of a corpus, 24 bytes a document, for `CompareCorpora`."""

    def __init__(self, corpus: Corpus, folder: PartFolder) -> None:
        super().__init__()
        self._corpus = corpus
        self._folder = folder

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        partitions = pbegin | "AllPartitions" >> ListIndices(_NUM_PARTITIONS)
        return (
            (_read(pbegin, "Now", self._corpus, is_now=True), partitions)
            | "GroupByHash" >> GroupByNumber()
            | "WriteIds" >> beam.ParDo(WriteIdsDoFn(self._folder))
        )


class CountKindsDoFn(beam.DoFn):  # type: ignore[misc]
    """Counts of one partition."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[bytes]:
        yield count_kinds(np.frombuffer(b"".join(element[1]), DOCUMENTS)).tobytes()


class AddCounts(beam.CombineFn):  # type: ignore[misc]
    """Adds counts of KINDS up."""

    def create_accumulator(self) -> bytes:
        return np.zeros(len(KINDS), np.int64).tobytes()

    def add_input(self, accumulator: bytes, element: bytes) -> bytes:
        added = np.frombuffer(accumulator, np.int64) + np.frombuffer(element, np.int64)
        return bytes(added.tobytes())

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytes:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = self.add_input(merged, accumulator)
        return merged

    def extract_output(self, accumulator: bytes) -> bytes:
        return accumulator


class WriteComparisonDoFn(beam.DoFn):  # type: ignore[misc]
    """The counts as a JSON file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def process(self, counts: bytes) -> None:
        values = np.frombuffer(counts, np.int64).tolist()
        storage.make_parent(self._path)
        data = json.dumps(dict(zip(KINDS, values, strict=True)))
        checksums.put_if_absent(self._path, data.encode())


class CompareCorpora(beam.PTransform):  # type: ignore[misc]
    """Compares this run's documents with an earlier run's, and writes the counts of KINDS."""

    def __init__(self, now: Corpus, earlier: Corpus, path: str) -> None:
        super().__init__()
        self._now = now
        self._earlier = earlier
        self._path = path

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        both = (
            _read(pbegin, "Now", self._now, is_now=True),
            _read(pbegin, "Earlier", self._earlier, is_now=False),
        )
        return (
            both
            | "Flatten" >> beam.Flatten()
            | "GroupByHash" >> beam.GroupByKey()
            | "CountKinds" >> beam.ParDo(CountKindsDoFn()).with_output_types(bytes)
            # With its default, so that two corpora of no documents are compared as well.
            | "AddCounts" >> beam.CombineGlobally(AddCounts())
            | "Write" >> beam.ParDo(WriteComparisonDoFn(self._path))
        )


def _read(
    pbegin: beam.pvalue.PBegin, name: str, corpus: Corpus, *, is_now: bool
) -> beam.PCollection:
    if corpus.ids is None:
        read = beam.ParDo(ReadDocumentsDoFn(corpus, is_now=is_now))
        num_parts = corpus.tokens.num_parts
    else:
        read = beam.ParDo(ReadIdsDoFn(corpus.ids, corpus.run))
        num_parts = corpus.ids.num_parts
    return (
        pbegin
        | f"{name}Parts" >> ListIndices(num_parts)
        | f"Read{name}" >> read.with_output_types(tuple[int, bytes])
    )
