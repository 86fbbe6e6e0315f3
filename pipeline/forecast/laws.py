"""From measured samples to a job of any size: what grows how, and what it comes to.

A stage's time is the sum of a fixed part, of one that is proportional to what it works on, and of
one that is proportional to the distinct terms (what is new to a process takes longer), fitted to
the samples. What is not fixed is shared by the workers as far as there are units of work. Distinct
terms grow as a power of the number of documents (Heaps 1978).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lexbeam.transforms.count import NUM_PARTITIONS as COUNT_PARTITIONS
from lexbeam.transforms.duplicates import NUM_PARTITIONS as ID_PARTITIONS
from lexbeam.transforms.duplicates import PLACES
from lexbeam.transforms.fit import MOST_PHRASES
from lexbeam.transforms.text_index import NUM_PARTITIONS as INDEX_PARTITIONS

# Of what a partition of places takes while it is sorted: the pieces, their concatenation, the
# sorted copy, and the order.
_COPIES_OF_PLACES = 3.4
# A row of counts as it is held: the term, and three numbers.
_BYTES_PER_COUNT = 80
_BYTES_PER_WEIGHT = 8  # of the LDA's sums
_MOST_DISTINCT = 0.8


@dataclass(frozen=True)
class Cost:
    """fixed + slope x + distinct u, in seconds or bytes."""

    fixed: float
    slope: float
    distinct: float = 0.0

    @classmethod
    def fitted(cls, points: Sequence[tuple[float, float, float]]) -> Cost:
        """The least relative errors at points (x, u, value), the largest last; no part is negative.

        Of what is not fixed four fifths at most go to what is distinct: small samples hardly tell
        the two apart, and a law without the other part would come to nothing far away.
        """
        import numpy as np
        from scipy.optimize import nnls

        values = np.array([max(value, 1e-9) for _, _, value in points])
        parts = np.array([[1.0, x, u] for x, u, _ in points]) / values[:, None]
        # Of quantities that differ by orders of magnitude.
        scales = np.maximum(np.abs(parts).max(axis=0), 1e-300)
        solution, _ = nnls(parts / scales, np.ones(len(points)))
        fixed, slope, distinct = (solution / scales).tolist()
        x, u, _ = points[-1]
        excess = distinct * u - _MOST_DISTINCT * (slope * x + distinct * u)
        if excess > 0:
            slope, distinct = slope + excess / x, distinct - excess / u
        return cls(fixed, slope, distinct)

    def work(self, x: float, u: float) -> float:
        """What is not fixed."""
        return self.slope * x + self.distinct * u


@dataclass(frozen=True)
class Power:
    """factor x^exponent, the exponent between 0 and 1."""

    factor: float
    exponent: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Power:
        """The curve through the last two points, of different x where there are such."""
        (x1, y1), (x2, y2) = points[-2], points[-1]
        if x2 <= x1 or not y1 or not y2:
            return cls(y2 / x2, 1.0)
        exponent = min(1.0, max(0.0, math.log(y2 / y1) / math.log(x2 / x1)))
        return cls(y2 / x2**exponent, exponent)

    def __call__(self, x: float) -> float:
        """The value at x."""
        return float(self.factor * x**self.exponent)


@dataclass(frozen=True)
class Scale:
    """The job that is foretold.

    Attributes:
        documents: how many.
        workers: like this machine.
        splits: units of work of the map stages.
        stage_seconds: what the runner takes for each pipeline, whatever it does.
        num_topics: of the LDA.
        passes: of the LDA.
        is_local: whether one worker fits the LDA.
        threads: of a worker.
    """

    documents: int
    workers: int
    splits: int
    stage_seconds: float
    num_topics: int
    passes: int
    is_local: bool
    threads: int


@dataclass(frozen=True)
class Sizes:
    """What a corpus of a size holds, from two samples of it.

    Attributes:
        count_rows: of counts, where all documents are of one split.
        terms: distinct ones.
        candidates: distinct candidate phrases.
        phrases: those of them that are kept.
        vocabulary: terms that are kept, where there is no limit to them.
    """

    count_rows: Power
    terms: Power
    candidates: Power
    phrases: Power
    vocabulary: Power

    @classmethod
    def of(cls, sizes: Sequence[Mapping[str, int]]) -> Sizes:
        """From what the measured jobs found, the largest last."""
        names = ("count_rows", "terms", "candidates", "phrases", "vocabulary")
        return cls(
            *(Power.through([(each["documents"], each[n]) for each in sizes]) for n in names)
        )


@dataclass(frozen=True)
class StageForecast:
    """What a stage comes to.

    Attributes:
        stage: its name.
        seconds: wall time.
        worker_seconds: of workers that work on it, added up.
        parallel: workers that it can use.
        memory: bytes of a worker, at most.
        written: bytes into files.
        shuffled: bytes through the runner's shuffle.
        largest_record: bytes.
        grows_with: what drives its cost.
    """

    stage: str
    seconds: float
    worker_seconds: float
    parallel: int
    memory: float
    written: float
    shuffled: float
    largest_record: float
    grows_with: str


@dataclass(frozen=True)
class _Law:
    """How a stage grows.

    Attributes:
        works_on: the quantity that its time is proportional to.
        units: into how many pieces its work can be cut.
        held: bytes that a worker holds beyond what was measured of the sample.
        grows_with: in words.
    """

    works_on: Callable[[Forecaster, float], float]
    units: Callable[[Scale], int]
    held: Callable[[Forecaster, float, Scale], float]
    grows_with: str


def _documents(_: Forecaster, documents: float) -> float:
    return documents


def _nothing(*_: Any) -> float:
    return 0.0


def _places(partitions: int) -> Callable[[Forecaster, float, Scale], float]:
    def held(_: Forecaster, documents: float, __: Scale) -> float:
        return _COPIES_OF_PLACES * PLACES.itemsize * documents / partitions

    return held


def _vocabulary(of: Forecaster, documents: float, _: Scale) -> float:
    return of.num_terms(documents) * _BYTES_PER_COUNT


def _models(of: Forecaster, documents: float, scale: Scale) -> float:
    """The corpus models that a worker maps."""
    topics = of.num_terms(documents) * scale.num_topics * 4
    phrases = of.num_phrases(documents) * _BYTES_PER_COUNT
    return _vocabulary(of, documents, scale) + phrases + topics


def _merging(of: Forecaster, documents: float, _: Scale) -> float:
    """The distinct rows of a partition, and their sums."""
    largest = max(of.sizes.terms(documents), of.sizes.candidates(documents))
    return 2 * largest / COUNT_PARTITIONS * _BYTES_PER_COUNT


def _pruning(of: Forecaster, documents: float, scale: Scale) -> float:
    """All phrases that are kept, a partition of counts beside them."""
    kept = of.num_terms(documents) + of.num_phrases(documents)
    return 2 * kept * _BYTES_PER_COUNT + _merging(of, documents, scale) / 2


def _lda(of: Forecaster, documents: float, scale: Scale) -> float:
    sums = (scale.threads + 2) * scale.num_topics * of.num_terms(documents) * _BYTES_PER_WEIGHT
    return sums + (of.bow_bytes * documents if scale.is_local else 0.0)


_SPLITS: Callable[[Scale], int] = lambda scale: scale.splits  # noqa: E731
_ONE: Callable[[Scale], int] = lambda scale: 1  # noqa: E731


def _of(number: int) -> Callable[[Scale], int]:
    return lambda scale: number


_LAWS: dict[str, _Law] = {
    "tokenize": _Law(_documents, _SPLITS, _nothing, "text"),
    "duplicates": _Law(
        _documents, _of(ID_PARTITIONS), _places(ID_PARTITIONS), "documents: 24 bytes each"
    ),
    "count": _Law(_documents, _SPLITS, _nothing, "text"),
    "merge": _Law(
        lambda of, n: of.count_rows(n),
        _of(2 * COUNT_PARTITIONS + 1),
        _merging,
        "distinct terms of every split",
    ),
    "vocabulary": _Law(
        lambda of, n: of.sizes.terms(n) + of.sizes.candidates(n),
        _ONE,
        _pruning,
        "distinct terms and phrases",
    ),
    "bow": _Law(_documents, _SPLITS, _vocabulary, "text"),
    "lda": _Law(_documents, _ONE, _lda, "documents x topics x passes"),
    "encode": _Law(_documents, _SPLITS, _nothing, "model tokens, size of the encoder"),
    "index": _Law(
        _documents, _of(INDEX_PARTITIONS), _places(INDEX_PARTITIONS), "documents: 24 bytes each"
    ),
    "extract": _Law(_documents, _SPLITS, _models, "text"),
    "publish": _Law(_documents, _ONE, _nothing, "bytes written: the driver reads them"),
}


class Forecaster:
    """Foretells stages from measured samples.

    Args:
        jobs: what `measure_job` gave for each sample, the largest last.
        encoder: what `measure_encoder` gave; None: nothing is encoded.
        documents_per_split: of the job that is foretold.
        max_terms: terms that the vocabulary keeps at most.
    """

    def __init__(
        self,
        jobs: Sequence[Mapping[str, Any]],
        encoder: Mapping[str, Any] | None,
        documents_per_split: float,
        max_terms: int,
    ) -> None:
        self._jobs, self._encoder = jobs, encoder
        self._documents_per_split = documents_per_split
        self._stages: Mapping[str, Mapping[str, float]] = jobs[-1]["stages"]
        self._sample: int = jobs[-1]["sizes"]["documents"]
        self._characters = jobs[-1]["sizes"]["characters"] / self._sample
        self.sizes: Sizes = Sizes.of([job["sizes"] for job in jobs])
        self._max_terms = max_terms
        self.bow_bytes: float = self._per_document("bow", "written")

    def count_rows(self, documents: float) -> float:
        """Rows of counts of all splits."""
        in_split = min(documents, self._documents_per_split)
        return self.sizes.count_rows(in_split) * documents / in_split

    def num_terms(self, documents: float) -> float:
        """Terms of the vocabulary."""
        return min(self.sizes.vocabulary(documents), float(self._max_terms))

    def num_phrases(self, documents: float) -> float:
        """Phrases that are kept."""
        return min(self.sizes.phrases(documents), float(MOST_PHRASES))

    def stages(self) -> list[str]:
        """The stages of the job, in order."""
        names = list(self._stages)
        if self._encoder is not None:
            names.insert(names.index("lda") + 1, "encode")
        return names

    def forecast(self, stage: str, scale: Scale) -> StageForecast:
        """What a stage comes to."""
        law, number = _LAWS[stage], scale.documents
        time = self._time_of(stage, law)
        work = time.work(law.works_on(self, number), self._distinct(stage, number))
        units = law.units(scale)
        if stage == "lda" and not scale.is_local:
            units = scale.splits
        used = max(1, min(scale.workers, units))
        # The last round of units keeps some workers waiting.
        share = -(-units // used) / units
        pipelines = scale.passes + 2 if stage == "lda" and not scale.is_local else 1
        overhead = scale.stage_seconds * (0 if stage == "publish" else pipelines)
        return StageForecast(
            stage=stage,
            seconds=overhead + time.fixed + work * share,
            worker_seconds=overhead + time.fixed * used + work,
            parallel=units,
            memory=self._peak_of(stage) + self._held_beyond_sample(law, scale),
            written=self._written(stage) * number,
            shuffled=self._shuffled(stage, scale),
            largest_record=self._largest_record(stage, scale),
            grows_with=law.grows_with,
        )

    def _per_document(self, stage: str, name: str) -> float:
        return self._stages[stage][name] / self._sample

    def _distinct(self, stage: str, documents: float) -> float:
        return self.num_terms(documents) if stage == "lda" else self.sizes.terms(documents)

    def _time_of(self, stage: str, law: _Law) -> Cost:
        if stage == "encode":
            assert self._encoder is not None
            per_character = self._encoder["seconds"] / self._encoder["characters"]
            return Cost(self._encoder["load_seconds"], per_character * self._characters)
        return Cost.fitted(
            [
                (law.works_on(self, number), self._distinct(stage, number), seconds)
                for number, seconds in self._measured(stage, "seconds")
            ]
        )

    def _measured(self, stage: str, name: str) -> list[tuple[int, float]]:
        """Documents of each sample, and a figure of a stage."""
        return [(job["sizes"]["documents"], job["stages"][stage][name]) for job in self._jobs]

    def _peak_of(self, stage: str) -> float:
        if stage == "encode":
            assert self._encoder is not None
            return float(self._encoder["peak"])
        return self._stages[stage]["peak"]

    def _held_beyond_sample(self, law: _Law, scale: Scale) -> float:
        now = law.held(self, scale.documents, scale)
        return max(0.0, now - law.held(self, self._sample, scale))

    def _written(self, stage: str) -> float:
        """Bytes a document."""
        if stage == "encode":
            # float32, which compress little, and what every model token received.
            assert self._encoder is not None
            tokens = float(self._encoder["tokens"] / self._encoder["documents"])
            return float(self._encoder["dimensions"]) * 4 + tokens * 8
        return self._per_document(stage, "written")

    def _shuffled(self, stage: str, scale: Scale) -> float:
        if stage == "encode":
            return self._shuffled("bow", scale)
        if stage == "lda" and not scale.is_local:
            of_worker = self.num_terms(scale.documents) * scale.num_topics * _BYTES_PER_WEIGHT
            return scale.passes * of_worker * min(scale.workers, scale.splits)
        cost = Cost.fitted(
            [(number, 0.0, size) for number, size in self._measured(stage, "shuffled")]
        )
        # What does not grow with the documents of a split grows with the splits.
        return cost.fixed * scale.splits + cost.slope * scale.documents

    def _largest_record(self, stage: str, scale: Scale) -> float:
        if stage == "encode":
            return self._largest_record("bow", scale)
        if stage == "lda" and not scale.is_local:
            return _LARGEST_BLOCK
        return self._stages[stage]["largest_record"]


# Blocks of the LDA's sums are cut below it.
_LARGEST_BLOCK = 1 << 20
