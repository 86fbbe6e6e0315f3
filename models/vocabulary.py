"""The vocabulary of a corpus: which terms are kept, their ids, frequencies and idf.

Partitions of counts (`counts.partition_counts`) are pruned one by one (`prune_counts`), wherever
they are, and only what is left meets in `build_vocabulary`. Term ids are row numbers in ascending
UTF-8 byte order of the terms, so they depend on the counts alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lexbeam.models import counts as term_counts
from lexbeam.models import schemas
from lexbeam.models.config import CountConfig
from lexbeam.models.string_index import StringIndex

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

PRUNED = pa.schema([field for field in schemas.TERMS if field.name != "idf"])
"""Terms that pruning kept, frequencies summed over languages."""

_METADATA_KEY = b"lexbeam"
# Pruned tables are cut to `max_terms` whenever so many rows more than 4 x max_terms have come.
_MIN_PENDING_ROWS = 2**20


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Terms with their statistics; all arrays have one row for each term.

    Attributes:
        terms: (num_terms,) string, ascending in UTF-8 byte order; the row number is the term id.
        document_frequency: (num_terms,) int64, documents with the term, of all languages.
        collection_frequency: (num_terms,) int64, occurrences.
        idf: (num_terms,) float64, ln((1 + N) / (1 + document_frequency)) + 1.
        num_documents: N, documents of all languages.
        num_documents_by_language: their number for each language.
    """

    terms: pa.Array
    document_frequency: Int64Array
    collection_frequency: Int64Array
    idf: Float64Array
    num_documents: int
    num_documents_by_language: dict[str, int]

    def __len__(self) -> int:
        return len(self.terms)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the look-up table, which is made again where it is needed."""
        return {name: value for name, value in vars(self).items() if name != "_index"}

    def term_id(self, terms: pa.Array) -> npt.NDArray[np.int32]:
        """Ids of terms.

        Args:
            terms: (n,) string without nulls.

        Returns:
            (n,) int32, -1 for a term that the vocabulary lacks.
        """
        if not len(self) or not len(terms):
            return np.full(len(terms), -1, dtype=np.int32)
        return self._index.find(terms).astype(np.int32)

    def bag_of_words(self, terms: pa.ListArray) -> pa.RecordBatch:
        """Count the vocabulary's terms in each document.

        Args:
            terms: list<string> of n documents; null for rejected and dropped ones.

        Returns:
            `schemas.BOW`, n rows: ids ascending within a document, and their counts; null where
            `terms` is null, empty lists where no term is in the vocabulary.
        """
        encoded = terms.flatten().dictionary_encode()
        ids = self.term_id(encoded.dictionary)[encoded.indices.to_numpy()].astype(np.int64)
        document = np.repeat(np.arange(len(terms)), term_counts.list_lengths(terms))
        num_terms = max(len(self), 1)
        seen = np.sort((document * num_terms + ids)[ids >= 0], kind="stable")
        first = np.flatnonzero(np.append(True, seen[1:] != seen[:-1])[: len(seen)])
        frequency = np.diff(np.append(first, len(seen)))
        per_document = np.bincount(seen[first] // num_terms, minlength=len(terms))
        offsets = term_counts.row_offsets(per_document)
        columns = [
            term_counts.make_lists(offsets, pa.array(values, pa.int32()), terms)
            for values in (seen[first] % num_terms, frequency)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schemas.BOW)

    def to_table(self) -> pa.Table:
        """`schemas.TERMS`, ascending by term."""
        columns = [
            self.terms,
            self.document_frequency,
            self.collection_frequency,
            self.idf,
        ]
        return pa.Table.from_arrays([pa.array(c) for c in columns], schema=schemas.TERMS)

    def save(self, where: str | Path | IO[bytes]) -> None:
        """Write one Parquet file: `schemas.TERMS`, and the numbers of documents as metadata.

        The same vocabulary gives the same bytes with the same version of pyarrow.

        Args:
            where: a local path, or a binary file open for writing.
        """
        totals = {
            "num_documents": self.num_documents,
            "num_documents_by_language": self.num_documents_by_language,
        }
        metadata = {_METADATA_KEY: json.dumps(totals, sort_keys=True)}
        table = self.to_table().replace_schema_metadata(metadata)
        # Opened here, since pyarrow takes a name with a colon for a URL.
        with open(where, "wb") if isinstance(where, str | Path) else nullcontext(where) as file:
            pq.write_table(table, file, compression="zstd", row_group_size=2**18)

    @staticmethod
    def load(path: str | Path) -> Vocabulary:
        """Read what `save` wrote, from a local file, by memory map.

        Raises:
            OSError: the file cannot be read, or is not there.
            ValueError: the file is no vocabulary, or is damaged; names the path.
        """
        try:
            with pa.memory_map(str(path)) as file:
                table = pq.ParquetFile(file).read()
            totals = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            vocabulary = _from_table(table, totals["num_documents_by_language"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{path} is not a vocabulary: {error}") from error
        if vocabulary.num_documents != totals.get("num_documents"):
            raise ValueError(f"{path} is not a vocabulary: numbers of documents do not add up")
        return vocabulary

    @cached_property
    def _index(self) -> StringIndex:
        return StringIndex(self.terms)


@lru_cache(maxsize=4)
def cached_vocabulary(path: str | Path) -> Vocabulary:
    """`Vocabulary.load`, once per process and path; for files that do not change."""
    return Vocabulary.load(path)


def prune_counts(
    counts: pa.Table, num_documents_by_language: Mapping[str, int], config: CountConfig
) -> pa.Table:
    """Drop the terms of one partition that are too rare or too frequent.

    Too rare: the document frequency over all languages is below `min_df` (a fraction: of all
    documents). Too frequent: in the language where its document frequency is highest (of equal
    ones the first by name), that frequency is above `max_df` (a fraction: of that language's
    documents). With one language both rules are those of scikit-learn's `CountVectorizer`.
    Of the rest at most `max_terms` stay, since no more can be in the vocabulary.

    Args:
        counts: `schemas.COUNTS`, merged or not; must hold all rows of each of its terms.
        num_documents_by_language: documents of the whole corpus, of each language in `counts`.
        config: the limits.

    Returns:
        `PRUNED`, ascending by term in UTF-8 byte order; maybe empty.

    Raises:
        ValueError: `counts` has a language that `num_documents_by_language` lacks.
    """
    distinct, rank = term_counts.encode_sorted(counts["term"])
    document, collection = (
        _sum_by(rank, counts[name].to_numpy(), len(distinct))
        for name in ("document_frequency", "collection_frequency")
    )
    lowest = _limit(config.min_df, sum(num_documents_by_language.values()))
    frequent = _too_frequent(counts, rank, len(distinct), num_documents_by_language, config.max_df)
    kept = np.flatnonzero((document >= lowest) & ~frequent)
    kept = kept[_most_collected(collection[kept], config.max_terms)]
    columns = [
        term_counts.take_strings(distinct, kept),
        pa.array(document[kept]),
        pa.array(collection[kept]),
    ]
    return pa.Table.from_arrays(columns, schema=PRUNED)


def fallback_config(config: CountConfig) -> CountConfig:
    """The limits for a corpus of which pruning left nothing: min_df 1 and max_df 1.0.

    Partitions are pruned apart from each other, so only the caller sees that nothing is left:
    where `sum(table.num_rows for table in pruned)` is 0, prune every partition again with this,
    and warn. `fit_vocabulary` does so for partitions in memory. What is then still empty is a
    corpus without terms, and its vocabulary is empty.
    """
    return replace(config, min_df=1, max_df=1.0)


def build_vocabulary(
    pruned: Iterable[pa.Table],
    num_documents_by_language: Mapping[str, int],
    config: CountConfig,
) -> Vocabulary:
    """Unite pruned partitions and keep the `max_terms` of highest collection frequency.

    Of equal frequencies the first by term are kept. Only about `max_terms` rows are held at a
    time, so the partitions may come from an iterator.

    Args:
        pruned: `PRUNED` tables of `prune_counts`, in any order, no term in two of them.
        num_documents_by_language: documents of each language.
        config: `max_terms`; the other limits have been applied.

    Returns:
        The vocabulary; empty where the tables are.

    Raises:
        ValueError: a term occurs twice.
    """
    pending = [PRUNED.empty_table()]
    for table in pruned:
        pending.append(table)
        if sum(t.num_rows for t in pending) > 4 * config.max_terms + _MIN_PENDING_ROWS:
            pending = [_keep_best(pa.concat_tables(pending), config.max_terms)]
    best = _keep_best(pa.concat_tables(pending), config.max_terms)
    num_documents = sum(num_documents_by_language.values())
    idf = smooth_idf(best["document_frequency"].to_numpy(), num_documents)
    return _from_table(best.append_column("idf", pa.array(idf)), num_documents_by_language)


def fit_vocabulary(
    counts: Sequence[pa.Table],
    num_documents_by_language: Mapping[str, int],
    config: CountConfig,
) -> tuple[Vocabulary, CountConfig]:
    """Vocabulary of partitions in memory, with the fallback; also returns the limits used."""
    for limits in (config, fallback_config(config)):
        pruned = [prune_counts(table, num_documents_by_language, limits) for table in counts]
        if any(table.num_rows for table in pruned):
            break
    return build_vocabulary(pruned, num_documents_by_language, limits), limits


def smooth_idf(document_frequency: Int64Array, num_documents: int) -> Float64Array:
    """ln((1 + N) / (1 + df)) + 1, as scikit-learn's `smooth_idf=True`. (n,) int64 to float64."""
    return logarithm((1 + num_documents) / (1 + document_frequency)) + 1.0


