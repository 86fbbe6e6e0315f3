"""Documents that made the process die that worked on them: found once, and left out from then on.

`died/STAGE/part-i-….json` names the rows of split i that the stage is not to touch. Sources mask
them; what becomes of them in the end is a row of the errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lexbeam.transforms import checksums, storage

PROCESS_DIED = "process-died"
"""Error type of such a document."""


class DiedRow(NamedTuple):
    """A document that made a process die."""

    row: int
    """Its row in the split."""
    stage: str
    """The stage that worked on it."""
    message: str
    """What happened."""


@dataclass(frozen=True)
class DiedRows:
    """All such rows of a run.

    Attributes:
        path: the folder `died`.
        pending: rows of one split that are not recorded yet: the driver is looking for more.
    """

    path: str
    pending: tuple[DiedRow, ...] = ()

    def of_split(self, split: int) -> dict[int, DiedRow]:
        """The rows of a split that no stage is to touch any more.

        Raises:
            ValueError: a record is damaged; the message names it.
        """
        found = list(self.pending)
        for stage in storage.list_folders(self.path):
            for path in self._records(stage, split):
                found += _read(path, stage)
        return {entry.row: entry for entry in found}

    def record(self, stage: str, split: int, rows: Iterable[DiedRow]) -> None:
        """Keep the rows for good, beside those that were found before."""
        name = f"{_prefix(split)}{len(self._records(stage, split))}.json"
        path = storage.join(self.path, stage, name)
        entries = [{"row": entry.row, "message": entry.message} for entry in rows]
        storage.make_parent(path)
        checksums.put_if_absent(path, json.dumps(entries, ensure_ascii=False).encode())

    def _records(self, stage: str, split: int) -> list[str]:
        files = storage.list_tree(storage.join(self.path, stage))
        names = (file.path.rsplit("/", 1)[-1] for file in files)
        return [
            storage.join(self.path, stage, name)
            for name in names
            if name.startswith(_prefix(split))
        ]


def _prefix(split: int) -> str:
    return f"part-{split:05d}-"


def _read(path: str, stage: str) -> list[DiedRow]:
    try:
        entries = json.loads(storage.read_bytes(path))
        return [DiedRow(int(entry["row"]), stage, str(entry["message"])) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable record: {error}") from error
