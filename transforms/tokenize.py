"""The tokenize stage: language, tokens and hashes of every document, segmented once for all."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.models import schemas
from lexbeam.models.config import TextConfig
from lexbeam.models.failures import error_text
from lexbeam.models.language import detect_languages
from lexbeam.models.tokens import Tokenizer
from lexbeam.models.utf8 import text_bytes
from lexbeam.transforms import blocks, host_cache, readers, splits
from lexbeam.transforms.bisect import process_bisecting
from lexbeam.transforms.block_size import BLOCK_ROWS
from lexbeam.transforms.died import PROCESS_DIED, DiedRow, DiedRows
from lexbeam.transforms.earlier_rows import EarlierRows, fill_in, without
from lexbeam.transforms.map_blocks import MapBlocksDoFn

TOKENIZE_FAILED = "tokenize-failed"
# Statistic of a part: documents that an earlier run has worked on.
REUSED = "reused"


@dataclass(frozen=True)
class SplitSource:
    """The documents of the input's splits.

    Attributes:
        plan_path: the plan (JSON), which lists sources and splits.
        keep_columns: extra columns of the input to carry along.
        block_rows: documents a block, at most.
        died: documents that made a process die: they are rejected.
    """

    plan_path: str
    keep_columns: tuple[str, ...] = ()
    block_rows: int = BLOCK_ROWS
    died: DiedRows | None = None

    @property
    def schema(self) -> pa.Schema:
        """Schema of the blocks."""
        return schemas.read_schema(self.keep_columns)

    def batches(self, split: int) -> Iterator[pa.RecordBatch]:
        """The split's documents; raises SourceChanged where a file is not as it was planned."""
        layout = splits.load_layout(self.plan_path)
        for source in layout.sources_of(split):
            splits.check_unchanged(source)
        batches = readers.read_split(
            layout.splits[split], layout.sources, layout.config, block_rows=self.block_rows
        )
        died = self.died.of_split(split) if self.died else {}
        return rejecting(batches, died) if died else batches


def rejecting(
    batches: Iterable[pa.RecordBatch], died: Mapping[int, DiedRow]
) -> Iterator[pa.RecordBatch]:
    """The blocks of a split, of which the documents that made a process die are rejected."""
    first_row = 0
    for batch in batches:
        rows = range(first_row, first_row + batch.num_rows)
        first_row = rows.stop
        if not any(row in died for row in rows):
            yield batch
            continue
        documents = batch.to_pylist()
        for row, document in zip(rows, documents, strict=True):
            if row in died and document["error_type"] is None:
                reason = {"error_type": PROCESS_DIED, "error_message": died[row].message}
                document |= reason | {"content": None}
        yield pa.RecordBatch.from_pylist(documents, schema=batch.schema)


def id_hash(doc_id: str) -> bytes:
    """128-bit hash of a document's id, equal in every process."""
    return hashlib.blake2b(doc_id.encode(), digest_size=16).digest()


def text_hashes(contents: pa.StringArray) -> pa.StringArray:
    """Hexadecimal SHA-256 of the UTF-8 bytes of each content, null where it is."""
    data, offsets = text_bytes(contents)
    view, stops = data.data, offsets.tolist()
    spans = zip(contents.is_valid().to_pylist(), stops, stops[1:], strict=False)
    return pa.array(
        [
            hashlib.sha256(view[start:end]).hexdigest() if is_text else None
            for is_text, start, end in spans
        ],
        pa.string(),
    )


# What a text alone decides: such columns can be taken from an earlier run.
TEXT_COLUMNS = ("language", "tokens", "kinds", "starts", "ends")

Tokenized = tuple[pa.RecordBatch, int]
"""A block with its tokens, and how many documents have them from an earlier run."""


