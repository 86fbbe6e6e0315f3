"""Transforms that read a split block by block, and write a part for every split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from lexbeam.transforms import blocks, progress
from lexbeam.transforms.part_files import BlockSource, PartFolder, PartWriter
from lexbeam.transforms.threads import kernel_threads


class ListMissingDoFn(beam.DoFn):  # type: ignore[misc]
    """The splits that some folder still lacks a part of."""

    def __init__(self, folders: tuple[PartFolder, ...]) -> None:
        self._folders = folders

    def process(self, _: None) -> Iterable[int]:
        return sorted({index for folder in self._folders for index in folder.missing()})


class ReadBlocksDoFn(beam.DoFn):  # type: ignore[misc]
    """Reads a split block by block; the block that ends it comes last."""

    def __init__(self, source: BlockSource) -> None:
        self._source = source

    def process(self, split: int) -> Iterator[pa.RecordBatch]:
        batches = self._source.batches(split)
        yield from blocks.mark_split(batches, self._source.schema, split)


class WritePartDoFn(beam.DoFn):  # type: ignore[misc]
    """Writes each split's blocks into its part, and commits it at the last one.

    A split that was seen only partly is an error: never a short file. The next split goes on while
    a part is finished; the bundle ends when all are committed.
    """

    def __init__(self, folder: PartFolder, schema: pa.Schema, stage: str) -> None:
        self._folder = folder
        self._schema = schema
        self._stage = stage
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
            writer = self._writers[split] = PartWriter(self._folder.part(split), self._schema)
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


class ListMissing(beam.PTransform):  # type: ignore[misc]
    """The splits that some folder still lacks a part of, spread over the workers."""

    def __init__(self, folders: tuple[PartFolder, ...]) -> None:
        super().__init__()
        self._folders = folders

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "Start" >> beam.Create([None])
            | "ListMissing" >> beam.ParDo(ListMissingDoFn(self._folders)).with_output_types(int)
            | "Reshuffle" >> beam.Reshuffle()
        )


class ReadSplits(beam.PTransform):  # type: ignore[misc]
    """The blocks of every split that one of the folders still lacks."""

    def __init__(self, source: BlockSource, missing_from: tuple[PartFolder, ...]) -> None:
        super().__init__()
        self._source = source
        self._missing_from = missing_from

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            pbegin
            | "MissingSplits" >> ListMissing(self._missing_from)
            | "ReadBlocks"
            >> beam.ParDo(ReadBlocksDoFn(self._source)).with_output_types(pa.RecordBatch)
        )


class WriteParts(beam.PTransform):  # type: ignore[misc]
    """Every split's blocks into its part of the folder."""

    def __init__(self, folder: PartFolder, schema: pa.Schema, stage: str) -> None:
        super().__init__()
        self._folder = folder
        self._schema = schema
        self._stage = stage

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        writer = WritePartDoFn(self._folder, self._schema, self._stage)
        return blocks_in | "WritePart" >> beam.ParDo(writer)


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
