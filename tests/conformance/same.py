"""What it means that two runs are the same: see "What 'the same' means" in docs/data-model.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.pipeline.conftest import content_of, read_dataset

# With torch and float32.
EMBEDDING_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-3
_EXACT = (
    "doc_id", "source", "language", "title", "text_sha256", "num_chars", "num_terms", "num_tokens",
    "num_chunks", "truncated", "keywords_tfidf", "keywords_textrank", "keywords_lda", "topics",
)  # fmt: skip
_NEARLY = ("keywords_bert", "keywords")


def assert_same(run: Path, reference: Path, without: tuple[str, ...] = ()) -> None:
    """Fail naming the first thing in which a run differs from the reference.

    without: files that are not compared.
    """
    got, expected = content_of(run), content_of(reference)
    for path in without:
        del got[path], expected[path]
    assert sorted(got) == sorted(expected)
    # All but what holds floats of the encoder is the same byte for byte.
    for path in got:
        if not path.startswith(("documents/", "reuse/encoded/")):
            assert got[path] == expected[path], f"{path} differs"
    if any(path.startswith("documents/") for path in got):
        _assert_same_documents(run, reference)


def _assert_same_documents(run: Path, reference: Path) -> None:
    got, expected = read_dataset(run, "documents"), read_dataset(reference, "documents")
    assert got.schema == expected.schema
    for name in _EXACT:
        assert got[name].equals(expected[name]), f"column {name} differs"
    pairs = zip(got["embedding"].to_pylist(), expected["embedding"].to_pylist(), strict=True)
    for vector, other in pairs:
        if vector is None or other is None:  # not asked for
            assert vector is other
            continue
        np.testing.assert_allclose(vector, other, rtol=0, atol=EMBEDDING_TOLERANCE)
    for name in _NEARLY:
        for one, two in zip(got[name].to_pylist(), expected[name].to_pylist(), strict=True):
            if one is None or two is None:
                assert one is two
                continue
            assert_same_keywords(one, two)


def assert_same_keywords(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Scores within SCORE_TOLERANCE, and the same order but for scores closer than that."""
    assert len(one) == len(two)
    scores = [{entry["term"]: entry["score"] for entry in entries} for entries in (one, two)]
    for mine, theirs in (scores, scores[::-1]):
        for term, score in mine.items():
            # A term that is missing was as good as the last one that is there.
            other = theirs.get(term, min(theirs.values()))
            assert abs(score - other) <= SCORE_TOLERANCE, f"{term}: {score} and {other}"
    for entry, other in zip(one, two, strict=True):
        if entry["term"] != other["term"]:
            assert abs(entry["score"] - other["score"]) <= SCORE_TOLERANCE
