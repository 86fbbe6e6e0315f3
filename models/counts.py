"""Document and collection frequencies of terms, as Arrow tables that merge in any order.

A block of documents gives one small table (`count_terms`), tables add up (`merge_counts`), and
a table is cut by a stable hash of the term (`partition_counts`), so that each partition can be
reduced on its own. Nothing here creates a Python object for a token or a term.

Strings: a string array holds less than 2 GiB. Where the distinct terms together are larger,
the arithmetic runs on `large_string` and the resulting `term` column has several chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models import schemas

Int64Array = npt.NDArray[np.int64]

# An int32 offset ends here.
_MAX_STRING_BYTES = 2**31 - 1
# Tables waiting to be merged: at most this many rows, or as many as are merged already.
_MIN_PENDING_ROWS = 2**20
# Bytes of terms hashed at a time (a term longer than this is hashed alone).
_HASH_BYTES = 2**21

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


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


def merge_counts(tables: Iterable[pa.Table]) -> pa.Table:
    """Sum counts over (term, language).

    Tables are merged as they come, so that an iterator of many tables needs memory in
    proportion to the distinct terms only. Sums are exact below 2**53.

    Args:
        tables: `schemas.COUNTS` tables in any order, split in any way.

    Returns:
        `schemas.COUNTS`, ascending by (term, language) in UTF-8 byte order: the same bytes for
        any split and order of the same counts.
    """
    pending: list[pa.Table] = []
    num_pending, num_merged = 0, 0
    for table in tables:
        pending.append(table)
        num_pending += table.num_rows
        if num_pending - num_merged > max(_MIN_PENDING_ROWS, num_merged):
            pending = [_sum_counts(pa.concat_tables(pending))]
            num_pending = num_merged = pending[0].num_rows
    return _sum_counts(pa.concat_tables(pending)) if pending else schemas.COUNTS.empty_table()


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
        partition = term_hashes(batch.column("term")) % np.uint64(num_partitions)
        order = np.argsort(partition.astype(np.int32), kind="stable")
        sizes = np.bincount(partition.astype(np.int64), minlength=num_partitions)
        ends = np.cumsum(sizes)
        for index in np.flatnonzero(sizes):
            rows = order[ends[index] - sizes[index] : ends[index]]
            pieces[index].append(batch.take(pa.array(rows)))
    return [pa.Table.from_batches(batches, schema=counts.schema) for batches in pieces]


def term_hashes(terms: pa.Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of the UTF-8 bytes of each string.

    A polynomial in an odd multiplier modulo 2**64, mixed by the finaliser of SplitMix64 (Steele
    et al. 2014): the same on every machine, in every process and for every slicing of the array.

    Args:
        terms: (n,) string or large_string without nulls.

    Returns:
        (n,) uint64.
    """
    hashes = np.empty(len(terms), dtype=np.uint64)
    offsets, data = _utf8_buffers(terms)
    for begin, end in _spans(offsets, _HASH_BYTES):
        hashes[begin:end] = _hash_span(offsets[begin : end + 1], data)
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _MIX_1
    hashes = (hashes ^ (hashes >> np.uint64(27))) * _MIX_2
    return hashes ^ (hashes >> np.uint64(31))


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
    num_bytes = pc.sum(pc.binary_length(strings), min_count=0).as_py()
    if num_bytes > _MAX_STRING_BYTES:
        strings = strings.cast(pa.large_string())
    distinct, codes = _dictionary_codes(strings)
    order = pc.sort_indices(distinct).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct.take(pa.array(order)), rank[codes]


def take_strings(strings: pa.Array, indices: Int64Array) -> pa.ChunkedArray:
    """`strings[indices]` as string; cut into chunks so that none reaches 2 GiB."""
    offsets = _utf8_buffers(strings)[0]
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


