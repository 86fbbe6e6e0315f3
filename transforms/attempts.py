"""Marks of splits that are being worked on: what a process leaves behind that dies.

A worker puts a mark when it begins a split and takes it away when it is through, also by an
exception. A mark that stays is a process that died over the split. A split with MAX_ATTEMPTS marks
is not begun again in the stage's pipeline: the driver works on it by itself, see
`lexbeam.pipeline.isolation`.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lexbeam.transforms import storage

MAX_ATTEMPTS = 2


@dataclass(frozen=True)
class Attempts:
    """The marks of one stage.

    Attributes:
        path: their folder.
    """

    path: str

    @contextmanager
    def mark(self, split: int) -> Iterator[None]:
        """Hold a mark on the split while the body runs."""
        path = storage.join(self.path, f"{split:05d}-{uuid.uuid4().hex}")
        storage.make_parent(path)
        storage.put_if_absent(path, b"begun\n")
        try:
            yield
        finally:
            storage.delete(path)

    def suspects(self) -> set[int]:
        """Splits over which processes have died MAX_ATTEMPTS times."""
        names = [file.path.rsplit("/", 1)[-1] for file in storage.list_tree(self.path)]
        marks = Counter(int(name.partition("-")[0]) for name in names)
        return {split for split, count in marks.items() if count >= MAX_ATTEMPTS}

    def clear(self, split: int) -> None:
        """Take away the split's marks."""
        for file in storage.list_tree(self.path):
            if file.path.rsplit("/", 1)[-1].startswith(f"{split:05d}-"):
                storage.delete(file.path)
