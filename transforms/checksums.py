"""What a run has committed can be told from what a disk or a crash has made of it.

Beside each committed file, in the hidden folder `.sums`, lies its size and SHA-256 as it was
written. The checksum follows the file, so that a crash in between leaves a file without one; such a
file is taken for damaged, and made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from lexbeam.transforms import storage

_FOLDER = ".sums"


def _sum_path(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return storage.join(folder, _FOLDER, f"{name}.json")


def commit_file(local_file: str, path: str) -> bool:
    """As storage.commit_file, and keep the file's checksum where it won."""
    entry = checksum(local_file)
    return _keep(path, entry, lambda: storage.commit_file(local_file, path))


def put_if_absent(path: str, data: bytes) -> bool:
    """As storage.put_if_absent, and keep the data's checksum where it won."""
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return _keep(path, entry, lambda: storage.put_if_absent(path, data))


def _keep(path: str, entry: dict[str, Any], commit: Callable[[], bool]) -> bool:
    if not commit():
        return False
    target = _sum_path(path)
    storage.make_parent(target)
    storage.put_overwrite(target, json.dumps(entry).encode())
    return True


def copy_file(source: str, path: str, entry: dict[str, Any]) -> bool:
    """Commit a copy of a file whose checksum is known; local files share their bytes."""
    return _keep(path, entry, lambda: storage.copy_file(source, path))


def checksum(path: str) -> dict[str, Any]:
    """Size in bytes and hexadecimal SHA-256 of a file."""
    return {"bytes": storage.stat(path).size, "sha256": storage.sha256_file(path)}


def kept_checksum(path: str) -> dict[str, Any] | None:
    """What was kept when the file was committed; None where nothing readable is there."""
    try:
        entry = json.loads(storage.read_bytes(_sum_path(path)))
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None


def damaged_files(folder: str) -> list[str]:
    """Committed files below a folder that are gone or not as they were written, sorted by path.

    Every file counts that is not hidden; one without a checksum is damaged too.
    """
    found = {file.path for file in storage.list_tree(folder)}
    gone = _with_checksums(folder) - found
    return sorted(gone | {path for path in found if kept_checksum(path) != checksum(path)})


def _with_checksums(folder: str) -> set[str]:
    """Files below a folder whose checksums are there."""
    paths = set()
    for name in storage.list_folders(folder):
        inner = storage.join(folder, name)
        if name == _FOLDER:
            sums = (file.path.rsplit("/", 1)[-1] for file in storage.list_tree(inner))
            paths |= {storage.join(folder, name.removesuffix(".json")) for name in sums}
        else:
            paths |= _with_checksums(inner)
    return paths


def remove_checksums(folder: str, root: str) -> None:
    """Remove the checksums of the files of one folder and of its subfolders.

    root: a folder above it, as of storage.delete_tree.
    """
    storage.delete_tree(storage.join(folder, _FOLDER), root=root)
    for name in storage.list_folders(folder):
        if name != _FOLDER:
            remove_checksums(storage.join(folder, name), root)


def remove_file(path: str) -> None:
    """Remove a committed file and its checksum, where they are there; the checksum last."""
    storage.delete(path)
    storage.delete(_sum_path(path))
