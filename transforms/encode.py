"""The encode stage: BERT embeddings and received attention, in the order of the split."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from lexbeam.models import schemas
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder import EncoderStats, cached_encoder, num_encoder_loads
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.transforms import blocks
from lexbeam.transforms.threads import OrderedThreads, kernel_threads

# Documents are sorted by length inside this buffer: large enough for batches of like lengths,
# small enough to hold. It is cut by rows and characters of one split alone, so that batches do
# not depend on blocks, workers or neighbours.
BUFFER_ROWS = 2_048
BUFFER_CHARACTERS = 2_000_000
# Buffers that are encoded at a time: one is tokenized while the other is in the model.
BUFFERS_AT_A_TIME = 2

_logger = logging.getLogger(__name__)


Encoded = tuple[pa.RecordBatch, EncoderStats]

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
    """Blocks with `content` and `dropped` to blocks of schemas.encoded_part_schema."""

    def __init__(self, spec: ModelSpec, config: EncoderConfig) -> None:
        self._spec = spec
        self._config = config
        self._contents: list[str | None] = []
        self._characters = 0
        self._statistics: Counter[str] = Counter()
        self._threads: OrderedThreads[list[str | None], Encoded] | None = None
        self._schema = schemas.encoded_part_schema(spec.dimensions)
        self._loads = Metrics.counter("EncodeDocuments", "models-loaded")
        self._documents = Metrics.counter("EncodeDocuments", "documents-in")
        self._failed = Metrics.counter("EncodeDocuments", "documents-failed")

    def setup(self) -> None:
        self._encoder = cached_encoder(self._spec, self._config, kernel_threads())
        self._threads = OrderedThreads(self._encoder.encode_counted, BUFFERS_AT_A_TIME)

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
        dropped = block["dropped"].to_pylist()
        for content, is_dropped in zip(block["content"].to_pylist(), dropped, strict=True):
            self._contents.append(None if is_dropped else content)
            self._characters += 0 if is_dropped or content is None else len(content)
            if len(self._contents) >= BUFFER_ROWS or self._characters >= BUFFER_CHARACTERS:
                yield from self._flush(split)

    def teardown(self) -> None:
        if self._threads is None:
            return
        self._threads.close()
        self._threads = None
        stats = self._encoder.stats
        if stats.seconds:
            _logger.info(
                "encoder: %d tokens/s, padding ratio %.3f, waited %.1f %% of the time",
                stats.real_tokens / stats.seconds, stats.padding_ratio, 100 * stats.wait_share,
            )  # fmt: skip

    def _flush(self, split: int) -> Iterator[pa.RecordBatch]:
        """Hand the buffer over; gives what earlier ones have become."""
        assert self._threads is not None
        contents, self._contents, self._characters = self._contents, [], 0
        if contents:
            for encoded in self._threads.put(contents):
                yield self._output(encoded, split)

    def _output(self, encoded: Encoded, split: int) -> pa.RecordBatch:
        batch, stats = encoded
        self._statistics.update(stats.counts())
        self._documents.inc(batch.num_rows)
        self._failed.inc(batch.num_rows - batch["error_type"].null_count)
        return blocks.of_split(batch.cast(self._schema), split)

    def _clear(self) -> None:
        assert self._threads is not None
        self._threads.clear()
        self._contents, self._characters, self._statistics = [], 0, Counter()


class EncodeDocuments(beam.PTransform):  # type: ignore[misc]
    """Embeddings, token counts and received attention of every document that is kept."""

    def __init__(self, spec: ModelSpec, config: EncoderConfig) -> None:
        super().__init__()
        self._spec = spec
        self._config = config

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        encode = EncodeDoFn(self._spec, self._config)
        return blocks_in | "Encode" >> beam.ParDo(encode).with_output_types(pa.RecordBatch)
