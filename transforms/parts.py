"""Transforms that read a split block by block, and write a part for every split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from lexbeam.transforms import blocks, progress
from lexbeam.transforms.attempts import Attempts
from lexbeam.transforms.earlier_parts import EarlierParts
from lexbeam.transforms.part_files import BlockSource, PartFolder, PartWriter
from lexbeam.transforms.threads import kernel_threads


@dataclass(frozen=True)
class SplitWork:
    """What a map stage has to do: to read splits, and to write a part of each into each folder.

    Attributes:
        source: where the splits are read from.
        folders: where the parts go.
        stage: its name, for progress.
        attempts: the stage's marks; None: leave none.
        earlier: parts of an earlier run, for the one folder; None: make all.
        only: the one split to work on; None: all that some folder still lacks a part of.
    """

    source: BlockSource
    folders: tuple[PartFolder, ...]
    stage: str = ""
    attempts: Attempts | None = None
    earlier: EarlierParts | None = None
    only: int | None = None

    def missing(self) -> list[int]:
        """The splits that some folder still lacks a part of."""
        return sorted({index for folder in self.folders for index in folder.missing()})

    def suspects(self) -> list[int]:
        """Of these the ones over which processes have died too often to begin them again."""
        found = self.attempts.suspects() if self.attempts else set()
        return [split for split in self.missing() if split in found] if found else []

    def todo(self) -> list[int]:
        """The splits to work on now."""
        if self.only is not None:
            return [self.only]
        suspects = self.suspects()
        return [split for split in self.missing() if split not in suspects]

    def take_over(self, split: int) -> bool:
        """Take the split's part over from an earlier run; False where it must be made."""
        if self.earlier is None or self.only is not None:
            return False
        (folder,) = self.folders
        num_rows = self.earlier.take_over(split, folder)
        if num_rows is not None:
            progress.report(self.stage, num_rows)
        return num_rows is not None

    def attempt(self, split: int) -> AbstractContextManager[None]:
        """What holds a mark on a split while it is worked on."""
        return self.attempts.mark(split) if self.attempts else nullcontext()


class ListSplitsDoFn(beam.DoFn):  # type: ignore[misc]
    """The splits to work on."""

    def __init__(self, work: SplitWork) -> None:
        self._work = work

    def process(self, _: None) -> Iterable[int]:
        return self._work.todo()


class ReadBlocksDoFn(beam.DoFn):  # type: ignore[misc]
    """Reads a split block by block; the block that ends it comes last.

    The stage's other transforms work on each block before the next one is read, so that the mark
    is held until the split is through.
    """

    def __init__(self, work: SplitWork) -> None:
        self._work = work

    def process(self, split: int) -> Iterator[pa.RecordBatch]:
        source = self._work.source
        if self._work.take_over(split):
            return
        with self._work.attempt(split):
            yield from blocks.mark_split(source.batches(split), source.schema, split)


