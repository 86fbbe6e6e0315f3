"""Corpus counts of candidate phrases, by language, for look-up in bulk."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lexbeam.models import schemas
from lexbeam.models.config import LANGUAGES
from lexbeam.models.counts import term_hashes

Int64Array = npt.NDArray[np.int64]

_NUM_DOCUMENTS = b"num_documents"


@dataclass(frozen=True)
class _LanguageCounts:
    """Counts of one language's phrases, ascending by the hash of the phrase."""

    hashes: npt.NDArray[np.uint64]
    terms: pa.LargeStringArray
    document_frequency: Int64Array
    collection_frequency: Int64Array

    @classmethod
    def from_table(cls, counts: pa.Table) -> _LanguageCounts:
        chunks = [term_hashes(chunk) for chunk in counts["term"].chunks]
        hashes = np.concatenate([np.empty(0, np.uint64), *chunks])
        order = np.argsort(hashes, kind="stable")
        return cls(
            hashes=hashes[order],
            terms=counts["term"].cast(pa.large_string()).combine_chunks().take(pa.array(order)),
            document_frequency=counts["document_frequency"].to_numpy()[order],
            collection_frequency=counts["collection_frequency"].to_numpy()[order],
        )

    def find(self, phrases: pa.StringArray) -> Int64Array:
        """(n,) row of each phrase, -1 where it is absent."""
        rows = np.full(len(phrases), -1, dtype=np.int64)
        wanted = term_hashes(phrases)
        row = np.searchsorted(self.hashes, wanted)
        pending = np.arange(len(phrases))
        while len(pending):
            # Several phrases may share a hash: go on until it changes.
            inside = row[pending] < len(self.hashes)
            pending = pending[inside]
            pending = pending[self.hashes[row[pending]] == wanted[pending]]
            there = self.terms.take(pa.array(row[pending]))
            same = np.asarray(pc.equal(there, phrases.take(pa.array(pending))), dtype=np.bool_)
            rows[pending[same]] = row[pending[same]]
            pending = pending[~same]
            row[pending] += 1
        return rows


class PhraseCounts:
    """Document and collection frequency of the phrases that stand in two documents or more.

    Attributes:
        table: `schemas.COUNTS`, ascending by (term, language) in UTF-8 byte order.
        num_documents: documents of each language that were counted.
    """

    def __init__(self, table: pa.Table, num_documents: Mapping[str, int]) -> None:
        self.table = table
        self.num_documents = dict(num_documents)
        self._counts = {
            language: _LanguageCounts.from_table(
                table.filter(pc.equal(table["language"], language))
            )
            for language in LANGUAGES
        }

    @classmethod
    def from_counts(cls, counts: pa.Table, num_documents: Mapping[str, int]) -> PhraseCounts:
        """Phrase counts of a corpus.

        Args:
            counts: `schemas.COUNTS` with one row for each (term, language), in any order.
            num_documents: documents of each language.

        Raises:
            ValueError: the table has another schema, or a number of documents is negative.
        """
        if not counts.schema.equals(schemas.COUNTS):
            raise ValueError(f"phrase counts must have the schema\n{schemas.COUNTS}")
        if any(number < 0 for number in num_documents.values()):
            raise ValueError(f"numbers of documents must not be negative: {dict(num_documents)}")
        order = [("term", "ascending"), ("language", "ascending")]
        return cls(counts.sort_by(order), num_documents)

    @classmethod
    def load(cls, path: str | Path) -> PhraseCounts:
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read, or is not there.
            ValueError: the file is damaged; names the path.
        """
        try:
            with pa.memory_map(str(path)) as file:
                table = pq.ParquetFile(file).read()
            metadata = table.schema.metadata or {}
            numbers = json.loads(metadata[_NUM_DOCUMENTS])
            num_documents = {language: int(numbers[language]) for language in numbers}
            table = table.replace_schema_metadata(None).cast(schemas.COUNTS)
        except (
            pa.ArrowException,
            AttributeError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            # Arrow raises OSError for damaged files too, without a number.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{path} holds no phrase counts: {error}") from error
        return cls(table, num_documents)

    def save(self, path: str | Path) -> None:
        """Write Parquet: `schemas.COUNTS`, documents of each language in the metadata.

        The same counts give the same bytes.
        """
        numbers = json.dumps(self.num_documents, sort_keys=True)
        table = self.table.replace_schema_metadata({_NUM_DOCUMENTS: numbers})
        # Opened here, since pyarrow takes a name with a colon for a URL.
        with open(path, "wb") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=2**18)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def look_up(self, phrases: pa.StringArray, language: str) -> tuple[Int64Array, Int64Array]:
        """Document and collection frequency of phrases in one language.

        Args:
            phrases: (n,) string.
            language: one of `config.LANGUAGES`.

        Returns:
            Two (n,) int64 arrays; 0 where the phrase is absent.
        """
        counts = self._counts[language]
        rows = counts.find(phrases)
        return (
            np.append(counts.document_frequency, 0)[rows],
            np.append(counts.collection_frequency, 0)[rows],
        )


@functools.lru_cache(maxsize=4)
def cached_phrase_counts(path: str) -> PhraseCounts:
    """`PhraseCounts.load`, once for each file and process."""
    return PhraseCounts.load(path)
