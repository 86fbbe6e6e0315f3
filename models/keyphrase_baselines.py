"""What the fused keywords are compared with: first phrases, and jieba's own extractors."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Sequence

import pyarrow as pa

from lexbeam.models.keyphrase_candidates import find_candidates

Extractor = Callable[..., list[str]]


def first_phrases(batch: pa.RecordBatch, top_k: int) -> list[list[str]]:
    """The first candidate phrases of each document; of those that begin at one word the longest.

    Args:
        batch: as for `find_candidates`.
        top_k: phrases a document, at most.

    Returns:
        For each document distinct candidates that do not overlap, as they first stand.
    """
    found = find_candidates(batch)
    documents = found.documents[found.phrases].tolist()
    rows = zip(
        documents, found.phrases.tolist(), found.starts.tolist(), found.ends.tolist(), strict=True
    )
    lists: list[dict[int, tuple[int, int]]] = [{} for _ in range(batch.num_rows)]
    behind = [0] * batch.num_rows
    # Occurrences ascend by first word, so the longest of each place comes before the next place.
    for document, phrase, start, end in sorted(rows, key=lambda row: (row[0], row[2], -row[3])):
        if start >= behind[document] and len(lists[document]) < top_k:
            lists[document].setdefault(phrase, (start, end))
            behind[document] = end
    contents = batch.column("content").to_pylist()
    return [
        [" ".join(text[start:end].split()) for start, end in chosen.values()]
        for text, chosen in zip(contents, lists, strict=True)
    ]


def jieba_keywords(contents: Sequence[str], method: str, top_k: int) -> list[list[str]]:
    """`jieba.analyse.extract_tags` (`tfidf`) or `jieba.analyse.textrank` of Chinese texts.

    Raises:
        ValueError: the method is neither.
    """
    extract = _jieba_extractor(method)
    return [[str(word) for word in extract(text, topK=top_k)] for text in contents]


@functools.cache
def _jieba_extractor(method: str) -> Extractor:
    if method not in ("tfidf", "textrank"):
        raise ValueError(f"method must be tfidf or textrank, not {method!r}")
    with warnings.catch_warnings():
        # Of its regular expressions and of pkg_resources, as it is imported.
        warnings.simplefilter("ignore")
        import jieba
        import jieba.analyse
    jieba.setLogLevel(logging.WARNING)
    extractors: dict[str, Extractor] = {
        "tfidf": jieba.analyse.extract_tags,
        "textrank": jieba.analyse.textrank,
    }
    return extractors[method]
