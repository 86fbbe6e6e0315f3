"""Document and collection frequencies of terms, as Arrow tables that merge in any order.

A block of documents gives one small table (`count_codes`, `count_terms`), tables add up
(`CountSums`, `merge_counts`), and a table is cut by a stable hash of the term
(`partition_counts`), so that each partition can be reduced on its own. Nothing here creates a
Python object for a token or a term, and the compiled loops let other threads run.

Strings: a string array holds less than 2 GiB. Where the distinct terms together are larger,
the arithmetic runs on `large_string` and the resulting `term` column has several chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models import schemas
from lexbeam.models.utf8 import utf8_buffers

Int64Array = npt.NDArray[np.int64]

# An int32 offset ends here.
_MAX_STRING_BYTES = 2**31 - 1
# Tables waiting to be merged: at most this many rows, or as many as are merged already.
_MIN_PENDING_ROWS = 2**20
# So many rows show whether it is worth looking at all of them.
_SAMPLE_ROWS = 1000

_KEYS = ("term", "language")
_FREQUENCIES = ("document_frequency", "collection_frequency")


def list_lengths(lists: pa.ListArray) -> Int64Array:
    """Lengths of the lists, int64; a null list has length 0."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(lengths, dtype=np.int64)


def row_offsets(lengths: Int64Array) -> Int64Array:
    """(n,) lengths to (n + 1,) offsets, int64, beginning with 0."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def make_lists(offsets: Int64Array, values: pa.Array, like: pa.ListArray) -> pa.ListArray:
    """Lists of `values` between `offsets`, null where `like` is null."""
    mask = like.is_null() if like.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)


def term_lists(tokens: pa.ListArray, kinds: pa.ListArray) -> pa.ListArray:
    """The tokens of kind TERM of each document.

    Args:
        tokens: list<string>, normalised tokens; null for rejected documents.
        kinds: list<int8>, aligned with `tokens`, null in the same rows.

    Returns:
        list<string>, the order kept; null where `tokens` is null.

    Raises:
        ValueError: the two columns are not aligned.
    """
    lengths = list_lengths(tokens)
    if not np.array_equal(lengths, list_lengths(kinds)):
        raise ValueError("tokens and kinds must have the same number of items in every row")
    is_term = kinds.flatten().to_numpy(zero_copy_only=False) == schemas.TERM
    terms_before = row_offsets(is_term)
    values = tokens.flatten().filter(pa.array(is_term))
    return make_lists(terms_before[row_offsets(lengths)], values, tokens)


def count_terms(
    terms: pa.ListArray | pa.ChunkedArray, languages: pa.StringArray | pa.ChunkedArray
) -> pa.Table:
    """Document and collection frequency of each (term, language).

    Args:
        terms: list<string>, the terms (or phrases) of each document; null rows are left out.
        languages: string, aligned with `terms`; must not be null where `terms` is not.

    Returns:
        `schemas.COUNTS`, one row for each (term, language) that occurs, in no promised order.

    Raises:
        ValueError: a document with terms has no language, or a term is null.
    """
    blocks = pa.table({"terms": terms, "languages": languages}).to_batches()
    tables = [_count_block(*block.columns) for block in blocks]
    return tables[0] if len(tables) == 1 else merge_counts(tables)


def count_codes(
    codes: npt.NDArray[np.integer],
    offsets: Int64Array,
    languages: npt.NDArray[np.integer],
    strings: pa.Array,
    names: Sequence[str],
) -> pa.Table:
    """Document and collection frequency of each (string, language), given by codes.

    Args:
        codes: (num_items,) index into `strings` of each occurrence, document after document.
        offsets: (num_documents + 1,) where each document's items begin and end.
        languages: (num_documents,) index into `names`; anything for a document without items.
        strings: (num_strings,) string, distinct.
        names: the languages, distinct.

    Returns:
        `schemas.COUNTS`, one row for each (string, language) that occurs, in no promised order.
    """
    from lexbeam.models import count_kernels

    num_strings = len(strings)
    document, collection = count_kernels.count_frequencies(
        codes.astype(np.int64), offsets, languages.astype(np.int64), num_strings, len(names)
    )
    occurs = np.flatnonzero(collection)
    columns = [
        strings.take(pa.array(occurs % max(num_strings, 1))).cast(pa.string()),
        pa.array(names, pa.string()).take(pa.array(occurs // max(num_strings, 1))),
        pa.array(document[occurs]),
        pa.array(collection[occurs]),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.COUNTS)


class CountSums:
    """Counts that add up as they come.

    Attributes:
        num_rows: rows held now; once `compact` has been called, one for each (term, language).
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self._tables: list[pa.Table] = []
        self._is_compact = True

    def add(self, table: pa.Table) -> None:
        """Take in the rows of a `schemas.COUNTS` table."""
        self._tables.append(table)
        self.num_rows += table.num_rows
        self._is_compact = False

    def compact(self) -> pa.Table:
        """Hold one row for each (term, language), and return them in no promised order.

        Raises:
            ValueError: a term or a language is null.
        """
        held = pa.concat_tables([schemas.COUNTS.empty_table(), *self._tables])
        if not self._is_compact:
            held = _sum_counts(held)
            self._tables, self.num_rows, self._is_compact = [held], held.num_rows, True
        return held

    def merged(self) -> pa.Table:
        """The sums, as `merge_counts` returns them."""
        held = self.compact()
        order = pc.sort_indices(held, sort_keys=[(name, "ascending") for name in _KEYS])
        return _take_counts(held, order.to_numpy())