def logarithm(values: npt.NDArray[Any]) -> Float64Array:
    """Natural logarithm by the C library, value by value.

    NumPy chooses among vector versions that differ in the last bit between processors; few
    distinct values occur in frequencies, so the scalar function costs little.
    """
    distinct, place = np.unique(values, return_inverse=True)
    logarithms = np.array([math.log(value) for value in distinct.tolist()], dtype=np.float64)
    return logarithms[place]


def _limit(value: int | float, num_documents: int) -> int | float:
    """A fraction as a number of documents, computed as scikit-learn does."""
    return value * num_documents if isinstance(value, float) else value


def _sum_by(group: Int64Array, values: Int64Array, num_groups: int) -> Int64Array:
    """Sums of whole numbers by group; exact below 2**53."""
    return np.bincount(group, weights=values, minlength=num_groups).astype(np.int64)


def _too_frequent(
    counts: pa.Table,
    rank: Int64Array,
    num_terms: int,
    num_documents_by_language: Mapping[str, int],
    max_df: int | float,
) -> npt.NDArray[np.bool_]:
    """(num_terms,) bool: above `max_df` in the language where the term is most frequent."""
    names, language_rank = term_counts.encode_sorted(counts["language"])
    frequency = counts["document_frequency"].to_numpy()
    peak = np.zeros(num_terms, dtype=np.int64)
    frequent = np.zeros(num_terms, dtype=np.bool_)
    for index, name in enumerate(names.to_pylist()):
        if name not in num_documents_by_language:
            raise ValueError(f"counts of language {name!r}, but no number of its documents")
        rows = np.flatnonzero(language_rank == index)
        here = _sum_by(rank[rows], frequency[rows], num_terms)
        higher = here > peak
        peak[higher] = here[higher]
        frequent[higher] = here[higher] > _limit(max_df, num_documents_by_language[name])
    return frequent


