"""Encoded documents as an Arrow record batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models import schemas
from lexbeam.models.classifier import Label

ENCODE_FAILED = "encode-failed"


def _no_integers() -> npt.NDArray[np.int32]:
    return np.empty(0, dtype=np.int32)


def _no_floats() -> npt.NDArray[np.float32]:
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class EncodedDocument:
    """The encoder's answer for one document, or why there is none.

    Attributes:
        embedding: (d,) of L2 norm 1, or None where error_message says why.
        num_tokens: model tokens of the content, overlap counted once, encoded or not.
        num_chunks: windows that were encoded.
        truncated: whether some token was in no window.
        starts: (t,) offsets of the content tokens of every window, in code points.
        ends: (t,) their ends, exclusive.
        attention: (t,) attention that each received in the last layer.
        label: the class, where the model tells it.
        error_message: None for a document that was encoded.
    """

    embedding: npt.NDArray[np.float32] | None = None
    num_tokens: int = 0
    num_chunks: int = 0
    truncated: bool = False
    starts: npt.NDArray[np.int32] = field(default_factory=_no_integers)
    ends: npt.NDArray[np.int32] = field(default_factory=_no_integers)
    attention: npt.NDArray[np.float32] = field(default_factory=_no_floats)
    label: Label | None = None
    error_message: str | None = None


def encoded_batch(
    rows: Sequence[EncodedDocument | None], dimensions: int, *, labels: bool = False
) -> pa.RecordBatch:
    """Rows by `schemas.encoded_schema`; None gives a row of nulls."""
    done = [row if row is not None and row.embedding is not None else None for row in rows]
    missing = np.array([row is None for row in done], dtype=bool)
    messages = [None if row is None else row.error_message for row in rows]
    columns = {
        "embedding": _embeddings(done, missing, dimensions),
        "num_tokens": pa.array([row and row.num_tokens for row in done], pa.int32()),
        "num_chunks": pa.array([row and row.num_chunks for row in done], pa.int32()),
        "truncated": pa.array([row and row.truncated for row in done], pa.bool_()),
        "attention_starts": _lists(
            [None if row is None else row.starts for row in done], missing, pa.int32()
        ),
        "attention_ends": _lists(
            [None if row is None else row.ends for row in done], missing, pa.int32()
        ),
        "attention": _lists(
            [None if row is None else row.attention for row in done], missing, pa.float32()
        ),
        "error_type": pa.array([m and ENCODE_FAILED for m in messages], pa.string()),
        "error_message": pa.array(messages, pa.string()),
    }
    if labels:
        found = [row and row.label for row in done]
        columns["predicted_label"] = pa.array([each and each.name for each in found], pa.string())
        columns["predicted_label_score"] = pa.array(
            [each and each.score for each in found], pa.float32()
        )
    schema = schemas.encoded_schema(dimensions, labels=labels)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _embeddings(
    rows: Sequence[EncodedDocument | None], missing: npt.NDArray[np.bool_], dimensions: int
) -> pa.Array:
    values = np.zeros((len(rows), dimensions), dtype=np.float32)
    for row, document in enumerate(rows):
        if document is not None and document.embedding is not None:
            values[row] = document.embedding
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), dimensions, mask=pa.array(missing)
    )


def _lists(
    arrays: Sequence[npt.NDArray[np.generic] | None],
    missing: npt.NDArray[np.bool_],
    value_type: pa.DataType,
) -> pa.Array:
    lengths = [0 if array is None else len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    present = [array for array in arrays if array is not None]
    values = pa.array(np.concatenate(present), value_type) if present else pa.array([], value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(missing))