def merge_counts(tables: Iterable[pa.Table]) -> pa.Table:
    """Sum counts over (term, language).

    Tables are merged as they come, so that an iterator of many tables needs memory in
    proportion to the distinct terms only. Sums are those of 64-bit integers.

    Args:
        tables: `schemas.COUNTS` tables in any order, split in any way.

    Returns:
        `schemas.COUNTS`, ascending by (term, language) in UTF-8 byte order: the same bytes for
        any split and order of the same counts.

    Raises:
        ValueError: a term or a language is null.
    """
    sums, most_rows = CountSums(), _MIN_PENDING_ROWS
    for table in tables:
        sums.add(table)
        if sums.num_rows > most_rows:
            # What does not shrink must not be merged again with every table.
            most_rows = max(_MIN_PENDING_ROWS, 2 * sums.compact().num_rows)
    return sums.merged()


def negated(counts: pa.Table) -> pa.Table:
    """The counts with the opposite sign: what is to be taken away from a sum."""
    columns = [counts["term"], counts["language"], *(pc.negate(counts[n]) for n in _FREQUENCIES)]
    return pa.Table.from_arrays(columns, schema=schemas.COUNTS)


def without_zeros(counts: pa.Table) -> pa.Table:
    """The rows that occur; raises ValueError where one occurs less than never."""
    if counts.num_rows and pc.min(counts["document_frequency"]).as_py() < 0:
        raise ValueError("more was taken away from the counts than they held")
    return counts.filter(pc.greater(counts["document_frequency"], 0))


def partition_counts(counts: pa.Table, num_partitions: int) -> list[pa.Table]:
    """Cut a table by the hash of the term; all languages of a term go into one partition.

    Args:
        counts: `schemas.COUNTS` (or any table with a `term` column).
        num_partitions: number of partitions, at least 1.

    Returns:
        `num_partitions` tables of the same schema, some possibly empty, rows in their old order.
        Each owns its buffers: pickling one does not ship the others.

    Raises:
        ValueError: `num_partitions` is below 1.
    """
    if num_partitions < 1:
        raise ValueError(f"num_partitions must be at least 1, not {num_partitions}")
    pieces: list[list[pa.RecordBatch]] = [[] for _ in range(num_partitions)]
    for batch in counts.to_batches():
        hashes = term_hashes(batch.column("term"))
        partition = (hashes % np.uint64(num_partitions)).astype(np.int64)
        # Small integers are sorted in linear time.
        small = np.uint16 if num_partitions <= 2**16 else np.int64
        order = np.argsort(partition.astype(small), kind="stable")
        sizes = np.bincount(partition, minlength=num_partitions)
        ends = np.cumsum(sizes)
        for index in np.flatnonzero(sizes):
            rows = order[ends[index] - sizes[index] : ends[index]]
            pieces[index].append(batch.take(pa.array(rows)))
    return [pa.Table.from_batches(batches, schema=counts.schema) for batches in pieces]