def _count_block(terms: pa.ListArray, languages: pa.StringArray) -> pa.Table:
    """Counts of one block: integer codes for (language, term), sorted with the document."""
    lengths = list_lengths(terms)
    flat = terms.flatten()
    has_terms = lengths > 0
    spoken = languages.filter(pa.array(has_terms))
    if flat.null_count or spoken.null_count:
        raise ValueError("a term, and the language of a document with terms, must not be null")
    distinct, codes = _dictionary_codes(pa.chunked_array([flat]))
    names, language_codes = _dictionary_codes(pa.chunked_array([spoken]))
    cells = len(distinct) * len(names)
    cell = np.repeat(language_codes * len(distinct), lengths[has_terms]) + codes
    collection = np.bincount(cell, minlength=cells)
    # Equal terms of a document become neighbours; the first of each run counts once.
    document = np.repeat(np.arange(len(language_codes)) * cells, lengths[has_terms])
    seen = np.sort(document + cell, kind="stable")
    first = np.append(True, seen[1:] != seen[:-1])[: len(seen)]
    document_frequency = np.bincount(seen[first] % max(cells, 1), minlength=cells)
    occurs = np.flatnonzero(collection)
    columns = [
        distinct.take(pa.array(occurs % max(len(distinct), 1))).cast(pa.string()),
        names.take(pa.array(occurs // max(len(distinct), 1))).cast(pa.string()),
        pa.array(document_frequency[occurs], pa.int64()),
        pa.array(collection[occurs], pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.COUNTS)


def _sum_counts(counts: pa.Table) -> pa.Table:
    """Sum over equal (term, language), ascending by both."""
    distinct, rank = encode_sorted(counts["term"])
    names, language_rank = encode_sorted(counts["language"])
    cell = rank * len(names) + language_rank
    cells = len(distinct) * len(names)
    occurs = np.flatnonzero(np.bincount(cell, minlength=cells))
    sums = [
        # Float64 sums of whole numbers are exact in any order below 2**53.
        np.bincount(cell, weights=counts[name].to_numpy(), minlength=cells)[occurs]
        for name in ("document_frequency", "collection_frequency")
    ]
    columns = [
        take_strings(distinct, occurs // max(len(names), 1)),
        names.take(pa.array(occurs % max(len(names), 1))).cast(pa.string()),
        *(pa.array(values.astype(np.int64)) for values in sums),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.COUNTS)


def _utf8_buffers(strings: pa.Array) -> tuple[Int64Array, npt.NDArray[np.uint8]]:
    """(n + 1,) offsets and the UTF-8 bytes that they point into, without copying the bytes."""
    width = np.int64 if pa.types.is_large_string(strings.type) else np.int32
    _, offsets, data = strings.buffers()
    if offsets is None or len(strings) == 0:
        return np.zeros(len(strings) + 1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    starts = np.frombuffer(offsets, dtype=width)[strings.offset :][: len(strings) + 1]
    text = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
    return starts.astype(np.int64), text


def _spans(offsets: Int64Array, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Consecutive row ranges of at most `max_bytes` each, or of a single longer row."""
    begin, num_rows = 0, len(offsets) - 1
    while begin < num_rows:
        fits = int(np.searchsorted(offsets, offsets[begin] + max_bytes, side="right")) - 1
        end = max(fits, begin + 1)
        yield begin, end
        begin = end


def _hash_span(offsets: Int64Array, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Sum of (byte + 1) * multiplier**place over the bytes of each string, modulo 2**64."""
    lengths = np.diff(offsets)
    powers = np.full(int(lengths.max()) + 1, _MULTIPLIER)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    place = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], lengths)
    sums = np.zeros(len(place) + 1, dtype=np.uint64)
    digits = data[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    np.cumsum(digits * powers[place], out=sums[1:])
    ends = offsets - offsets[0]
    # Differences of prefix sums are exact in modular arithmetic.
    hashes: npt.NDArray[np.uint64] = sums[ends[1:]] - sums[ends[:-1]]
    return hashes
