"""The LDA stage where the bag of words fits no worker: one pipeline a pass.

A worker adds up what its splits contribute, and gives the sums on in blocks of the vocabulary; the
blocks are added up over the workers, and become the checkpoint of the pass, from which the next one
starts. Sums are whole numbers: any number of workers gives the same bits, those of `fit_topics`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from lexbeam.models import lda
from lexbeam.models.config import LdaConfig
from lexbeam.transforms import checksums, progress, storage
from lexbeam.transforms.lda_checkpoints import LdaCheckpoints
from lexbeam.transforms.parts import ListIndices
from lexbeam.transforms.threads import kernel_threads
from lexbeam.transforms.topic_files import TopicFiles

# The key of the sums beside the topics; blocks of the vocabulary count from 0.
TOTALS = -1

Keyed = tuple[int, bytes]


class SumArrays(beam.CombineFn):  # type: ignore[misc]
    """Adds up arrays of int64 of one length, as bytes; exact, so in any order."""

    def create_accumulator(self) -> bytes:
        return b""

    def add_input(self, accumulator: bytes, element: bytes) -> bytes:
        if not accumulator:
            return element
        return to_bytes(np.frombuffer(accumulator, "<i8") + np.frombuffer(element, "<i8"))

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytes:
        merged = b""
        for accumulator in accumulators:
            merged = self.add_input(merged, accumulator) if accumulator else merged
        return merged

    def extract_output(self, accumulator: bytes) -> bytes:
        return accumulator


def to_bytes(values: npt.ArrayLike) -> bytes:
    """int64, little-endian."""
    return np.ascontiguousarray(values, dtype="<i8").tobytes()


class MeasureSplitDoFn(beam.DoFn):  # type: ignore[misc]
    """A split to its `lda.CorpusSize`."""

    def __init__(self, files: TopicFiles) -> None:
        self._files = files

    def process(self, split: int) -> Iterator[Keyed]:
        size = lda.corpus_size(self._files.bag(split), self._files.held_out(split))
        yield TOTALS, to_bytes(size)


class WriteSizeDoFn(beam.DoFn):  # type: ignore[misc]
    """The corpus' size into its file."""

    def __init__(self, files: TopicFiles) -> None:
        self._files = files

    def process(self, element: Keyed) -> None:
        size = lda.CorpusSize(*np.frombuffer(element[1], "<i8").tolist())
        storage.make_parent(self._files.size_file)
        checksums.put_if_absent(self._files.size_file, json.dumps(size._asdict()).encode())


class MeasureCorpus(beam.PTransform):  # type: ignore[misc]
    """Measures all bags of words."""

    def __init__(self, files: TopicFiles) -> None:
        super().__init__()
        self._files = files

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        measure = beam.ParDo(MeasureSplitDoFn(self._files)).with_output_types(Keyed)
        return (
            pbegin
            | "Splits" >> ListIndices(self._files.bow.num_parts)
            | "MeasureSplit" >> measure
            | "SumSizes" >> beam.CombinePerKey(SumArrays())
            | "WriteSize" >> beam.ParDo(WriteSizeDoFn(self._files))
        )


@lru_cache(maxsize=1)
def _cached_e_step(checkpoints: LdaCheckpoints, done: lda.FitProgress, evaluate: bool) -> lda.EStep:
    """The topics that a pass starts from, once per process and pass."""
    return checkpoints.load(done).e_step(evaluate=evaluate)


class EStepDoFn(beam.DoFn):  # type: ignore[misc]
    """Adds up the splits of a bundle, and gives blocks of the sums at its end."""

    def __init__(self, files: TopicFiles, done: lda.FitProgress, *, has_held_out: bool) -> None:
        self._files = files
        self._done = done
        self._has_held_out = has_held_out
        self._sums: lda.SufficientStatistics | None = None

    def start_bundle(self) -> None:
        # What a bundle that failed had added up is forgotten.
        self._sums = None

    def process(self, split: int) -> None:
        if self._sums is None:
            self._sums = self._done.begin_pass()
        self._sums.add(
            self._files.bag(split),
            _cached_e_step(self._files.checkpoints, self._done, self._has_held_out),
            held_out=self._files.held_out(split) if self._has_held_out else None,
            num_threads=kernel_threads(),
        )

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._sums is None:
            return
        window = GlobalWindow()
        sums, self._sums = self._sums, None
        elements = [(TOTALS, to_bytes(sums.totals))]
        elements += ((number, to_bytes(rows)) for number, rows in sums.vocabulary_blocks())
        for element in elements:
            yield WindowedValue(element, window.max_timestamp(), [window])