def term_hashes(terms: pa.Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of the UTF-8 bytes of each string.

    The same on every machine, in every process and for every slicing of the array.

    Args:
        terms: (n,) string or large_string without nulls.

    Returns:
        (n,) uint64.
    """
    from lexbeam.models import string_kernels

    offsets, data = utf8_buffers(terms)
    return string_kernels.hash_strings(data, offsets)


def encode_sorted(strings: pa.ChunkedArray) -> tuple[pa.Array, Int64Array]:
    """Distinct strings and the place of every row among them.

    Returns:
        The distinct strings, ascending in UTF-8 byte order (string, or large_string where the
        rows hold 2 GiB or more together), and (n,) int64, each row's index into them.

    Raises:
        ValueError: a row is null.
    """
    if strings.null_count:
        raise ValueError("a term and a language must not be null")
    strings = _wide(strings)
    if _is_ascending(strings):
        return _encode_ascending(strings)
    distinct, codes = _dictionary_codes(strings)
    order = pc.sort_indices(distinct).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct.take(pa.array(order)), rank[codes]


def take_strings(strings: pa.Array, indices: Int64Array) -> pa.ChunkedArray:
    """`strings[indices]` as string; cut into chunks so that none reaches 2 GiB."""
    offsets = utf8_buffers(strings)[0]
    taken = row_offsets(np.diff(offsets)[indices])
    spans = _spans(taken, _MAX_STRING_BYTES)
    chunks = [strings.take(pa.array(indices[i:j])).cast(pa.string()) for i, j in spans]
    return pa.chunked_array(chunks, pa.string())


def _dictionary_codes(strings: pa.ChunkedArray) -> tuple[pa.Array, Int64Array]:
    """Distinct strings in order of appearance, and each row's code."""
    # Arrow encodes all chunks against one dictionary, which each of them refers to.
    chunks = strings.dictionary_encode().chunks
    if not chunks:
        return pa.array([], strings.type), np.zeros(0, dtype=np.int64)
    codes = [chunk.indices.to_numpy().astype(np.int64) for chunk in chunks]
    return chunks[0].dictionary, np.concatenate(codes)


def _wide(strings: pa.ChunkedArray) -> pa.ChunkedArray:
    """The strings, as large_string where they hold 2 GiB or more together."""
    num_bytes = pc.sum(pc.binary_length(strings), min_count=0).as_py()
    return strings if num_bytes <= _MAX_STRING_BYTES else strings.cast(pa.large_string())


def _is_ascending(strings: pa.ChunkedArray) -> bool:
    """Whether no string stands before a smaller one."""
    for rows in (strings[:_SAMPLE_ROWS], strings):
        if not pc.all(pc.less_equal(rows[:-1], rows[1:]), min_count=0).as_py():
            return False
    return True


def _encode_ascending(strings: pa.ChunkedArray) -> tuple[pa.Array, Int64Array]:
    """`encode_sorted` of strings in ascending order: equal ones are neighbours."""
    is_first = np.ones(len(strings), dtype=np.bool_)
    is_first[1:] = pc.not_equal(strings[1:], strings[:-1]).to_numpy()
    distinct = strings.filter(pa.array(is_first)).chunks
    return pa.concat_arrays([pa.array([], strings.type), *distinct]), np.cumsum(is_first) - 1


def _count_block(terms: pa.ListArray, languages: pa.StringArray) -> pa.Table:
    """Counts of one block."""
    lengths = list_lengths(terms)
    flat = terms.flatten()
    has_terms = lengths > 0
    spoken = languages.filter(pa.array(has_terms))
    if flat.null_count or spoken.null_count:
        raise ValueError("a term, and the language of a document with terms, must not be null")
    distinct, codes = _dictionary_codes(pa.chunked_array([flat]))
    names, language_codes = _dictionary_codes(pa.chunked_array([spoken]))
    offsets = row_offsets(lengths[has_terms])
    return count_codes(codes, offsets, language_codes, distinct, names.to_pylist())


def _sum_counts(counts: pa.Table) -> pa.Table:
    """Sums over equal (term, language), in order of appearance."""
    if any(counts[name].null_count for name in _KEYS):
        raise ValueError("a term and a language must not be null")
    counts = counts.set_column(0, "term", _wide(counts["term"]))
    # With threads the order would change from run to run.
    groups = counts.group_by(list(_KEYS), use_threads=False)
    sums = groups.aggregate([(name, "sum") for name in _FREQUENCIES])
    sums = sums.select([*_KEYS, *(f"{name}_sum" for name in _FREQUENCIES)])
    sums = sums.rename_columns(schemas.COUNTS.names)
    is_wide = sums["term"].type != pa.string()
    return _take_counts(sums, np.arange(len(sums))) if is_wide else sums


def _take_counts(counts: pa.Table, order: Int64Array) -> pa.Table:
    """The rows in another order, each column in as few chunks as it can be."""
    terms = _wide(counts["term"]).combine_chunks()
    columns = [counts[name].combine_chunks() for name in counts.schema.names[1:]]
    taken = [column.take(pa.array(order)) for column in columns]
    return pa.Table.from_arrays([take_strings(terms, order), *taken], schema=schemas.COUNTS)


def _spans(offsets: Int64Array, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Consecutive row ranges of at most `max_bytes` each, or of a single longer row."""
    begin, num_rows = 0, len(offsets) - 1
    while begin < num_rows:
        fits = int(np.searchsorted(offsets, offsets[begin] + max_bytes, side="right")) - 1
        end = max(fits, begin + 1)
        yield begin, end
        begin = end
