"""Gold keyphrases: JSONL files with `id` and `keywords`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.tables import shorten
from lexbeam.transforms import storage


@dataclass(frozen=True)
class GoldSet:
    """Gold keyphrases of one file.

    Attributes:
        name: the file's name.
        keywords: by document id, as people wrote them; an id may have none.
    """

    name: str
    keywords: Mapping[str, tuple[str, ...]]


def read_gold(path: str) -> GoldSet:
    """Read a file of gold keyphrases; fields other than `id` and `keywords` do not matter.

    Raises:
        UsageError: naming file, line and value where the file cannot be read, a line is no object,
            an id is missing, no string or integer, or stands twice, or `keywords` is not a list of
            strings; or where the file holds no gold at all.
    """
    try:
        lines = storage.read_bytes(path).split(b"\n")
    except OSError as error:
        raise UsageError(f"--gold {path} cannot be read: {error}") from error
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"--gold {path}, line {number}"
            doc_id, keywords = _entry(line, place)
            if doc_id in found:
                raise UsageError(f"{place}: id {doc_id!r} stands twice")
            found[doc_id] = keywords
    if not any(found.values()):
        raise UsageError(f"--gold {path} holds no keywords")
    return GoldSet(path.rstrip("/").rpartition("/")[2], found)


def _entry(line: bytes, place: str) -> tuple[str, tuple[str, ...]]:
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise UsageError(f"{place}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{place}: {_shown(values)} is no object")
    doc_id, keywords = values.get("id"), values.get("keywords")
    if isinstance(doc_id, bool) or not isinstance(doc_id, str | int) or doc_id == "":
        raise UsageError(f"{place}: id must be a string or an integer, not {_shown(doc_id)}")
    if not isinstance(keywords, list) or not all(isinstance(word, str) for word in keywords):
        raise UsageError(f"{place}: keywords must be a list of strings, not {_shown(keywords)}")
    return str(doc_id), tuple(keywords)


def _shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), 60)