class TokenizeDoFn(MapBlocksDoFn[Tokenized]):
    """Adds schemas.TOKEN_FIELDS to blocks of read documents.

    The last block carries the statistic `reused`, where there is an earlier run.
    """

    def __init__(
        self, config: TextConfig, schema: pa.Schema, earlier: EarlierRows | None = None
    ) -> None:
        self._config = config
        self._schema = schema
        self._earlier = earlier
        self._tokenizer: Tokenizer | None = None
        self._num_reused: Counter[int] = Counter()
        self._documents = Metrics.counter("TokenizeDocuments", "documents-in")
        self._rejected = Metrics.counter("TokenizeDocuments", "documents-rejected")

    def setup(self) -> None:
        super().setup()
        self._tokenizer = Tokenizer(host_cache.text_on_host(self._config))

    def start_bundle(self) -> None:
        super().start_bundle()
        self._num_reused.clear()

    def compute(self, block: pa.RecordBatch) -> Tokenized:
        pieces = process_bisecting(block, self._with_tokens, self._reject)
        return blocks.joined([piece for piece, _ in pieces]), sum(reused for _, reused in pieces)

    def emit(self, result: Tokenized, split: int) -> Iterable[pa.RecordBatch]:
        block, num_reused = result
        self._num_reused[split] += num_reused
        self._documents.inc(block.num_rows)
        self._rejected.inc(block.num_rows - block["error_type"].null_count)
        return [blocks.of_split(block, split)]

    def emit_last(self, split: int) -> Iterable[pa.RecordBatch]:
        num_reused = self._num_reused.pop(split, 0)
        statistics = {REUSED: num_reused} if num_reused else None
        return [blocks.last_block(self._schema, split, statistics)]

    def _with_tokens(self, block: pa.RecordBatch) -> Tokenized:
        by_name = dict(zip(block.schema.names, block.columns, strict=True))
        columns, num_reused = self._token_columns(block["content"], block["doc_id"])
        by_name |= columns
        arrays = [by_name[name] for name in self._schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema), num_reused

    def _reject(self, document: pa.RecordBatch, error: BaseException) -> Tokenized:
        row = document.to_pylist()[0] | {
            "content": None,
            "error_type": TOKENIZE_FAILED,
            "error_message": error_text(error),
        }
        return self._with_tokens(pa.RecordBatch.from_pylist([row], schema=document.schema))

    def _token_columns(
        self, contents: pa.StringArray, doc_ids: pa.StringArray
    ) -> tuple[dict[str, pa.Array], int]:
        """The columns, and how many rows of them are an earlier run's."""
        ids = zip(contents.is_valid().to_pylist(), doc_ids.to_pylist(), strict=True)
        hashes = [id_hash(doc_id or "") if is_document else None for is_document, doc_id in ids]
        columns = {
            "id_hash": pa.array(hashes, pa.binary(16)),
            "text_sha256": text_hashes(contents),
            "num_chars": pc.utf8_length(contents),
        }
        if self._earlier is None:
            return columns | self._text_columns(contents), 0
        found, rows = self._earlier.find(columns["text_sha256"])
        computed = self._text_columns(without(contents, found))
        filled = {name: fill_in(computed[name], found, rows[name]) for name in TEXT_COLUMNS}
        return columns | filled, rows.num_rows

    def _text_columns(self, contents: pa.StringArray) -> dict[str, pa.Array]:
        """TEXT_COLUMNS, computed."""
        assert self._tokenizer is not None
        forced = None if self._config.language == "auto" else self._config.language
        if forced:
            languages = pc.if_else(contents.is_valid(), forced, pa.scalar(None, pa.string()))
        else:
            languages = pa.array(detect_languages(contents), pa.string())
        tokenized = self._tokenizer.tokenize(contents, languages)
        columns = dict(zip(tokenized.schema.names, tokenized.columns, strict=True))
        return {"language": languages, **columns}


class TokenizeDocuments(beam.PTransform):  # type: ignore[misc]
    """Blocks of read documents to blocks of schemas.tokens_schema.

    Args:
        config: how text becomes tokens.
        keep_columns: extra columns of the input.
        earlier: TEXT_COLUMNS of an earlier run with the same tokenizer.
    """

    def __init__(
        self,
        config: TextConfig,
        keep_columns: tuple[str, ...] = (),
        earlier: EarlierRows | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self._schema = schemas.tokens_schema(keep_columns)
        self._earlier = earlier

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        tokenize = TokenizeDoFn(self._config, self._schema, self._earlier)
        return blocks_in | "Tokenize" >> beam.ParDo(tokenize).with_output_types(pa.RecordBatch)
