"""Publishing a run: the counts are checked, the manifest is put, and that is the commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models import schemas
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.pipeline import corpus_model
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.plan import spec_to_json
from lexbeam.pipeline.runs import DATASETS, RunDir, created_of_latest, json_bytes, read_json
from lexbeam.pipeline.summary import summary_of
from lexbeam.pipeline.versions import installed_versions
from lexbeam.transforms import checksums, leases, storage
from lexbeam.transforms.earlier_parts import EarlierParts
from lexbeam.transforms.part_files import PartFolder, num_rows, part_statistics, read_part
from lexbeam.transforms.threads import map_in_order

if TYPE_CHECKING:
    from lexbeam.pipeline.workspace import Workspace

FILES_AT_A_TIME = 16
Result = TypeVar("Result")


def of_each(function: Callable[[str], Result], paths: Iterable[str]) -> Iterator[Result]:
    """As `map`; a store that takes its time is asked for several files at once."""
    return map_in_order(function, paths, FILES_AT_A_TIME)


def count_values(parts: Iterable[str], column: str) -> Counter[str]:
    """How often each value stands in a column of the parts; nulls are not counted."""

    def counts_of(part: str) -> dict[str, int]:
        entries = pc.value_counts(read_part(part, [column])[column].drop_null()).to_pylist()
        return {entry["values"]: entry["counts"] for entry in entries}

    found: Counter[str] = Counter()
    for counts in of_each(counts_of, parts):
        found.update(counts)
    return found


def rejected_by_reason(work: Workspace) -> dict[str, int]:
    """Documents that were rejected in reading, tokenizing or as duplicates, by error type."""
    from lexbeam.transforms.extract import DUPLICATE_ID

    reasons = dict(count_values(work.tokens.parts(), "error_type"))
    duplicates = sum(of_each(num_rows, work.dropped.parts()))
    return reasons | ({DUPLICATE_ID: duplicates} if duplicates else {})


def documents_in(work: Workspace) -> int:
    """Documents that were read, rejected ones included."""
    return sum(of_each(num_rows, work.tokens.parts()))


def error_counts(work: Workspace) -> dict[str, int]:
    """Rejected documents by error type, from the published errors, commonest first."""
    reasons = count_values(work.errors.parts(), "error_type")
    return dict(sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0])))


def totals_of(work: Workspace) -> dict[str, Any]:
    """What the run contains, counted in its files.

    Raises JobError where documents in are not documents out and errors.
    """
    reasons = error_counts(work)
    rejected = sum(reasons.values())
    read = documents_in(work)
    totals: dict[str, Any] = {
        "documents_in": read,
        "documents_rejected": rejected,
        "rejected_by_reason": reasons,
        "sources": len(work.plan.layout.sources),
        "splits": work.plan.num_splits,
    }
    totals |= _reuse_totals(work)
    if work.plan.command == "fit":
        vocabulary = corpus_model.vocabulary_of(work.run.model)
        # A document that made the bow stage die has been counted before.
        died = count_values(work.errors.parts(), "stage")["bow"]
        kept = totals["documents_counted"] = vocabulary.num_documents - died
    else:
        kept = totals["documents_out"] = sum(of_each(num_rows, work.documents.parts()))
        totals |= _document_totals(work)
    if read != kept + rejected:
        raise JobError(
            f"{read} documents were read, but {kept} kept and {rejected} rejected: "
            "the run is not published"
        )
    return totals


def _reuse_totals(work: Workspace) -> dict[str, Any]:
    """What was taken over from an earlier run, in documents, and how the corpus differs from it."""
    if work.earlier is None:
        return {}
    reused = {
        "run_id": work.earlier.run.run_id,
        "tokens": _num_reused(work.tokens, work.earlier_tokens, "language"),
    }
    if work.plan.command != "fit" and work.plan.encoder is not None:
        reused["embeddings"] = _num_reused(work.encoded, work.earlier_encoded, "num_tokens")
    return {"reused": reused, "compared": read_json(work.comparison)}


def _num_reused(parts: PartFolder, earlier: EarlierParts | None, column: str) -> int:
    """Documents that come from an earlier run: in whole parts, those with a value in the column."""
    from lexbeam.transforms.tokenize import REUSED

    found = 0
    for split, part in enumerate(parts.parts()):
        if earlier is not None and earlier.is_taken_over(split, parts):
            found += len(read_part(part, [column])[column].drop_null())
        else:
            found += part_statistics(part).get(REUSED, 0)
    return found


def _document_totals(work: Workspace) -> dict[str, Any]:
    languages = count_values(work.documents.parts(), "language")
    totals: dict[str, Any] = {"documents_by_language": dict(sorted(languages.items()))}
    if work.plan.encoder is not None:
        totals["model_tokens"] = sum(of_each(_model_tokens, work.documents.parts()))
        totals["padding_ratio"] = padding_ratio(work)
    stages = count_values(work.errors.parts(), "stage")
    counted = sum(stages[stage] for stage in ("bow", *schemas.ENCODING_STAGES, "extract"))
    if work.plan.tells_labels:
        labels = count_values(work.documents.parts(), "label")
        totals["documents_by_label"] = dict(sorted(labels.items()))
    return totals | {"documents_counted_but_rejected": counted}


def _model_tokens(part: str) -> int:
    return int(pc.sum(read_part(part, ["num_tokens"])["num_tokens"]).as_py() or 0)


def padding_ratio(work: Workspace) -> float | None:
    """(real + padding) / real model tokens over all batches; None where nothing was encoded."""
    statistics = list(of_each(part_statistics, work.encoded.parts()))
    real = sum(entry.get("real_tokens", 0) for entry in statistics)
    padded = sum(entry.get("padded_tokens", 0) for entry in statistics)
    return round(padded / real, 4) if real else None


def published_files(run: RunDir) -> list[dict[str, Any]]:
    """Every file of the run with rows (of Parquet), bytes and SHA-256, in order of path.

    Raises JobError where one was damaged since it was committed.
    """
    paths = [run.plan]
    for folder in (*DATASETS, "model", "reuse"):
        paths += [file.path for file in storage.list_tree(run.file(folder))]
    entries = of_each(lambda path: _file_entry(run, path), paths)
    return sorted(entries, key=lambda entry: entry["path"])


def _file_entry(run: RunDir, path: str) -> dict[str, Any]:
    found = checksums.checksum(path)
    if path != run.plan and found != checksums.kept_checksum(path):
        raise JobError(
            f"{path} is not as it was written: the run is not published; "
            "the same command makes the file again"
        )
    entry: dict[str, Any] = {"path": run.relative(path), **found}
    if path.endswith(".parquet"):
        entry["rows"] = num_rows(path)
    return entry


def schema_text(schema: pa.Schema) -> list[str]:
    """A schema as lines `name: type`; Parquet and Arrow name a list's items differently."""
    types = (str(field.type).replace("<element: ", "<item: ") for field in schema)
    return [f"{name}: {text}" for name, text in zip(schema.names, types, strict=True)]


