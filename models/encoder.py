"""Documents to embeddings: windows, batches, forward passes, and the answer in input order.

The embedding of a document is the mean of its windows' pooled vectors, each weighted by its
tokens (with mean pooling: the mean over every token of every window), divided by its L2 norm.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.classifier import Label, Labeller
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder_backend import check_capacity, check_encoder_config
from lexbeam.models.encoder_batches import pad_batch, plan_batches
from lexbeam.models.encoder_output import EncodedDocument, encoded_batch
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.encoder_stats import EncoderStats, Watch
from lexbeam.models.encoder_windows import TextTokenizer, TokenizedText, Window, all_windows
from lexbeam.models.failures import error_text, is_processing_error

__all__ = ["Encoder", "EncoderStats", "cached_encoder", "num_encoder_loads", "prepare_encoder"]

# Texts are tokenized in pieces of this many characters: the tokenizer's own records of a token
# take a hundred times its memory here.
TOKENIZE_CHARACTERS = 500_000

Float32Array = npt.NDArray[np.float32]
Item = TypeVar("Item")
Result = TypeVar("Result")

_logger = logging.getLogger(__name__)


class Forward(Protocol):
    """A backend: one padded batch to pooled vectors and received attention.

    Attributes:
        num_slots: batches that may be in the model at the same time, each on its own thread.
        pads: whether it works on the padding of a batch, too.
    """

    num_slots: int
    pads: bool

    def __call__(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]
    ) -> tuple[Float32Array, Float32Array]:
        """(n, length) ids and mask to (n, d) and (n, length)."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether the error says that the batch did not fit."""