class WritePartDoFn(beam.DoFn):  # type: ignore[misc]
    """Writes each split's blocks into its part, and commits it at the last one.

    A split that was seen only partly is an error: never a short file. The next split goes on while
    a part is finished; the bundle ends when all are committed.
    """

    def __init__(
        self,
        folder: PartFolder,
        schema: pa.Schema,
        stage: str,
        rows_per_row_group: int | None = None,
    ) -> None:
        self._folder = folder
        self._schema = schema
        self._stage = stage
        self._rows_per_row_group = rows_per_row_group
        self._rows = Metrics.counter("WritePart", f"{stage}-rows")
        self._writers: dict[int, PartWriter] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._commits: list[Future[None]] = []

    def setup(self) -> None:
        self._thread = ThreadPoolExecutor(1) if kernel_threads() > 1 else None

    def start_bundle(self) -> None:
        # A bundle that failed before leaves nothing behind.
        self._abandon()

    def process(self, block: pa.RecordBatch) -> None:
        split = blocks.split_of(block)
        writer = self._writers.get(split)
        if writer is None:
            writer = self._writers[split] = PartWriter(
                self._folder.part(split), self._schema, self._rows_per_row_group
            )
        if blocks.is_last(block):
            del self._writers[split]
            self._commit(writer, blocks.statistics_of(block))
        else:
            writer.write(block)
            self._rows.inc(block.num_rows)
            progress.report(self._stage, block.num_rows)

    def finish_bundle(self) -> None:
        unfinished = sorted(self._writers)
        self._await_commits(0)
        self._abandon()
        if unfinished:
            raise RuntimeError(f"{self._stage}: splits {unfinished} ended before their last block")

    def teardown(self) -> None:
        self._abandon()
        if self._thread is not None:
            self._thread.shutdown()

    def _commit(self, writer: PartWriter, statistics: Mapping[str, Any]) -> None:
        if self._thread is None:
            _commit(writer, statistics)
            return
        self._commits.append(self._thread.submit(_commit, writer, statistics))
        self._await_commits(1)

    def _await_commits(self, still_pending: int) -> None:
        """Until so many commits are left; raises what went wrong with one."""
        while len(self._commits) > still_pending:
            self._commits.pop(0).result()

    def _abandon(self) -> None:
        # What is being committed is whole, and may as well be finished.
        wait(self._commits)
        self._commits = []
        for writer in self._writers.values():
            writer.abandon()
        self._writers = {}


def _commit(writer: PartWriter, statistics: Mapping[str, Any]) -> None:
    """Commit a part that has all its rows; nothing is left where that fails."""
    try:
        writer.commit(statistics)
    except BaseException:
        writer.abandon()
        raise


class ListSplits(beam.PTransform):  # type: ignore[misc]
    """The splits to work on, spread over the workers."""

    def __init__(self, work: SplitWork) -> None:
        super().__init__()
        self._work = work

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Start" >> beam.Create([None])
            | "ListSplits" >> beam.ParDo(ListSplitsDoFn(self._work)).with_output_types(int)
            | "Reshuffle" >> beam.Reshuffle()
        )


class ReadSplits(beam.PTransform):  # type: ignore[misc]
    """The blocks of every split to work on, but for those whose parts can be taken over."""

    def __init__(self, work: SplitWork) -> None:
        super().__init__()
        self._work = work

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Splits" >> ListSplits(self._work)
            | "ReadBlocks"
            >> beam.ParDo(ReadBlocksDoFn(self._work)).with_output_types(pa.RecordBatch)
        )


class WriteParts(beam.PTransform):  # type: ignore[misc]
    """Every split's blocks into its part of the folder."""

    def __init__(
        self,
        folder: PartFolder,
        schema: pa.Schema,
        stage: str,
        rows_per_row_group: int | None = None,
    ) -> None:
        super().__init__()
        self._writer = WritePartDoFn(folder, schema, stage, rows_per_row_group)

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        return blocks_in | "WritePart" >> beam.ParDo(self._writer)


class ListIndices(beam.PTransform):  # type: ignore[misc]
    """The numbers below `count`, spread over the workers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Start" >> beam.Create([self._count])
            | "ListIndices" >> beam.FlatMap(_indices).with_output_types(int)
            | "Reshuffle" >> beam.Reshuffle()
        )


def _indices(count: int) -> Iterable[int]:
    return range(count)


class GroupByNumber(beam.PTransform):  # type: ignore[misc]
    """Of (bytes by number, all numbers) the bytes of each number; b"" where there are none."""

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection:
        keyed, numbers = inputs
        empty = numbers | "Empty" >> beam.Map(_nothing).with_output_types(tuple[int, bytes])
        return (keyed, empty) | "Flatten" >> beam.Flatten() | "GroupByKey" >> beam.GroupByKey()


def _nothing(number: int) -> tuple[int, bytes]:
    return number, b""
