"""Which examples each step takes, and how a step is cut into batches that fit the memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lexbeam.models.training.random import generator

Int64Array = npt.NDArray[np.int64]

_ORDER = 1  # stream of random numbers: the order of an epoch


class BatchPlan:
    """Which examples each step takes: a new random order each epoch, cut into even steps.

    A step is the same whatever `max_batch_tokens` and the number of processes are.

    Args:
        sizes: (n,) of each example: its tokens, or 1.
        step_size: of a step, about; no example is larger, and all together are no smaller.
        seed: of the orders.

    Attributes:
        steps_per_epoch: steps that take every example once.

    Raises:
        ValueError: the examples do not fill a step, or one is larger than a step.
    """

    def __init__(self, sizes: Int64Array, step_size: int, seed: int) -> None:
        total = int(sizes.sum())
        if total < step_size or int(sizes.max()) > step_size:
            raise ValueError(f"steps of {step_size} from {total}")
        self._sizes = sizes
        self._seed = seed
        self._epoch = -1
        self.steps_per_epoch = total // step_size
        self._order = self._bounds = np.empty(0, np.int64)

    def examples(self, step: int) -> Int64Array:
        """Numbers of the examples of a step, from 1; never none."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = generator(self._seed, _ORDER, epoch).permutation(len(self._sizes))
            ends = np.cumsum(self._sizes[self._order])
            marks = ends[-1] * np.arange(1, self.steps_per_epoch + 1) / self.steps_per_epoch
            self._bounds = np.concatenate([[0], np.searchsorted(ends, marks, side="right")])
            self._bounds[-1] = len(ends)
            self._epoch = epoch
        return self._order[self._bounds[index] : self._bounds[index + 1]]


def cut_by_tokens(lengths: Int64Array, most: int) -> list[int]:
    """Bounds of consecutive groups of at most so many tokens, and of at least one text."""
    ends = np.cumsum(lengths)
    bounds = [0]
    while bounds[-1] < len(lengths):
        before = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
        last = int(np.searchsorted(ends, before + most, side="right"))
        bounds.append(max(last, bounds[-1] + 1))
    return bounds


def spans(bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Bounds as pairs of begin and end."""
    return list(zip(bounds, bounds[1:], strict=False))
