"""Before a run goes on: what was damaged since it was committed is removed, and so made again."""

from __future__ import annotations

from collections.abc import Callable

from lexbeam.pipeline.runs import DATASETS, RunDir
from lexbeam.pipeline.tables import count_of
from lexbeam.transforms import checksums, storage

_NAMES_SHOWN = 3


def damaged(run: RunDir) -> list[str]:
    """Committed files of an unfinished run that are not as they were written."""
    names = storage.list_folders(run.intermediate)
    inner = (storage.join(run.intermediate, name) for name in names)
    folders = [folder for folder in inner if folder != run.attempts]
    folders += [run.file(name) for name in (*DATASETS, "model", "reuse")]
    return [path for folder in folders for path in checksums.damaged_files(folder)]


def remove_damaged(run: RunDir, say: Callable[[str], None]) -> None:
    """Remove the damaged files of an unfinished run, and what tells that their stage is done.

    Raises ValueError where a damaged file is the record of documents that made a process die:
    parts were written by it.
    """
    found = damaged(run)
    if not found:
        return
    for path in found:
        if path.startswith(run.died):
            raise ValueError(f"{path} is damaged; this run cannot go on: choose another --run_id")
        for last in _written_after(run, path):
            checksums.remove_file(last)
        checksums.remove_file(path)
    names = ", ".join(run.relative(path) for path in found[:_NAMES_SHOWN])
    rest = ", …" if len(found) > _NAMES_SHOWN else ""
    say(f"{count_of(len(found), 'file')} damaged or cut off, made again: {names}{rest}")


def _written_after(run: RunDir, path: str) -> list[str]:
    """Files by which the stage that wrote the damaged one is known to be done."""
    folder, _, _ = path.rpartition("/")
    name = run.relative(path)
    if name.startswith(("terms/", "model/phrases", "model/limits")):
        return [storage.join(run.model, "vocabulary.parquet")]
    if name.startswith("model/lda/"):
        return [file.path for file in storage.list_tree(run.file("topics"))]
    if name.startswith("intermediate/lda/pass-"):
        return [file.path for file in storage.list_tree(folder)]
    return []
