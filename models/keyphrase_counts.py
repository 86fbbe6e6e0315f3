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
from lexbeam.models.string_index import StringIndex

Int64Array = npt.NDArray[np.int64]

_NUM_DOCUMENTS = b"num_documents"


@dataclass(frozen=True)
class _LanguageCounts:
    """Counts of one language's phrases; the last row stands for a phrase that is absent."""

    index: StringIndex
    document_frequency: Int64Array
    collection_frequency: Int64Array

    @classmethod
    def from_table(cls, counts: pa.Table) -> _LanguageCounts:
        terms = counts["term"].cast(pa.large_string()).combine_chunks()
        frequencies = (np.append(counts[name], 0) for name in schemas.COUNTS.names[2:])
        return cls(StringIndex(terms), *frequencies)


class PhraseCounts:
    """Document and collection frequency of the phrases that stand in two documents or more.

    Attributes:
        table: `schemas.COUNTS`, ascending by (term, language) in UTF-8 byte order.
        num_documents: documents of each language that were counted.
    """

    def __init__(self, table: pa.Table, num_documents: Mapping[str, int]) -> None:
        self.table = table
        self.num_documents = dict(num_documents)

    @functools.cached_property
    def _counts(self) -> dict[str, _LanguageCounts]:
        """For look-up; takes as much memory as the table again."""
        languages = {
            language: self.table.filter(pc.equal(self.table["language"], language))
            for language in LANGUAGES
        }
        return {name: _LanguageCounts.from_table(table) for name, table in languages.items()}

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
        rows = counts.index.find(phrases)
        return counts.document_frequency[rows], counts.collection_frequency[rows]


@functools.lru_cache(maxsize=4)
def cached_phrase_counts(path: str) -> PhraseCounts:
    """`PhraseCounts.load`, once for each file and process."""
    return PhraseCounts.load(path)
