"""Parts that an earlier run has made, and a later one takes over whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lexbeam.transforms import checksums, storage
from lexbeam.transforms.part_files import PartFolder, open_part, read_part


@dataclass(frozen=True)
class EarlierParts:
    """Parts of an earlier run that may be taken over whole.

    Attributes:
        parts: the earlier parts.
        manifest: path of the earlier run's manifest, which has their checksums.
        folder: the earlier run's folder.
        splits: for each split the earlier one that is read from the same bytes, or -1.
        dropped: the dropped rows now and then, which must be the same; None: any.
        without_errors: whether a part with failed rows is made again.
    """

    parts: PartFolder
    manifest: str
    folder: str
    splits: tuple[int, ...]
    dropped: tuple[PartFolder, PartFolder] | None = None
    without_errors: bool = False

    def take_over(self, split: int, target: PartFolder) -> int | None:
        """Take a part over, unless another process has made it; its rows, or None: make it.

        A part that was damaged since it was published is not taken.
        """
        earlier = self.splits[split]
        if earlier < 0 or not self._same_dropped(split, earlier):
            return None
        source = self.parts.part(earlier)
        expected = published_checksums(self.manifest).get(source[len(self.folder) :].lstrip("/"))
        try:
            if expected is None or checksums.checksum(source) != expected:
                return None
            if self.without_errors and _has_errors(source):
                return None
            checksums.copy_file(source, target.part(split), expected)
            with open_part(source) as part:
                return int(part.metadata.num_rows)
        except FileNotFoundError:
            return None

    def is_taken_over(self, split: int, target: PartFolder) -> bool:
        """Whether a part is the earlier one."""
        earlier = self.splits[split]
        if earlier < 0:
            return False
        name = self.parts.part(earlier)[len(self.folder) :].lstrip("/")
        expected = published_checksums(self.manifest).get(name)
        return expected is not None and expected == checksums.kept_checksum(target.part(split))

    def _same_dropped(self, split: int, earlier: int) -> bool:
        if self.dropped is None:
            return True
        now, then = self.dropped
        try:
            rows = [read_part(now.part(split), ["row"]), read_part(then.part(earlier), ["row"])]
        except FileNotFoundError:
            return False
        return bool(rows[0].equals(rows[1]))


@lru_cache(maxsize=2)
def published_checksums(manifest: str) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of a published run's files, by their path in it."""
    files = json.loads(storage.read_bytes(manifest))["files"]
    return {entry["path"]: {name: entry[name] for name in ("bytes", "sha256")} for entry in files}


def _has_errors(path: str) -> bool:
    column = read_part(path, ["error_type"])["error_type"]
    return bool(column.null_count < len(column))
