"""Documents to embeddings: windows, batches, forward passes, and the answer in input order.

The embedding of a document is the mean of its windows' pooled vectors, each weighted by its
tokens (with mean pooling: the mean over every token of every window), divided by its L2 norm.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder_backend import check_capacity, check_encoder_config
from lexbeam.models.encoder_batches import pad_batch, plan_batches
from lexbeam.models.encoder_output import EncodedDocument, encoded_batch
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.encoder_windows import TextTokenizer, TokenizedText, Window, make_windows
from lexbeam.models.failures import error_text, is_processing_error

__all__ = ["Encoder", "EncoderStats", "cached_encoder", "num_encoder_loads", "prepare_encoder"]

Float32Array = npt.NDArray[np.float32]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Forward(Protocol):
    """A backend: one padded batch to pooled vectors and received attention."""

    def __call__(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]
    ) -> tuple[Float32Array, Float32Array]:
        """(n, length) ids and mask to (n, d) and (n, length)."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether the error says that the batch did not fit."""


@dataclass
class EncoderStats:
    """What an encoder has done so far.

    Attributes:
        documents: texts it was given.
        windows: windows that went through the model.
        real_tokens: their tokens, special tokens and prefix included.
        padded_tokens: tokens of the batches, padding included.
        tokenize_seconds: spent on tokens and windows.
        forward_seconds: spent in the model.
        seconds: spent in all.
    """

    documents: int = 0
    windows: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    tokenize_seconds: float = 0.0
    forward_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def padding_ratio(self) -> float:
        """(real + padding) / real tokens; 1.0 before the first batch."""
        return self.padded_tokens / self.real_tokens if self.real_tokens else 1.0


class Encoder:
    """A model that is loaded once and encodes documents; safe to call from several threads.

    Args:
        spec: the model, as `catalogue.resolve_model` describes it.
        config: as `encoder_backend.resolve_backend` returns it, without `auto`.
        num_threads: of the forward pass.

    Raises:
        ConfigError: if the configuration does not fit the model.
        ModelError: if the model cannot be loaded.
        ValueError: if the configuration still holds `auto`.

    Attributes:
        stats: counts and times since the start.
    """

    def __init__(self, spec: ModelSpec, config: EncoderConfig, num_threads: int = 1) -> None:
        if "auto" in (config.backend, config.dtype, config.device, config.pooling):
            raise ValueError("the encoder needs a resolved configuration; see resolve_backend")
        check_encoder_config(spec, config)
        # Read by the tokenizer's thread pool when it starts, hence before its first use.
        os.environ.setdefault("RAYON_NUM_THREADS", str(num_threads))
        self.spec = spec
        self.config = config
        self.num_threads = num_threads
        self.stats = EncoderStats()
        self._lock = threading.Lock()
        self._tokenizer = TextTokenizer(spec)
        check_capacity(spec, config, self._tokenizer.capacity(config.max_seq_length))
        self._budget = config.max_batch_tokens or config.max_seq_length
        self._forward = _load_forward(spec, config, num_threads)

    def encode(self, contents: Sequence[str | None]) -> pa.RecordBatch:
        """Encode documents; one row each, in order, by `schemas.encoded_schema`.

        None gives a row of nulls. A text that the tokenizer or the model cannot process gives
        a row with error_type and error_message; its neighbours are not affected. Raises what
        the model raises where even an empty text fails, or one window does not fit in memory.
        """
        with self._lock:
            started = time.perf_counter()
            texts = {row: text for row, text in enumerate(contents) if text is not None}
            errors: dict[int, str] = {}
            tokens = self._tokenize(texts, errors)
            windows = self._cut(texts, tokens)
            self.stats.tokenize_seconds += time.perf_counter() - started
            results = self._run(windows, errors)
            documents = self._gather(texts, tokens, windows, results, errors)
            self.stats.documents += len(texts)
            self.stats.seconds += time.perf_counter() - started
        rows = [documents.get(row) for row in range(len(contents))]
        return encoded_batch(rows, self.spec.dimensions)

    def _tokenize(self, texts: dict[int, str], errors: dict[int, str]) -> dict[int, TokenizedText]:
        def tokenize(rows: list[int]) -> list[TokenizedText]:
            return self._tokenizer.tokenize([texts[row] for row in rows])

        def fail(row: int, error: BaseException) -> None:
            errors[row] = error_text(error)

        return run_bisecting(list(texts), tokenize, fail)

    def _cut(self, texts: dict[int, str], tokens: dict[int, TokenizedText]) -> list[Window]:
        """Windows of all documents, in order."""
        length = self.config.max_seq_length
        first_only = self.config.long_documents == "truncate"
        windows: list[Window] = []
        for row in sorted(tokens):
            windows += make_windows(
                row, texts[row], tokens[row], self._tokenizer, length, first_only=first_only
            )
        return windows

    def _run(
        self, windows: list[Window], errors: dict[int, str]
    ) -> dict[int, tuple[Float32Array, Float32Array]]:
        """Pooled vector and received attention of each window, by its index."""

        def forward(indices: list[int]) -> list[tuple[Float32Array, Float32Array]]:
            return self._forward_batch([windows[index] for index in indices])

        def fail(index: int, error: BaseException) -> None:
            if self._forward.is_out_of_memory(error) or not self._is_sound():
                raise error
            errors[windows[index].document] = error_text(error)

        lengths = np.array([len(window.ids) for window in windows], dtype=np.int64)
        results: dict[int, tuple[Float32Array, Float32Array]] = {}
        for batch in plan_batches(lengths, self._budget):
            results |= run_bisecting(batch.tolist(), forward, fail)
        return results

    def _forward_batch(self, windows: list[Window]) -> list[tuple[Float32Array, Float32Array]]:
        started = time.perf_counter()
        ids, mask = pad_batch([window.ids for window in windows], self._tokenizer.pad_id)
        pooled, received = self._forward(ids, mask)
        stats = self.stats
        stats.windows += len(windows)
        stats.real_tokens += int(mask.sum())
        stats.padded_tokens += mask.size
        stats.forward_seconds += time.perf_counter() - started
        slices = [
            received[row, window.lead : window.lead + len(window.starts)]
            for row, window in enumerate(windows)
        ]
        return list(zip(pooled, slices, strict=True))

    def _is_sound(self) -> bool:
        """Whether the model still encodes an empty text: then a failure was the text's."""
        ids = np.concatenate([self._tokenizer.opening, self._tokenizer.closing])
        batch = pad_batch([ids], self._tokenizer.pad_id)
        try:
            pooled, _ = self._forward(*batch)
        except Exception:  # whatever it is, the caller raises the error that came first
            return False
        return bool(np.isfinite(pooled).all())

    def _gather(
        self,
        texts: dict[int, str],
        tokens: dict[int, TokenizedText],
        windows: list[Window],
        results: dict[int, tuple[Float32Array, Float32Array]],
        errors: dict[int, str],
    ) -> dict[int, EncodedDocument]:
        """Put the windows of each document together."""
        parts: dict[int, list[int]] = {row: [] for row in texts}
        for index, window in enumerate(windows):
            parts[window.document].append(index)
        documents = {}
        for row, indices in parts.items():
            if row not in errors:
                own = [windows[index] for index in indices]
                vectors = np.stack([results[index][0] for index in indices])
                embedding = combine_windows(vectors, np.array([len(w.ids) for w in own]))
                if embedding is None:
                    errors[row] = "the embedding is not finite"
            if row in errors:
                documents[row] = EncodedDocument(error_message=errors[row])
                continue
            documents[row] = EncodedDocument(
                embedding=embedding,
                num_tokens=len(tokens[row].ids),
                num_chunks=len(own),
                truncated=sum(len(w.starts) for w in own) < len(tokens[row].ids),
                starts=np.concatenate([w.starts for w in own]),
                ends=np.concatenate([w.ends for w in own]),
                attention=np.concatenate([results[index][1] for index in indices]),
            )
        return documents