def declared_schemas(work: Workspace) -> dict[str, list[str]]:
    """The schema of each dataset of the run."""
    found = {"errors": schema_text(schemas.ERRORS)}
    if work.plan.command != "transform":
        found |= {"terms": schema_text(schemas.TERMS), "topics": schema_text(schemas.TOPICS)}
    if work.plan.command != "fit":
        found["documents"] = schema_text(work.extract_config(has_topics=True).schema)
    return found


def manifest_of(
    work: Workspace,
    totals: Mapping[str, Any],
    seconds: Mapping[str, float],
    runner: str,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest."""
    plan = work.plan
    return {
        "schema_version": schemas.SCHEMA_VERSION,
        "run_id": work.run.run_id,
        "command": plan.command,
        "created": plan.created,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": plan.config.to_json(),
        "identity": plan.identity,
        "fingerprint": plan.fingerprint(),
        "input_fingerprint": plan.input_fingerprint(),
        "model": plan.encoder and _model_entry(plan.encoder),
        "classifier": plan.classifier and _model_entry(plan.classifier),
        "model_source": plan.model_source,
        "runner": runner,
        "versions": installed_versions(),
        "totals": dict(totals),
        "stages": [{"stage": name, "seconds": round(value, 3)} for name, value in seconds.items()],
        "schemas": declared_schemas(work),
        "files": published_files(work.run),
        **extra,
    }


def _model_entry(spec: ModelSpec) -> dict[str, Any]:
    entry = spec_to_json(spec)
    # Where a model lies on this machine says nothing about the run.
    del entry["directory"]
    return entry


def put_manifest(run: RunDir, manifest: Mapping[str, Any]) -> bool:
    """Commit the run; False where another process was first."""
    return storage.put_if_absent(run.manifest, json_bytes(manifest))


def finish(run: RunDir, *, keep_intermediate: bool) -> None:
    """What follows the commit, and is done again where it was cut off; _SUCCESS ends it."""
    manifest = read_json(run.manifest)
    for folder in (*DATASETS, "model", "reuse"):
        checksums.remove_checksums(run.file(folder), root=run.path)
    if not keep_intermediate:
        storage.delete_tree(run.intermediate, root=run.path)
    with leases.taking_turns(run.output):
        # A retry holds a few documents: nobody means it by the latest run.
        is_retry = "retry_of" in manifest["identity"]
        if not is_retry and created_of_latest(run.output) <= manifest["created"]:
            latest = storage.join(run.output, "latest.json")
            storage.put_overwrite(latest, json_bytes({"run_id": run.run_id}))
    storage.put_if_absent(run.summary, json_bytes(summary_of(manifest)))
    text = f"{run.run_id} {manifest['finished']}\n".encode()
    storage.put_if_absent(run.file("_SUCCESS"), text)
