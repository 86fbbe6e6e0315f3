"""`lexbeam runs`: what runs an output folder holds, and how old ones are removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.run_lock import RunBusyError, is_busy, run_lock
from lexbeam.pipeline.runs import RunDir, latest_run, read_json
from lexbeam.pipeline.tables import count_of, table
from lexbeam.transforms import storage

DONE, UNFINISHED, IN_PROGRESS, REMAINS = "done", "unfinished", "in progress", "remains"


@dataclass(frozen=True)
class RunEntry:
    """A run in an output folder.

    Attributes:
        run: where it is.
        state: DONE, UNFINISHED (the same command resumes it), IN_PROGRESS, or REMAINS of a run
            whose removal was cut off.
        created: when it was begun, ISO 8601; empty of remains.
        command: what made it.
        documents: documents that it holds or counted; None where it is not done.
        rejected: documents in its errors; None where it is not done.
        size: bytes of all its files.
        model: the folder of the corpus model that it used, if that was another run's.
        needs: folders of other runs that it reads as long as it is not done.
        is_latest: whether latest.json names it.
    """

    run: RunDir
    state: str
    created: str = ""
    command: str = ""
    documents: int | None = None
    rejected: int | None = None
    size: int = 0
    model: str | None = None
    needs: tuple[str, ...] = ()
    is_latest: bool = False


def list_runs(output: str) -> list[RunEntry]:
    """The runs of an output folder, the newest first; raises UsageError where there are none."""
    names = storage.list_folders(storage.join(output, "runs"))
    if not names:
        raise UsageError(f"{output} holds no runs")
    latest = _latest_id(output)
    entries = [_entry(RunDir(output, name), is_latest=name == latest) for name in names]
    return sorted(entries, key=lambda entry: (entry.created, entry.run.run_id), reverse=True)


def _latest_id(output: str) -> str | None:
    try:
        return latest_run(output).run_id
    except UsageError:
        return None


def _entry(run: RunDir, *, is_latest: bool) -> RunEntry:
    size = sum(file.size for file in storage.list_tree(run.path))
    if not storage.exists(run.plan):
        return RunEntry(run, REMAINS, size=size, is_latest=is_latest)
    plan = read_json(run.plan)
    common = {
        "created": str(plan["created"]),
        "command": str(plan["command"]),
        "size": size,
        "model": plan["model_source"],
        "is_latest": is_latest,
    }
    if run.is_complete():
        totals = read_json(run.manifest)["totals"]
        documents = totals.get("documents_out", totals.get("documents_counted"))
        rejected = totals["documents_rejected"]
        return RunEntry(run, DONE, documents=documents, rejected=rejected, **common)
    needs = [plan["reuse"] and RunDir(run.output, plan["reuse"]).path, plan["warm_start"]]
    common["needs"] = tuple(path for path in needs if path)
    return RunEntry(run, IN_PROGRESS if is_busy(run) else UNFINISHED, **common)


def list_lines(entries: Sequence[RunEntry]) -> list[str]:
    """What the user sees."""
    rows = [
        [
            entry.run.run_id + (" *" if entry.is_latest else ""),
            entry.command,
            entry.state,
            _readable_time(entry.created),
            "" if entry.documents is None else f"{entry.documents:,}",
            "" if entry.rejected is None else f"{entry.rejected:,}",
            readable_size(entry.size),
        ]
        for entry in entries
    ]
    header = ["run", "command", "state", "begun (UTC)", "documents", "rejected", "size"]
    return [*table(rows, header=header, right=(4, 5, 6)), "", "* the latest run"]


def _readable_time(created: str) -> str:
    return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M:%S") if created else ""


def readable_size(size: int) -> str:
    """`512 B`, `3.4 MB`; powers of 1,000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@dataclass(frozen=True)
class Choice:
    """What becomes of a run, and why it is kept where it is."""

    entry: RunEntry
    reason: str | None
    """None: it is removed."""


def choose(entries: Sequence[RunEntry], keep: int) -> list[Choice]:
    """Which runs stay: the latest, those in progress, the newest finished ones, and their models.

    Args:
        entries: of list_runs.
        keep: finished runs to keep, the latest included; at least 1.

    An unfinished run stays while it is newer than the oldest finished one that does.
    """
    finished = [entry for entry in entries if entry.state == DONE]
    newest = {entry.run.run_id for entry in finished[:keep]}
    kept = [entry for entry in finished if entry.run.run_id in newest or entry.is_latest]
    oldest = min((entry.created for entry in kept), default="")
    reasons = {}
    for entry in entries:
        if entry.state == IN_PROGRESS:
            reasons[entry.run.run_id] = "in progress"
        elif entry.is_latest:
            reasons[entry.run.run_id] = "the latest"
        elif entry.run.run_id in newest:
            reasons[entry.run.run_id] = f"one of the {keep} newest"
        elif entry.state == UNFINISHED and entry.created > oldest:
            reasons[entry.run.run_id] = "unfinished"
    for user in [entry for entry in entries if entry.run.run_id in reasons]:
        for entry in entries:
            if entry.run.model == user.model:
                reasons.setdefault(entry.run.run_id, f"its model is used by {user.run.run_id}")
            elif {entry.run.path, entry.run.model} & set(user.needs):
                reasons.setdefault(entry.run.run_id, f"it is read by {user.run.run_id}")
    return [Choice(entry, reasons.get(entry.run.run_id)) for entry in entries]


def prune_lines(choices: Sequence[Choice], *, dry_run: bool) -> list[str]:
    """What the user sees before anything is removed."""
    removed = [choice.entry for choice in choices if choice.reason is None]
    verb = "would remove" if dry_run else "remove"
    lines = [
        f"keep    {choice.entry.run.run_id}  ({choice.reason})"
        if choice.reason
        else f"remove  {choice.entry.run.run_id}  ({choice.entry.state})"
        for choice in choices
    ]
    freed = readable_size(sum(entry.size for entry in removed))
    return [*lines, f"{verb} {count_of(len(removed), 'run')}, {freed}"]


def remove_run(entry: RunEntry) -> None:
    """Remove a run; what is left where that is cut off is no run any more.

    Raises UsageError where a job has begun to work on it.
    """
    run = entry.run
    try:
        with run_lock(run, wait=0.0):
            for path in (run.file("_SUCCESS"), run.manifest, run.plan):
                storage.delete(path)
            storage.delete_tree(run.path, root=storage.join(run.output, "runs"))
    except RunBusyError as error:
        raise UsageError(str(error)) from error