class Encoder:
    """A model that is loaded once and encodes documents; safe to call from several threads.

    A call tokenizes its texts while the batches of another are in the model: two calls at a
    time keep it busy.

    Args:
        spec: the model, as `catalogue.resolve_model` describes it.
        config: as `encoder_backend.resolve_backend` returns it, without `auto`.
        num_threads: of the forward passes, and of the tokenizer.

    Raises:
        ConfigError: if the configuration does not fit the model.
        ModelError: if the model cannot be loaded.
        ValueError: if the configuration still holds `auto`.
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
        self._tokenizer = TextTokenizer(spec)
        check_capacity(spec, config, self._tokenizer.capacity(config.max_seq_length))
        self._budget = config.max_batch_tokens or config.max_seq_length
        self._labeller = Labeller(spec) if spec.labels else None
        self._forward = _load_forward(spec, config, num_threads)
        self._slots = threading.BoundedSemaphore(self._forward.num_slots)
        # One thread more than slots: it pads the next batch while the others are in the model.
        self._pool = ThreadPoolExecutor(self._forward.num_slots + 1, "encoder")
        self._stats = EncoderStats(num_slots=self._forward.num_slots)
        self._stats_lock = threading.Lock()
        self._watch = Watch()
        _logger.info("%s", self.description())

    def description(self) -> str:
        """A line for people: the model, where it runs, and on how many threads."""
        config, forward = self.config, self._forward
        return (
            f"encoder {self.spec.name}: {config.backend} {config.dtype} on {config.device}, "
            f"{self.num_threads} threads, {forward.num_slots} batches of up to "
            f"{self._budget} tokens at a time, {'padded' if forward.pads else 'unpadded'}"
        )

    @property
    def stats(self) -> EncoderStats:
        """Counts and times since the start; a copy."""
        with self._stats_lock:
            return replace(self._stats, seconds=self._watch.seconds)

    def encode(self, contents: Sequence[str | None]) -> pa.RecordBatch:
        """Encode documents; one row each, in order, by `schemas.encoded_schema`.

        None gives a row of nulls. A text that the tokenizer or the model cannot process gives
        a row with error_type and error_message; its neighbours are not affected. Raises what
        the model raises where even an empty text fails, or one window does not fit in memory.
        """
        return self.encode_counted(contents)[0]

    def encode_counted(self, contents: Sequence[str | None]) -> tuple[pa.RecordBatch, EncoderStats]:
        """As `encode`, with the counts and times of this call."""
        with self._watch.running():
            stats = EncoderStats(num_slots=self._forward.num_slots)
            started = time.perf_counter()
            texts = {row: text for row, text in enumerate(contents) if text is not None}
            errors: dict[int, str] = {}
            tokens = self._tokenize(texts, errors)
            windows = all_windows(
                texts,
                tokens,
                self._tokenizer,
                self.config.max_seq_length,
                first_only=self.config.long_documents == "truncate",
            )
            stats.tokenize_seconds = time.perf_counter() - started
            results = self._run(windows, errors, stats)
            documents = self._gather(texts, tokens, windows, results, errors)
            stats.documents = len(texts)
            stats.seconds = time.perf_counter() - started
            rows = [documents.get(row) for row in range(len(contents))]
            batch = encoded_batch(rows, self.spec.dimensions, labels=bool(self.spec.labels))
        with self._stats_lock:
            self._stats.add(stats)
        return batch, stats

    def _tokenize(self, texts: dict[int, str], errors: dict[int, str]) -> dict[int, TokenizedText]:
        def tokenize(rows: list[int]) -> list[TokenizedText]:
            return self._tokenizer.tokenize([texts[row] for row in rows])

        def fail(row: int, error: BaseException) -> None:
            errors[row] = error_text(error)

        tokens: dict[int, TokenizedText] = {}
        for rows in _pieces(texts):
            tokens |= run_bisecting(rows, tokenize, fail)
        return tokens

    def _run(
        self, windows: list[Window], errors: dict[int, str], stats: EncoderStats
    ) -> dict[int, tuple[Float32Array, Float32Array]]:
        """Pooled vector and received attention of each window, by its index."""

        def forward(indices: list[int]) -> list[tuple[Float32Array, Float32Array]]:
            return self._forward_batch([windows[index] for index in indices], stats)

        def fail(index: int, error: BaseException) -> None:
            if self._forward.is_out_of_memory(error) or not self._is_sound():
                raise error
            errors[windows[index].document] = error_text(error)

        def run(batch: list[int]) -> dict[int, tuple[Float32Array, Float32Array]]:
            return run_bisecting(batch, forward, fail)

        lengths = np.array([len(window.ids) for window in windows], dtype=np.int64)
        batches = [batch.tolist() for batch in plan_batches(lengths, self._budget)]
        results: dict[int, tuple[Float32Array, Float32Array]] = {}
        # `map` cancels what has not begun when a batch raises.
        for result in self._pool.map(run, batches):
            results |= result
        return results

    def _forward_batch(
        self, windows: list[Window], stats: EncoderStats
    ) -> list[tuple[Float32Array, Float32Array]]:
        ids, mask = pad_batch([window.ids for window in windows], self._tokenizer.pad_id)
        real = int(mask.sum())
        with self._slots:
            started = time.perf_counter()
            pooled, received = self._forward(ids, mask)
            seconds = time.perf_counter() - started
        with self._stats_lock:
            stats.windows += len(windows)
            stats.real_tokens += real
            stats.padded_tokens += mask.size if self._forward.pads else real
            stats.model_seconds += seconds
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
            with self._slots:
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
                weights = np.array([len(w.ids) for w in own])
                # Of a classifier the first token's states stand behind.
                embedding = combine_windows(vectors[:, : self.spec.dimensions], weights)
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
                label=self._label(vectors, weights),
            )
        return documents

    def _label(self, vectors: Float32Array, weights: npt.NDArray[np.integer]) -> Label | None:
        if self._labeller is None:
            return None
        return self._labeller.label(vectors[:, -self.spec.dimensions :], weights)


def _pieces(texts: dict[int, str]) -> Iterator[list[int]]:
    """Rows in order, in pieces of about TOKENIZE_CHARACTERS."""
    piece: list[int] = []
    characters = 0
    for row, text in texts.items():
        piece.append(row)
        characters += len(text)
        if characters >= TOKENIZE_CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


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
        from lexbeam.models.encoder_openvino import ensure_graph

        ensure_graph(spec, config)


def import_backend(spec: ModelSpec, config: EncoderConfig) -> None:
    """Import what loading the model takes, which is most of its time; loads nothing."""
    if config.backend == "openvino":
        import lexbeam.models.encoder_openvino
    else:
        import lexbeam.models.encoder_torch  # noqa: F401

        family = spec.model_type.replace("-", "_")
        importlib.import_module(f"transformers.models.{family}.modeling_{family}")


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
