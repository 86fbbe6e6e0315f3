"""From tokens parts to the examples of a fine-tuning: windows of model tokens, with labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.models.arrow_lists import list_column
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.encoder_windows import TextTokenizer, all_windows
from lexbeam.models.finetuning.config import CLASSIFY, FinetuningConfig
from lexbeam.models.finetuning.examples import SCHEMA
from lexbeam.models.training.random import text_key
from lexbeam.transforms import blocks
from lexbeam.transforms.host_models import directory_on_host
from lexbeam.transforms.map_blocks import MapBlocksDoFn
from lexbeam.transforms.part_files import PartFolder, read_part, write_arrow

_NOTHING = np.empty(0, np.int32)


@dataclasses.dataclass(frozen=True)
class ExampleTexts:
    """Which columns of a tokens part make an example.

    Attributes:
        first: the text that is classified, or that looks for the second one.
        second: of a pair; else None.
        label: of a labelled text; else None.
    """

    first: str = "content"
    second: str | None = None
    label: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All that are read."""
        texts = ("content", self.first, self.second, self.label)
        return tuple(dict.fromkeys(name for name in texts if name is not None))


class MakeExamplesDoFn(MapBlocksDoFn[pa.RecordBatch]):
    """Blocks with doc_id, text_sha256, dropped and the columns of `texts` to examples."""

    def __init__(self, spec: ModelSpec, config: FinetuningConfig, texts: ExampleTexts) -> None:
        self._spec = spec
        self._config = config
        self._texts = texts
        self._examples = Metrics.counter("MakeExamples", "examples-out")

    def setup(self) -> None:
        super().setup()
        self._spec = dataclasses.replace(self._spec, directory=directory_on_host(self._spec))

    def compute(self, block: pa.RecordBatch) -> pa.RecordBatch:
        kept = block.filter(pc.and_(pc.invert(block["dropped"]), block["content"].is_valid()))
        is_pair = self._config.task != CLASSIFY
        spec = self._spec
        # As a query looks for a document.
        prefix = spec.query_prefix if is_pair else spec.document_prefix
        first = dataclasses.replace(spec, document_prefix=prefix)
        length = self._config.max_seq_length
        windows = _windows(kept[self._texts.first], _tokenizer(first), length, first_only=is_pair)
        second: Sequence[Sequence[np.ndarray]] = [[]] * kept.num_rows
        if self._texts.second is not None:
            column = kept[self._texts.second]
            second = _windows(column, _tokenizer(spec), length, first_only=True)
        labels = pa.nulls(kept.num_rows, pa.string())
        if self._texts.label is not None:
            labels = kept[self._texts.label]
        hashes = kept["text_sha256"].to_pylist()
        keys = [text_key(self._config.seed, digest, 0) for digest in hashes]
        columns = [
            pa.array(keys, pa.uint64()),
            kept["doc_id"],
            kept["text_sha256"],
            labels,
            list_column([np.array([len(each) for each in own]) for own in windows], pa.int32()),
            list_column([np.concatenate(own) for own in windows], pa.int32()),
            list_column([np.concatenate([_NOTHING, *own]) for own in second], pa.int32()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

    def emit(self, result: pa.RecordBatch, split: int) -> Iterator[pa.RecordBatch]:
        self._examples.inc(result.num_rows)
        yield blocks.of_split(result, split)

    def emit_last(self, split: int) -> Iterator[pa.RecordBatch]:
        yield blocks.last_block(SCHEMA, split)


@lru_cache(maxsize=2)
def _tokenizer(spec: ModelSpec) -> TextTokenizer:
    return TextTokenizer(spec)


def _windows(
    column: pa.StringArray, tokenizer: TextTokenizer, length: int, *, first_only: bool
) -> list[list[np.ndarray]]:
    """Windows of each text, one at least."""
    texts = dict(enumerate(column.to_pylist()))
    tokens = dict(enumerate(tokenizer.tokenize(list(texts.values()))))
    found: list[list[np.ndarray]] = [[] for _ in texts]
    for window in all_windows(texts, tokens, tokenizer, length, first_only=first_only):
        found[window.document].append(window.ids)
    return found


class MakeExamples(beam.PTransform):  # type: ignore[misc]
    """Examples of every document that is kept.

    Args:
        spec: the model that is fine-tuned.
        config: how long windows are, and the seed of their keys.
        texts: which columns make an example.
    """

    def __init__(self, spec: ModelSpec, config: FinetuningConfig, texts: ExampleTexts) -> None:
        super().__init__()
        self._make = MakeExamplesDoFn(spec, config, texts)

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        return blocks_in | "Make" >> beam.ParDo(self._make).with_output_types(pa.RecordBatch)


def gather_examples(parts: PartFolder, target: str) -> None:
    """Put all examples into one Arrow file, in the order of their keys, whatever the splits."""
    table = pa.concat_tables(read_part(path) for path in parts.parts())
    keys = [("key", "ascending"), ("doc_id", "ascending")]
    write_arrow(target, table.take(pc.sort_indices(table, sort_keys=keys)).combine_chunks())