def _most_collected(collection_frequency: Int64Array, max_terms: int) -> Int64Array:
    """Rows of the `max_terms` highest values, of equal ones the first; ascending."""
    if len(collection_frequency) <= max_terms:
        return np.arange(len(collection_frequency))
    return np.sort(np.argsort(-collection_frequency, kind="stable")[:max_terms])


def _keep_best(pruned: pa.Table, max_terms: int) -> pa.Table:
    """`PRUNED`, ascending by term, cut to `max_terms`. Raises ValueError if a term is twice."""
    distinct, rank = term_counts.encode_sorted(pruned["term"])
    if len(distinct) != len(rank):
        raise ValueError("a term occurs in two partitions, or twice in one")
    order = np.argsort(rank, kind="stable")
    collection = pruned["collection_frequency"].to_numpy()[order]
    kept = _most_collected(collection, max_terms)
    columns = [
        term_counts.take_strings(distinct, kept),
        pa.array(pruned["document_frequency"].to_numpy()[order[kept]]),
        pa.array(collection[kept]),
    ]
    return pa.Table.from_arrays(columns, schema=PRUNED)


def _from_table(table: pa.Table, num_documents_by_language: Mapping[str, int]) -> Vocabulary:
    """Vocabulary from `schemas.TERMS`. Raises ValueError if terms are not strictly ascending."""
    if not table.schema.equals(schemas.TERMS):
        raise ValueError(f"columns {table.schema.names}, not {schemas.TERMS.names}")
    if any(column.null_count for column in table.columns):
        raise ValueError("a value is null")
    terms = pa.concat_arrays([pa.array([], pa.string()), *table["term"].chunks])
    if not pc.all(pc.less(terms[:-1], terms[1:])).as_py() and len(terms) > 1:
        raise ValueError("the terms are not in ascending order")
    return Vocabulary(
        terms=terms,
        **{name: table[name].to_numpy() for name in schemas.TERMS.names[1:]},
        num_documents=sum(num_documents_by_language.values()),
        num_documents_by_language=dict(sorted(num_documents_by_language.items())),
    )
