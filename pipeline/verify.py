"""`lexbeam verify`: every file, row count, checksum and schema against the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.repair import damaged
from lexbeam.pipeline.runs import DATASETS, RunDir, read_json
from lexbeam.pipeline.tables import count_of
from lexbeam.transforms import storage


def problems_of(run: RunDir) -> list[str]:
    """What is wrong with a published run; empty where nothing is."""
    if not run.is_complete():
        problems = ["manifest.json is missing: the run is not finished"]
        return problems + [f"{run.relative(path)} is damaged or cut off" for path in damaged(run)]
    try:
        manifest = read_json(run.manifest)
        return _problems(run, manifest)
    except (UsageError, KeyError, TypeError) as error:
        return [f"manifest.json is damaged: {type(error).__name__}: {error}"]


def _problems(run: RunDir, manifest: Mapping[str, Any]) -> list[str]:
    problems = []
    for entry in manifest["files"]:
        problems += _file_problems(run, entry, manifest["schemas"])
    problems += _unknown_files(run, manifest)
    problems += _count_problems(manifest)
    success = run.file("_SUCCESS")
    if not storage.exists(success) or not storage.stat(success).size:
        problems.append("_SUCCESS is missing or empty")
    return problems


def _file_problems(
    run: RunDir, entry: Mapping[str, Any], schemas: Mapping[str, list[str]]
) -> list[str]:
    path, name = run.file(entry["path"]), entry["path"]
    if not storage.exists(path):
        return [f"{name} is missing"]
    size = storage.stat(path).size
    if size != entry["bytes"]:
        return [f"{name} has {size:,} bytes, not {entry['bytes']:,}"]
    if storage.sha256_file(path) != entry["sha256"]:
        return [f"{name} has another SHA-256 than the manifest"]
    if "rows" not in entry:
        return []
    return _parquet_problems(path, entry, schemas.get(name.split("/")[0]))


def _parquet_problems(path: str, entry: Mapping[str, Any], schema: list[str] | None) -> list[str]:
    import pyarrow as pa

    from lexbeam.pipeline.publish import schema_text
    from lexbeam.transforms.part_files import open_part

    try:
        with open_part(path) as part:
            rows, found = part.metadata.num_rows, schema_text(part.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        return [f"{entry['path']} cannot be read: {error}"]
    problems = []
    if rows != entry["rows"]:
        problems.append(f"{entry['path']} has {rows:,} rows, not {entry['rows']:,}")
    if schema is not None and found != schema:
        problems.append(f"{entry['path']} has another schema than the manifest")
    return problems


def _unknown_files(run: RunDir, manifest: Mapping[str, Any]) -> list[str]:
    """Files in the published folders that a reader would take for part of the run."""
    known = {entry["path"] for entry in manifest["files"]}
    found = [
        run.relative(file.path)
        for folder in (*DATASETS, "model", "reuse")
        for file in storage.list_tree(run.file(folder))
    ]
    return [f"{path} is not in the manifest" for path in found if path not in known]


def _count_problems(manifest: Mapping[str, Any]) -> list[str]:
    totals = manifest["totals"]
    written = totals.get("documents_out", totals.get("documents_counted", 0))
    problems = []
    if totals["documents_in"] != written + totals["documents_rejected"]:
        problems.append("documents in are not documents out and rejected")
    rows = _rows_by_dataset(manifest)
    if rows.get("errors", 0) != totals["documents_rejected"]:
        problems.append("errors/ has not a row for each rejected document")
    if "documents_out" in totals and rows.get("documents", 0) != written:
        problems.append("documents/ has not a row for each document")
    return problems


def _rows_by_dataset(manifest: Mapping[str, Any]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for entry in manifest["files"]:
        dataset = entry["path"].split("/")[0]
        rows[dataset] = rows.get(dataset, 0) + entry.get("rows", 0)
    return rows


def verify_lines(run: RunDir, problems: list[str]) -> list[str]:
    """What the user sees."""
    if problems:
        found = count_of(len(problems), "problem")
        return [f"run {run.run_id}: {found}", *(f"  {problem}" for problem in problems)]
    manifest = read_json(run.manifest)
    totals = manifest["totals"]
    return [
        f"run {run.run_id}: {len(manifest['files'])} files as the manifest says; "
        f"{totals['documents_in']:,} documents in = "
        f"{totals['documents_in'] - totals['documents_rejected']:,} out + "
        f"{totals['documents_rejected']:,} rejected"
    ]
