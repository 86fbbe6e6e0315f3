"""What an encoder has done: counts that follow from the documents, and times."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class EncoderStats:
    """Counts and times of one call, or of all calls of an encoder.

    Attributes:
        documents: texts that were given.
        windows: windows that went through the model.
        real_tokens: their tokens, special tokens and prefix included.
        padded_tokens: tokens that the model worked on, padding included.
        tokenize_seconds: spent on tokens and windows.
        model_seconds: spent in the model, summed over the batches.
        seconds: from the first text to the last embedding; calls that overlap count once.
        num_slots: batches that the model can work on at the same time.
    """

    documents: int = 0
    windows: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    tokenize_seconds: float = 0.0
    model_seconds: float = 0.0
    seconds: float = 0.0
    num_slots: int = 1

    @property
    def padding_ratio(self) -> float:
        """(real + padding) / real tokens; 1.0 before the first batch."""
        return self.padded_tokens / self.real_tokens if self.real_tokens else 1.0

    @property
    def wait_share(self) -> float:
        """Share of the time in which the model had nothing to do; 0.0 before the first batch."""
        available = self.num_slots * self.seconds
        return max(0.0, 1.0 - self.model_seconds / available) if available else 0.0

    def add(self, other: EncoderStats) -> None:
        """Add the counts and summed times of a call; `seconds`, which may overlap, stays."""
        self.documents += other.documents
        self.windows += other.windows
        self.real_tokens += other.real_tokens
        self.padded_tokens += other.padded_tokens
        self.tokenize_seconds += other.tokenize_seconds
        self.model_seconds += other.model_seconds

    def counts(self) -> dict[str, int]:
        """What follows from the documents alone; times would make files differ."""
        names = ("windows", "real_tokens", "padded_tokens")
        return {name: getattr(self, name) for name in names}


class Watch:
    """Wall time during which at least one call runs; for calls of several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._started = 0.0
        self._seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time of the block."""
        with self._lock:
            if self._running == 0:
                self._started = time.perf_counter()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._seconds += time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        """The time so far."""
        with self._lock:
            now = time.perf_counter() - self._started if self._running else 0.0
            return self._seconds + now
