"""The encode stage: BERT embeddings and received attention, in the order of the split."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from lexbeam.models import schemas
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder import EncoderStats, cached_encoder
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.transforms import blocks
from lexbeam.transforms.threads import kernel_threads

# Documents are sorted by length inside this buffer: large enough for batches of like lengths,
# small enough to hold. It is cut by rows and characters of one split alone, so that batches do
# not depend on blocks, workers or neighbours.
BUFFER_ROWS = 512
BUFFER_CHARACTERS = 8_000_000


class EncodeDoFn(beam.DoFn):  # type: ignore[misc]
    """Blocks with `content` and `dropped` to blocks of schemas.encoded_part_schema."""

    def __init__(self, spec: ModelSpec, config: EncoderConfig) -> None:
        self._spec = spec
        self._config = config
        self._contents: list[str | None] = []
        self._characters = 0
        self._statistics: dict[str, int] = {}
        self._schema = schemas.encoded_part_schema(spec.dimensions)
        self._documents = Metrics.counter("EncodeDocuments", "documents-in")
        self._failed = Metrics.counter("EncodeDocuments", "documents-failed")

    def setup(self) -> None:
        self._encoder = cached_encoder(self._spec, self._config, kernel_threads())

    def start_bundle(self) -> None:
        self._clear()

    def process(self, block: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        split = blocks.split_of(block)
        if blocks.is_last(block):
            yield from self._flush(split)
            yield blocks.last_block(self._schema, split, self._statistics)
            self._clear()
            return
        dropped = block["dropped"].to_pylist()
        for content, is_dropped in zip(block["content"].to_pylist(), dropped, strict=True):
            self._contents.append(None if is_dropped else content)
            self._characters += 0 if is_dropped or content is None else len(content)
            if len(self._contents) >= BUFFER_ROWS or self._characters >= BUFFER_CHARACTERS:
                yield from self._flush(split)

    def _flush(self, split: int) -> Iterator[pa.RecordBatch]:
        if not self._contents:
            return
        before = _counts_of(self._encoder.stats)
        encoded = self._encoder.encode(self._contents)
        for name, value in _counts_of(self._encoder.stats).items():
            self._statistics[name] = self._statistics.get(name, 0) + value - before[name]
        self._documents.inc(encoded.num_rows)
        self._failed.inc(encoded.num_rows - encoded["error_type"].null_count)
        self._contents, self._characters = [], 0
        yield blocks.of_split(encoded.cast(self._schema), split)

    def _clear(self) -> None:
        self._contents, self._characters, self._statistics = [], 0, {}


def _counts_of(stats: EncoderStats) -> dict[str, int]:
    """Counts that follow from the documents alone; times would make files differ."""
    return {name: getattr(stats, name) for name in ("windows", "real_tokens", "padded_tokens")}


class EncodeDocuments(beam.PTransform):  # type: ignore[misc]
    """Embeddings, token counts and received attention of every document that is kept."""

    def __init__(self, spec: ModelSpec, config: EncoderConfig) -> None:
        super().__init__()
        self._spec = spec
        self._config = config

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        encode = EncodeDoFn(self._spec, self._config)
        return blocks_in | "Encode" >> beam.ParDo(encode).with_output_types(pa.RecordBatch)
