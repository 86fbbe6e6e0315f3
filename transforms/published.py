"""The files of a published run, checked against its manifest before anything of them is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lexbeam.transforms import checksums, storage


@dataclass(frozen=True)
class PublishedRun:
    """A run that has been published.

    Attributes:
        path: its folder.
        manifest: path of its manifest.
    """

    path: str
    manifest: str

    def checksum(self, path: str) -> dict[str, Any] | None:
        """Size and SHA-256 of one of its files; None where the manifest has no such file."""
        return _checksums(self.manifest).get(path[len(self.path) :].lstrip("/"))

    def is_sound(self, path: str) -> bool:
        """Whether a file is there and as it was published; looked at once a process."""
        return _is_sound(self, path)


@lru_cache(maxsize=2)
def _checksums(manifest: str) -> dict[str, dict[str, Any]]:
    files = json.loads(storage.read_bytes(manifest))["files"]
    return {entry["path"]: {name: entry[name] for name in ("bytes", "sha256")} for entry in files}


@lru_cache(maxsize=1 << 17)
def _is_sound(run: PublishedRun, path: str) -> bool:
    expected = run.checksum(path)
    try:
        return expected is not None and checksums.checksum(path) == expected
    except FileNotFoundError:
        return False