def combine_windows(vectors: Float32Array, weights: npt.NDArray[np.integer]) -> Float32Array | None:
    """Weighted mean of windows, L2-normalised; (w, d) and (w,) to (d,) float32.

    None if it is not finite or has no direction.
    """
    total = (vectors.astype(np.float64) * weights[:, None]).sum(axis=0)
    norm = float(np.linalg.norm(total))
    if not np.isfinite(norm) or norm == 0.0:
        return None
    embedding: Float32Array = (total / norm).astype(np.float32)
    return embedding


def run_bisecting(
    items: list[Item],
    run: Callable[[list[Item]], list[Result]],
    fail: Callable[[Item, BaseException], None],
) -> dict[Item, Result]:
    """Results of `run` by item; a batch that raises is halved down to the failing items.

    `fail` gets each of those with its error, and may raise.
    """
    if not items:
        return {}
    try:
        return dict(zip(items, run(items), strict=True))
    except BaseException as error:
        if not is_processing_error(error):
            raise
        if len(items) == 1:
            fail(items[0], error)
            return {}
    middle = len(items) // 2
    left = run_bisecting(items[:middle], run, fail)
    return left | run_bisecting(items[middle:], run, fail)


def _load_forward(spec: ModelSpec, config: EncoderConfig, num_threads: int) -> Forward:
    if config.backend == "openvino":
        from lexbeam.models.encoder_openvino import OpenvinoForward

        return OpenvinoForward(spec, config, num_threads)
    from lexbeam.models.encoder_torch import TorchForward

    return TorchForward(spec, config, num_threads)


def prepare_encoder(spec: ModelSpec, config: EncoderConfig) -> None:
    """Do once, before any worker starts, what loading would do: convert the model.

    config: resolved. Raises ModelError if the model cannot be converted.
    """
    if config.backend == "openvino":
        from lexbeam.models.encoder_openvino import ensure_converted

        ensure_converted(spec, config.pooling)


_encoders: dict[tuple[ModelSpec, EncoderConfig, int], Encoder] = {}
_encoders_lock = threading.Lock()
_num_loads = 0


def cached_encoder(spec: ModelSpec, config: EncoderConfig, num_threads: int = 1) -> Encoder:
    """The process's one encoder of that model and configuration; loaded at the first call."""
    global _num_loads
    key = (spec, config, num_threads)
    with _encoders_lock:
        if key not in _encoders:
            _encoders[key] = Encoder(spec, config, num_threads)
            _num_loads += 1
        return _encoders[key]


def num_encoder_loads() -> int:
    """How often `cached_encoder` has loaded a model in this process."""
    return _num_loads
