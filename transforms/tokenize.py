"""The tokenize stage: language, tokens and hashes of every document, segmented once for all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from lexbeam.models import schemas
from lexbeam.models.config import TextConfig
from lexbeam.models.failures import error_text
from lexbeam.models.language import detect_language
from lexbeam.models.tokens import Tokenizer
from lexbeam.transforms import blocks, readers, splits
from lexbeam.transforms.bisect import process_bisecting

TOKENIZE_FAILED = "tokenize-failed"
_TEXT_FIELDS = schemas.TOKEN_FIELDS[:4]


@dataclass(frozen=True)
class SplitSource:
    """The documents of the input's splits.

    Attributes:
        plan_path: the plan (JSON), which lists sources and splits.
        keep_columns: extra columns of the input to carry along.
        block_rows: documents a block, at most.
    """

    plan_path: str
    keep_columns: tuple[str, ...] = ()
    block_rows: int = 256

    @property
    def schema(self) -> pa.Schema:
        """Schema of the blocks."""
        return schemas.read_schema(self.keep_columns)

    def batches(self, split: int) -> Iterator[pa.RecordBatch]:
        """The split's documents; raises SourceChanged where a file is not as it was planned."""
        layout = splits.load_layout(self.plan_path)
        for source in layout.sources_of(split):
            splits.check_unchanged(source)
        return readers.read_split(
            layout.splits[split], layout.sources, layout.config, block_rows=self.block_rows
        )


def id_hash(doc_id: str) -> bytes:
    """128-bit hash of a document's id, equal in every process."""
    return hashlib.blake2b(doc_id.encode(), digest_size=16).digest()


def text_sha256(content: str) -> str:
    """Hexadecimal SHA-256 of the content's UTF-8 bytes."""
    return hashlib.sha256(content.encode()).hexdigest()


class TokenizeDoFn(beam.DoFn):  # type: ignore[misc]
    """Adds schemas.TOKEN_FIELDS to blocks of read documents."""

    def __init__(self, config: TextConfig, schema: pa.Schema) -> None:
        self._config = config
        self._schema = schema
        self._tokenizer: Tokenizer | None = None
        self._documents = Metrics.counter("TokenizeDocuments", "documents-in")
        self._rejected = Metrics.counter("TokenizeDocuments", "documents-rejected")

    def setup(self) -> None:
        self._tokenizer = Tokenizer(self._config)

    def process(self, block: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        split = blocks.split_of(block)
        if blocks.is_last(block):
            yield blocks.last_block(self._schema, split)
            return
        tokenized = self._tokenize(block)
        self._documents.inc(block.num_rows)
        self._rejected.inc(block.num_rows - tokenized["error_type"].null_count)
        yield blocks.of_split(tokenized, split)

    def _tokenize(self, block: pa.RecordBatch) -> pa.RecordBatch:
        return pa.concat_batches(process_bisecting(block, self._with_tokens, self._reject))

    def _with_tokens(self, block: pa.RecordBatch) -> pa.RecordBatch:
        contents, doc_ids = block["content"].to_pylist(), block["doc_id"].to_pylist()
        by_name = dict(zip(block.schema.names, block.columns, strict=True))
        by_name |= self._token_columns(contents, doc_ids)
        return pa.RecordBatch.from_arrays(
            [by_name[name] for name in self._schema.names], schema=self._schema
        )

    def _reject(self, document: pa.RecordBatch, error: BaseException) -> pa.RecordBatch:
        row = document.to_pylist()[0] | {
            "content": None,
            "error_type": TOKENIZE_FAILED,
            "error_message": error_text(error),
        }
        return self._with_tokens(pa.RecordBatch.from_pylist([row], schema=document.schema))

    def _token_columns(
        self, contents: Sequence[str | None], doc_ids: Sequence[str | None]
    ) -> dict[str, pa.Array]:
        assert self._tokenizer is not None
        forced = None if self._config.language == "auto" else self._config.language
        languages = [
            None if content is None else forced or detect_language(content) for content in contents
        ]
        tokenized = self._tokenizer.tokenize(contents, languages)
        values: list[list[Any]] = [
            [
                None if c is None else id_hash(d or "")
                for c, d in zip(contents, doc_ids, strict=True)
            ],
            languages,
            [None if content is None else text_sha256(content) for content in contents],
            [None if content is None else len(content) for content in contents],
        ]
        columns = {
            field.name: pa.array(column, field.type)
            for field, column in zip(_TEXT_FIELDS, values, strict=True)
        }
        return columns | dict(zip(tokenized.schema.names, tokenized.columns, strict=True))


class TokenizeDocuments(beam.PTransform):  # type: ignore[misc]
    """Blocks of read documents to blocks of schemas.tokens_schema."""

    def __init__(self, config: TextConfig, keep_columns: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._config = config
        self._schema = schemas.tokens_schema(keep_columns)

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        tokenize = TokenizeDoFn(self._config, self._schema)
        return blocks_in | "Tokenize" >> beam.ParDo(tokenize).with_output_types(pa.RecordBatch)
