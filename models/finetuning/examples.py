"""Examples of a fine-tuning: which windows of model tokens a document has, and its label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.finetuning.config import FinetuningConfig
from lexbeam.models.training.batches import BatchPlan
from lexbeam.models.training.random import generator

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("doc_id", pa.string()),
        ("text_sha256", pa.string()),
        ("label", pa.string()),
        ("window_lengths", pa.list_(pa.int32())),
        ("input_ids", pa.list_(pa.int32())),
        ("second_ids", pa.list_(pa.int32())),
    ]
)
"""A document: its place by a random key, the tokens of its windows end to end, special tokens
included; of a pair `second_ids` are the second text's, and the windows the first one's."""

# Two texts of each class: one to learn from, one to be asked for.
_LEAST_OF_A_CLASS = 2
_SHOWN = 5
_SPLIT = 6  # stream of random numbers: who of a class is held out


class ExamplesError(ValueError):
    """The examples are no task; the message says what is wrong with which of them."""


class TokenLists:
    """Lists of tokens by their numbers; nothing is copied before it is asked for.

    Args:
        column: of lists of int32.

    Attributes:
        lengths: (n,) int64.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks()
        self._ids: Int32Array = lists.values.to_numpy()
        self._offsets: Int32Array = lists.offsets.to_numpy()
        self.lengths: Int64Array = np.diff(self._offsets).astype(np.int64)

    def span(self, number: int) -> Int32Array:
        """One list."""
        return self._ids[self._offsets[number] : self._offsets[number + 1]]

    def read(self, numbers: Int64Array) -> list[Int32Array]:
        """Some lists."""
        return [self.span(number) for number in numbers.tolist()]


class Windows:
    """The windows of documents.

    Args:
        table: as SCHEMA says.

    Attributes:
        counts: (n,) int64 windows of each document.
        mean_lengths: (n,) float64 mean tokens of its windows.
    """

    def __init__(self, table: pa.Table) -> None:
        self._tokens = TokenLists(table["input_ids"])
        self._windows = TokenLists(table["window_lengths"])
        self.counts = self._windows.lengths
        self.mean_lengths = self._tokens.lengths / self.counts

    def of(self, document: int) -> list[Int32Array]:
        """All windows of a document."""
        return [self.window(document, number) for number in range(int(self.counts[document]))]

    def window(self, document: int, number: int) -> Int32Array:
        """Tokens of one window."""
        lengths = self._windows.span(document)
        first = int(lengths[:number].sum())
        return self._tokens.span(document)[first : first + int(lengths[number])]


@dataclass(frozen=True)
class Batch:
    """Windows end to end, as they go through the model.

    Attributes:
        ids: (t,) int64.
        lengths: of the windows.
        owners: (w,) which of the examples each belongs to.
    """

    ids: Int64Array
    lengths: tuple[int, ...]
    owners: Int64Array


def batch_of(windows: Sequence[Int32Array], owners: Int64Array) -> Batch:
    """Windows as a batch."""
    ids = np.concatenate(windows).astype(np.int64)
    return Batch(ids, tuple(map(len, windows)), owners)


class Sides:
    """Which examples are learned from, in which steps, and which are held out.

    Args:
        held_out: (n,) whether an example is for evaluation alone.
        config: `batch_size` and seed.

    Attributes:
        train, held_out: numbers of the examples.
        steps_per_epoch: steps that take every example of `train` once.
    """

    def __init__(self, held_out: BoolArray, config: FinetuningConfig) -> None:
        assert config.batch_size is not None
        self.train = np.flatnonzero(~held_out)
        self.held_out = np.flatnonzero(held_out)
        size = min(config.batch_size, len(self.train))
        self._plan = BatchPlan(np.ones(len(self.train), np.int64), size, config.seed)
        self.steps_per_epoch = self._plan.steps_per_epoch

    def step(self, step: int) -> Int64Array:
        """Numbers of the examples of a step, from 1."""
        return self.train[self._plan.examples(step)]


def check_labels(labels: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The classes, sorted.

    Args:
        labels: of the documents.
        texts: their hashes.

    Raises:
        ExamplesError: of one class, as many classes as texts, or a class of one text alone.
    """
    sizes = Counter(dict(zip(texts, labels, strict=True)).values())
    classes = tuple(sorted(set(labels)))
    num_texts = len(set(texts))
    if len(classes) < 2:
        found = f"every document has the label {classes[0]!r}" if classes else "no document is left"
        raise ExamplesError(f"a classifier needs two classes at least: {found}")
    if len(classes) >= num_texts:
        raise ExamplesError(
            f"{len(classes):,} classes for {num_texts:,} different texts, such as "
            f"{', '.join(map(repr, classes[:_SHOWN]))}: is the label an id?"
        )
    single = [each for each in classes if sizes[each] < _LEAST_OF_A_CLASS]
    if single:
        shown = ", ".join(map(repr, single[:_SHOWN])) + (", …" if len(single) > _SHOWN else "")
        raise ExamplesError(
            f"{len(single):,} of {len(classes):,} classes have fewer than {_LEAST_OF_A_CLASS} "
            f"different texts, so that none could be held out: {shown}. Leave them out, or join "
            "them with others"
        )
    return classes


def stratified_split(
    labels: Sequence[str], texts: Sequence[str], eval_fraction: float, seed: int
) -> BoolArray:
    """Which documents are held out: that share of each class, but one text of it on each side.

    Args:
        labels: of the documents; see `check_labels`.
        texts: their hashes. Equal texts stay together.
        eval_fraction: share that is held out.
        seed: of the choice, which depends on nothing but the labelled texts.
    """
    label_of = {text: label for text, label in sorted(zip(texts, labels, strict=True))}
    of_class: dict[str, list[str]] = {}
    for text, label in label_of.items():
        of_class.setdefault(label, []).append(text)
    chosen: set[str] = set()
    for number, label in enumerate(sorted(of_class)):
        own = of_class[label]
        wanted = max(1, min(len(own) - 1, round(eval_fraction * len(own))))
        order = generator(seed, _SPLIT, number).permutation(len(own))
        chosen.update(own[place] for place in order[:wanted].tolist())
    return np.array([text in chosen for text in texts], np.bool_)


def random_split(keys: Int64Array, texts: Sequence[str], eval_fraction: float) -> BoolArray:
    """Which pairs are held out: those of the least random keys; equal texts stay together.

    Raises ExamplesError where fewer than two are left on either side.
    """
    distinct = sorted({text: key for key, text in zip(keys.tolist(), texts, strict=True)}.items(),
                      key=lambda item: (item[1], item[0]))  # fmt: skip
    wanted = round(eval_fraction * len(distinct))
    if min(wanted, len(distinct) - wanted) < 2:
        raise ExamplesError(
            f"{len(distinct):,} different pairs, of which {wanted:,} would be held out: two at "
            "least are needed to learn from, and two to be asked for"
        )
    chosen = {text for text, _ in distinct[:wanted]}
    return np.array([text in chosen for text in texts], np.bool_)