class WriteBlockDoFn(beam.DoFn):  # type: ignore[misc]
    """The summed blocks of a pass into its checkpoint; last of all, the driver commits it."""

    def __init__(self, checkpoints: LdaCheckpoints, done: lda.FitProgress) -> None:
        self._checkpoints = checkpoints
        self._done = done

    def process(self, element: Keyed) -> None:
        number, data = element
        pass_number = self._done.completed_passes + 1
        values = np.frombuffer(data, "<i8")
        if number == TOTALS:
            self._checkpoints.write_totals(pass_number, lda.PassTotals(*values.tolist()))
        else:
            rows = values.reshape(-1, self._done.config.num_topics)
            self._checkpoints.write_block(pass_number, number, rows)


class RunPass(beam.PTransform):  # type: ignore[misc]
    """One pass over all bags of words, from the topics at `done`."""

    def __init__(self, files: TopicFiles, done: lda.FitProgress, *, has_held_out: bool) -> None:
        super().__init__()
        self._files = files
        self._done = done
        self._has_held_out = has_held_out

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        e_step = EStepDoFn(self._files, self._done, has_held_out=self._has_held_out)
        write = WriteBlockDoFn(self._files.checkpoints, self._done)
        return (
            pbegin
            | "Splits" >> ListIndices(self._files.bow.num_parts)
            | "EStep" >> beam.ParDo(e_step).with_output_types(Keyed)
            | "SumBlocks" >> beam.CombinePerKey(SumArrays())
            | "WriteBlock" >> beam.ParDo(write)
        )


class PublishTopicsDoFn(beam.DoFn):  # type: ignore[misc]
    """The last checkpoint to model/lda/ and the published topics."""

    def __init__(self, files: TopicFiles, done: lda.FitProgress | None) -> None:
        self._files = files
        self._done = done

    def process(self, _: None) -> None:
        _cached_e_step.cache_clear()  # no pass comes any more
        model = self._files.checkpoints.load(self._done).model() if self._done else None
        self._files.publish(model, self._files.bags, read_size(self._files))


class PublishTopics(beam.PTransform):  # type: ignore[misc]
    """Writes what a fit leaves behind (`done` None: the corpus is too small)."""

    def __init__(self, files: TopicFiles, done: lda.FitProgress | None) -> None:
        super().__init__()
        self._publish = PublishTopicsDoFn(files, done)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        publish = beam.ParDo(self._publish)
        return pbegin | "Start" >> beam.Create([None]) | "PublishTopics" >> publish


def read_size(files: TopicFiles) -> lda.CorpusSize:
    """What `MeasureCorpus` wrote."""
    return lda.CorpusSize(**json.loads(storage.read_bytes(files.size_file)))


class StartWarmDoFn(beam.DoFn):  # type: ignore[misc]
    """Writes the state before the first pass from an earlier model."""

    def __init__(self, files: TopicFiles, config: LdaConfig) -> None:
        self._files = files
        self._config = config

    def process(self, _: None) -> None:
        self._files.start_warm(self._config)


class StartWarm(beam.PTransform):  # type: ignore[misc]
    """The state that the first pass starts from, where it is not that of a fit from the start."""

    def __init__(self, files: TopicFiles, config: LdaConfig) -> None:
        super().__init__()
        self._start = StartWarmDoFn(files, config)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return pbegin | "Start" >> beam.Create([None]) | "StartWarm" >> beam.ParDo(self._start)


def _build(transform: beam.PTransform) -> Callable[[beam.Pipeline], object]:
    """What adds a transform to a pipeline, under its class's name."""
    return lambda pipeline: pipeline | type(transform).__name__ >> transform


def distributed_fit(
    files: TopicFiles, config: LdaConfig
) -> Iterator[Callable[[beam.Pipeline], object]]:
    """The pipelines of a fit, one after the other, from its last checkpoint on.

    The next one is asked for when the one before has run: it starts from what that one wrote.

    Raises:
        ValueError: sums could overflow, or a checkpoint is damaged.
    """
    if not storage.exists(files.size_file):
        yield _build(MeasureCorpus(files))
    size, num_terms = read_size(files), files.num_terms()
    num_topics = lda.effective_num_topics(config.num_topics, size.num_documents, num_terms)
    done = None
    if num_topics is not None:
        lda.check_mass(size.num_tokens, size.num_entries, config.fraction_bits)
        config = replace(config, num_topics=num_topics)
        if files.warm_start is not None and files.checkpoints.latest() is None:
            yield _build(StartWarm(files, config))
        done = files.checkpoints.latest() or lda.FitProgress(config=config, num_terms=num_terms)
        progress.report("lda", done.completed_passes)
        while not done.is_finished:
            yield _build(RunPass(files, done, has_held_out=size.has_held_out))
            done = files.checkpoints.commit_pass(done)
            progress.report("lda", 1)
    yield _build(PublishTopics(files, done))
