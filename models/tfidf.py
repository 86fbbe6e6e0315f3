"""TF-IDF weights of blocks of documents, equal to scikit-learn's `TfidfTransformer`.

A weight is tf * idf, divided by the L2 norm of its document (smooth idf, see
`vocabulary.smooth_idf`). Every sum runs over one document in the order of its term ids, so a
document gets the same bits in whatever block it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models import counts as term_counts
from lexbeam.models import schemas
from lexbeam.models.config import CountConfig, TextConfig
from lexbeam.models.vocabulary import Vocabulary, logarithm

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[Any]


def weights(
    indptr: IntArray,
    term_ids: IntArray,
    counts: IntArray,
    idf: Float64Array,
    sublinear_tf: bool = False,
) -> Float64Array:
    """TF-IDF weights of documents in compressed sparse row form.

    Args:
        indptr: (num_documents + 1,) integer, where each document's entries begin and end;
            begins with 0 and ends with nnz.
        term_ids: (nnz,) integer, indices into `idf`.
        counts: (nnz,) integer, occurrences of the term in the document, at least 1.
        idf: (num_terms,) float64.
        sublinear_tf: take 1 + ln(count) for the count.

    Returns:
        (nnz,) float64; the squares of a document's weights sum to 1.

    Raises:
        ValueError: the arrays do not fit together.
    """
    if indptr[0] != 0 or not indptr[-1] == len(term_ids) == len(counts):
        raise ValueError("indptr must run from 0 to the length of term_ids and counts")
    frequency = logarithm(counts) + 1.0 if sublinear_tf else counts.astype(np.float64)
    raw = frequency * idf[term_ids]
    num_documents = len(indptr) - 1
    document = np.repeat(np.arange(num_documents), np.diff(indptr))
    # bincount adds one value after the other; a pairwise sum could depend on the block.
    norm = np.sqrt(np.bincount(document, weights=raw * raw, minlength=num_documents))
    return raw / norm[document]


def top_terms(
    bow: pa.RecordBatch, vocabulary: Vocabulary, top_k: int, sublinear_tf: bool = False
) -> pa.ListArray:
    """The `top_k` terms of highest weight of each document.

    Weights are compared as they are stored, in float32; equal ones stand in term order.

    Args:
        bow: `schemas.BOW`, ids ascending within a document.
        vocabulary: what the ids refer to.
        top_k: terms a document at most, at least 1.
        sublinear_tf: see `weights`.

    Returns:
        `schemas.KEYWORDS`, best first; null for null rows, empty for documents without terms.

    Raises:
        ValueError: `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    lists = bow.column("term_ids")
    term_ids = lists.flatten().to_numpy()
    indptr = term_counts.row_offsets(term_counts.list_lengths(lists))
    counts = bow.column("counts").flatten().to_numpy()
    scores = weights(indptr, term_ids, counts, vocabulary.idf, sublinear_tf).astype(np.float32)
    order = _best_first(indptr, scores)
    kept = np.minimum(np.diff(indptr), top_k)
    offsets = term_counts.row_offsets(kept)
    # Entry j of document i, for j below kept[i].
    place = np.arange(offsets[-1]) + np.repeat(indptr[:-1] - offsets[:-1], kept)
    chosen = order[place]
    terms = vocabulary.terms.take(pa.array(term_ids[chosen]))
    pairs = pa.StructArray.from_arrays(
        [terms, pa.array(scores[chosen])], fields=list(schemas.KEYWORDS.value_type)
    )
    return term_counts.make_lists(offsets, pairs, lists).cast(schemas.KEYWORDS)


def to_sklearn(
    model_dir: str | Path,
    analyzer: Callable[[str], list[str]] | None = None,
    sublinear_tf: bool | None = None,
) -> TfidfVectorizer:
    """A fitted `TfidfVectorizer` that gives the same matrix as lexbeam.

    Args:
        model_dir: the folder `model` of a run (local): `vocabulary.parquet`, `config.json` and the
            dictionaries that it names.
        analyzer: content of a document to its terms, in place of lexbeam's own tokenizer.
        sublinear_tf: see `weights`; None: as the run that fitted the model had it.

    Returns:
        The vectorizer: `transform(contents)` is (num_documents, num_terms) float64, columns in
        the order of term ids; a content is title, newline, text. It can be pickled.

    Raises:
        FileNotFoundError: a file of the model is missing.
        ValueError: the vocabulary is empty or damaged, or the configuration is.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    folder = Path(model_dir)
    vocabulary = Vocabulary.load(folder / "vocabulary.parquet")
    if not len(vocabulary):
        raise ValueError(f"the vocabulary in {folder} is empty")
    if sublinear_tf is None:
        sublinear_tf = _fitted_sublinear(folder)
    vectorizer = TfidfVectorizer(
        analyzer=analyzer or TermAnalyzer(read_text_config(folder)),
        vocabulary={term: index for index, term in enumerate(vocabulary.terms.to_pylist())},
        sublinear_tf=sublinear_tf,
    )
    vectorizer.idf_ = np.array(vocabulary.idf)
    return vectorizer


def _fitted_sublinear(model_dir: Path) -> bool:
    """The option `sublinear_tf` of a model; raises FileNotFoundError, ValueError."""
    path = model_dir / "config.json"
    try:
        section = json.loads(path.read_text(encoding="utf-8")).get("counts", {})
        return CountConfig(**section).sublinear_tf
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has no valid section 'counts': {error}") from error


class TermAnalyzer:
    """Content of one document to its terms, by lexbeam's tokenizer; an `analyzer` of scikit-learn.

    The tokenizer is made at the first call, and made again after pickling.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self._tokenizer: Any = None

    def __call__(self, content: str) -> list[str]:
        """Terms of one document, in their order."""
        from lexbeam.models import language, tokens

        if self._tokenizer is None:
            self._tokenizer = tokens.Tokenizer(self.config)
        name = self.config.language
        name = language.detect_language(content) if name == "auto" else name
        block = self._tokenizer.tokenize(pa.array([content]), pa.array([name]))
        lists = term_counts.term_lists(block.column("tokens"), block.column("kinds"))
        terms: list[str] = lists.to_pylist()[0]
        return terms

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_tokenizer": None}


def read_text_config(model_dir: Path) -> TextConfig:
    """The `text` section of a model's `config.json`, dictionaries as paths in the model's folder.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: it is not as expected, or names a file outside the folder.
    """
    path = model_dir / "config.json"
    try:
        section = json.loads(path.read_text(encoding="utf-8"))["text"]
        config = TextConfig(**section)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has no valid section 'text': {error}") from error
    files: dict[str, str] = {}
    for option in ("user_dict", "stopwords"):
        name = getattr(config, option)
        if name is None:
            continue
        is_bare = isinstance(name, str) and name not in ("", ".", "..")
        if not is_bare or "/" in name or "\\" in name:
            raise ValueError(f"{path}: {option} must be a file name in the same folder: {name!r}")
        files[option] = str(model_dir / name)
    return replace(config, **files)


def _best_first(indptr: IntArray, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Entries ordered by document, falling score, place."""
    document = np.repeat(np.arange(len(indptr) - 1, dtype=np.uint64), np.diff(indptr))
    # The bits of positive floats order like the floats; one stable integer sort does it all.
    falling = np.uint64(2**32 - 1) - scores.view(np.uint32)
    return np.argsort((document << np.uint64(32)) | falling, kind="stable")
