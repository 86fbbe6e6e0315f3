"""The encode stage: BERT embeddings and received attention, in the order of the split."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.models import schemas
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder import Encoder, EncoderStats, cached_encoder, num_encoder_loads
from lexbeam.models.encoder_output import encoded_batch
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.transforms import blocks
from lexbeam.transforms.earlier_rows import BoolArray, EarlierRows, fill_in
from lexbeam.transforms.host_models import model_on_host
from lexbeam.transforms.threads import OrderedThreads, kernel_threads
from lexbeam.transforms.tokenize import REUSED

# Documents are sorted by length inside this buffer: large enough for batches of like lengths,
# small enough to hold. It is cut by rows and characters of one split alone, so that batches do
# not depend on blocks, workers or neighbours.
BUFFER_ROWS = 2_048
BUFFER_CHARACTERS = 2_000_000
# A buffer may hold so many times as many documents where an earlier run has encoded most of them.
MOST_FOUND = 4
# Buffers that are encoded at a time: one is tokenized while the other is in the model.
BUFFERS_AT_A_TIME = 2

_logger = logging.getLogger(__name__)


# Rows of an encoded part's row group: single rows are read from it by later runs.
ROWS_PER_ROW_GROUP = 256

Encoded = tuple[pa.RecordBatch, EncoderStats, int]
"""Encoded documents, what that took, and how many of them an earlier run had encoded."""


@dataclass
class _Buffer:
    """Documents of one split that are encoded together.

    Attributes:
        contents: texts; None for what is not to be encoded.
        found: whether an earlier run has encoded a document.
        earlier: what it has made of those, in order.
        num_found: documents that an earlier run has encoded.
        num_texts, num_characters: of the texts.
    """

    contents: list[str | None] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    earlier: list[pa.Table] = field(default_factory=list)
    num_found: int = 0
    num_texts: int = 0
    num_characters: int = 0

    def add(self, content: str | None, *, found: bool) -> None:
        """Add a document; its text is not needed where it was found."""
        self.contents.append(None if found else content)
        self.found.append(found)
        self.num_found += found
        if content is not None and not found:
            self.num_texts += 1
            self.num_characters += len(content)

    @property
    def is_full(self) -> bool:
        """Whether it is time to encode; a rule on the documents of one split alone."""
        most_rows = BUFFER_ROWS * (MOST_FOUND if self.num_found else 1)
        return (
            len(self.contents) >= most_rows
            or self.num_texts >= BUFFER_ROWS
            or self.num_characters >= BUFFER_CHARACTERS
        )


_num_counted = 0
_counted_lock = threading.Lock()


def _uncounted_loads() -> int:
    """Models that this process has loaded since the last call, whichever thread loaded them."""
    global _num_counted
    with _counted_lock:
        found = num_encoder_loads()
        before, _num_counted = _num_counted, found
        return found - before


class EncodeDoFn(beam.DoFn):  # type: ignore[misc]
    """Blocks with `content` and `dropped` to blocks of schemas.encoded_part_schema.

    With an earlier run they have `text_sha256` too, and the last block the statistic `reused`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: EncoderConfig,
        earlier: EarlierRows | None = None,
        schema: pa.Schema | None = None,
    ) -> None:
        self._spec = spec
        self._config = config
        self._earlier = earlier
        self._encoder: Encoder | None = None
        self._buffer = _Buffer()
        self._statistics: Counter[str] = Counter()
        self._threads: OrderedThreads[_Buffer, Encoded] | None = None
        self._schema = schema or part_schema(spec)
        self._loads = Metrics.counter("EncodeDocuments", "models-loaded")
        self._documents = Metrics.counter("EncodeDocuments", "documents-in")
        self._failed = Metrics.counter("EncodeDocuments", "documents-failed")

    def setup(self) -> None:
        self._threads = OrderedThreads(self._encode, BUFFERS_AT_A_TIME)

    def start_bundle(self) -> None:
        # Counters belong to a bundle, and `setup` to none.
        self._loads.inc(_uncounted_loads())
        self._clear()

    def process(self, block: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        split = blocks.split_of(block)
        if blocks.is_last(block):
            yield from self._flush(split)
            assert self._threads is not None
            for encoded in self._threads.rest():
                yield self._output(encoded, split)
            yield blocks.last_block(self._schema, split, dict(self._statistics))
            self._clear()
            return
        contents = pc.if_else(block["dropped"], pa.scalar(None, pa.string()), block["content"])
        found, rows = self._find(block)
        start = stop = 0
        for content, is_found in zip(contents.to_pylist(), found.tolist(), strict=True):
            self._buffer.add(content, found=is_found)
            stop += is_found
            if self._buffer.is_full:
                self._buffer.earlier.append(rows.slice(start, stop - start))
                start = stop
                yield from self._flush(split)
        self._buffer.earlier.append(rows.slice(start))

    def teardown(self) -> None:
        if self._threads is None:
            return
        self._threads.close()
        self._threads = None
        stats = self._encoder.stats if self._encoder else EncoderStats()
        if stats.seconds:
            _logger.info(
                "encoder: %d tokens/s, padding ratio %.3f, waited %.1f %% of the time",
                stats.real_tokens / stats.seconds, stats.padding_ratio, 100 * stats.wait_share,
            )  # fmt: skip

    def _find(self, block: pa.RecordBatch) -> tuple[BoolArray, pa.Table]:
        """Which documents an earlier run has encoded, and what it has made of them."""
        if self._earlier is None:
            return np.zeros(block.num_rows, np.bool_), self._schema.empty_table()
        hashes = pc.if_else(block["dropped"], pa.scalar(None, pa.string()), block["text_sha256"])
        found, rows = self._earlier.find(hashes)
        # What failed then is tried again.
        is_encoded = np.array(rows["embedding"].is_valid())
        found[found] = is_encoded
        return found, rows.filter(pa.array(is_encoded))

    def _encode(self, buffer: _Buffer) -> Encoded:
        if buffer.num_texts:
            # Loaded at the first text: where all is known already no model is needed.
            spec = model_on_host(self._spec, self._config)
            self._encoder = cached_encoder(spec, self._config, kernel_threads())
            batch, stats = self._encoder.encode_counted(buffer.contents)
        else:
            nothing = [None] * len(buffer.contents)
            batch = encoded_batch(nothing, self._spec.dimensions, labels=bool(self._spec.labels))
            stats = EncoderStats()
        batch = batch.select(self._schema.names).cast(self._schema)
        if not buffer.num_found:
            return batch, stats, 0
        found, earlier = np.array(buffer.found), pa.concat_tables(buffer.earlier)
        columns = [fill_in(batch[name], found, earlier[name]) for name in self._schema.names]
        merged = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        return merged, stats, earlier.num_rows

    def _flush(self, split: int) -> Iterator[pa.RecordBatch]:
        """Hand the buffer over; gives what earlier ones have become."""
        assert self._threads is not None
        buffer, self._buffer = self._buffer, _Buffer()
        if buffer.contents:
            for encoded in self._threads.put(buffer):
                yield self._output(encoded, split)

    def _output(self, encoded: Encoded, split: int) -> pa.RecordBatch:
        batch, stats, num_reused = encoded
        self._loads.inc(_uncounted_loads())
        self._statistics.update(stats.counts())
        if num_reused:
            self._statistics[REUSED] += num_reused
        self._documents.inc(batch.num_rows)
        self._failed.inc(batch.num_rows - batch["error_type"].null_count)
        return blocks.of_split(batch, split)

    def _clear(self) -> None:
        assert self._threads is not None
        self._threads.clear()
        self._buffer, self._statistics = _Buffer(), Counter()


def part_schema(spec: ModelSpec) -> pa.Schema:
    """What is written of a model's documents."""
    return schemas.encoded_part_schema(spec.dimensions, labels=bool(spec.labels))


class EncodeDocuments(beam.PTransform):  # type: ignore[misc]
    """Embeddings, token counts and received attention of every document that is kept.

    Args:
        spec: the model; with labels, classes as well.
        config: resolved.
        earlier: encoded rows of an earlier run with the same model and settings.
        schema: what is wanted of `part_schema`; None: all of it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: EncoderConfig,
        earlier: EarlierRows | None = None,
        schema: pa.Schema | None = None,
    ) -> None:
        super().__init__()
        self._encode = EncodeDoFn(spec, config, earlier, schema)

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        encode = beam.ParDo(self._encode)
        return blocks_in | "Encode" >> encode.with_output_types(pa.RecordBatch)
