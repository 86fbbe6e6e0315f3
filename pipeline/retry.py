"""`lexbeam retry-errors`: the documents of a run that were rejected, read again after a fix.

The files that have rows in the run's errors are read again, and what the run has already is left
out: by a document's id, or by its text where it has no id of its own, since places move when a file
is mended. The rest makes a run of its own, with the corpus models of the first one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.runs import RunDir
from lexbeam.transforms import splits, storage
from lexbeam.transforms.sources import Source

if TYPE_CHECKING:
    from lexbeam.pipeline.options import JobConfig

_DEVICE_OPTIONS = ("device", "max_batch_tokens")


def job_of_run(run: RunDir, plan: Plan, given: Mapping[str, Any]) -> JobConfig:
    """The job that made a run, with what the command line says of this machine's device.

    Raises UsageError where the run is not finished, or wrote no documents.
    """
    if not run.is_complete():
        raise UsageError(f"run {run.run_id} is not finished: run its command again first")
    if plan.command == "fit":
        raise UsageError(f"run {run.run_id} wrote no documents: fit again instead")
    device = {name: given[name] for name in _DEVICE_OPTIONS if name in given}
    classifier = plan.config.classifier
    return replace(
        plan.config,
        encoder=replace(plan.config.encoder, **device),
        classifier=classifier and replace(classifier, **device),
    )


def retry_layout(run: RunDir, plan: Plan, say: Callable[[str], None]) -> splits.Layout:
    """The files with errors, as they are now, and of each the rows that the run has not.

    Raises UsageError where the run has no errors, or a file is gone.
    """
    names = _sources_with_errors(run)
    if not names:
        raise UsageError(f"run {run.run_id} has no errors")
    sources = tuple(_as_it_is_now(s) for s in plan.layout.sources if s.relative in names)
    pieces, config = [], replace(plan.config.input, limit=None)
    for index, source in enumerate(sources):
        rows = tuple(_rows_to_read(run, source, config))
        say(f"{source.relative}: {len(rows):,} documents to read again")
        if rows:
            pieces.append(splits.Piece(index, rows=rows))
    groups = [splits.Split(index, (piece,)) for index, piece in enumerate(pieces)]
    return splits.Layout(config, sources, tuple(groups) or (splits.Split(0, ()),))


def _sources_with_errors(run: RunDir) -> set[str]:
    from lexbeam.transforms.part_files import read_part

    return {
        name
        for part in run.parts("errors")
        for name in read_part(part, ["source"])["source"].to_pylist()
    }


def _as_it_is_now(source: Source) -> Source:
    try:
        info = storage.stat(source.path)
    except FileNotFoundError:
        raise UsageError(f"{source.path} has gone since the run") from None
    return replace(source, size=info.size, version=info.version)


def _rows_to_read(run: RunDir, source: Source, config: splits.InputConfig) -> Iterator[int]:
    """Rows of a file that the run has no document of."""
    from lexbeam.transforms import readers
    from lexbeam.transforms.read_rows import missing_id

    ids, texts = _documents_of(run, source)
    number = 0
    whole = splits.Split(0, (splits.Piece(0),))
    for batch in readers.read_split(whole, (source,), config):
        columns = (batch[name].to_pylist() for name in ("doc_id", "position", "content"))
        for doc_id, position, content in zip(*columns, strict=True):
            generated = missing_id(source.relative, position)
            has_own_id = doc_id is not None and doc_id.rpartition(":")[2] != generated
            if content is None:
                is_known = False
            elif has_own_id:
                is_known = doc_id in ids
            else:
                is_known = hashlib.sha256(content.encode()).hexdigest() in texts
            if not is_known:
                yield number
            number += 1


def _documents_of(run: RunDir, source: Source) -> tuple[set[str], set[str]]:
    """Ids and text hashes of the run's documents of a file."""
    import pyarrow.compute as pc

    from lexbeam.transforms.part_files import read_part

    ids: set[str] = set()
    texts: set[str] = set()
    for part in run.parts("documents"):
        rows = read_part(part, ["doc_id", "source", "text_sha256"])
        rows = rows.filter(pc.equal(rows["source"], source.relative))
        ids.update(rows["doc_id"].to_pylist())
        texts.update(rows["text_sha256"].to_pylist())
    return ids, texts
