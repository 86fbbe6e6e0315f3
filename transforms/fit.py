"""Fits the corpus models from merged statistics, inside one worker, into files of the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models.config import CountConfig
from lexbeam.models.keyphrases import PhraseCounts
from lexbeam.models.vocabulary import (
    Vocabulary,
    build_vocabulary,
    fallback_config,
    prune_counts,
)
from lexbeam.transforms import checksums, storage
from lexbeam.transforms.count import CountFolders
from lexbeam.transforms.part_files import PartFolder, num_rows, read_part, write_part

# Phrases of a single document say nothing about the corpus: an absent phrase counts as df 1.
MIN_PHRASE_DOCUMENTS = 2
# What every worker of extract can map, and the one that fits can hold; millions of documents have
# fewer. A phrase that is left out counts as one of a single document.
MOST_PHRASES = 10_000_000
# Frequencies above are alike where it is decided which phrases stay.
_LARGEST_FREQUENCY = 1_000_000
_TERMS_PER_FILE = 500_000
# The limits that the vocabulary was pruned by, in the end.
LIMITS_FILE = "limits.json"


def commit_saved(save: Callable[[Path], None], path: str) -> bool:
    """Save into a temporary file, and publish it under its name unless another was first."""
    storage.make_parent(path)
    with tempfile.TemporaryDirectory(prefix="lexbeam-") as folder:
        temporary = Path(folder, "saved")
        save(temporary)
        return checksums.commit_file(str(temporary), path)


def documents_by_language(folders: CountFolders) -> dict[str, int]:
    """Documents of each language that were counted."""
    table = read_part(folders.documents.part(0))
    frequencies = table["document_frequency"].to_pylist()
    return dict(zip(table["language"].to_pylist(), frequencies, strict=True))


def vocabulary_of_counts(
    folders: CountFolders, config: CountConfig
) -> tuple[Vocabulary, CountConfig]:
    """The vocabulary of merged counts, and the limits used: none where these leave nothing."""
    num_documents = documents_by_language(folders)

    def pruned(limits: CountConfig) -> Iterator[pa.Table]:
        for part in folders.words.parts():
            yield prune_counts(read_part(part), num_documents, limits)

    vocabulary = build_vocabulary(pruned(config), num_documents, config)
    if len(vocabulary):
        return vocabulary, config
    limits = fallback_config(config)
    return build_vocabulary(pruned(limits), num_documents, limits), limits


def fit_phrases(folders: CountFolders, most: int = MOST_PHRASES) -> PhraseCounts:
    """Counts of the phrases that stand in at least two documents of a language.

    Of more than `most` of them those stay that stand in more documents, all of a frequency or none.
    """
    parts = folders.phrases.parts()
    least = _least_frequency(parts, most)
    tables = []
    for part in parts:
        table = read_part(part)
        tables.append(table.filter(pc.greater_equal(table["document_frequency"], least)))
    return PhraseCounts.from_counts(pa.concat_tables(tables), documents_by_language(folders))


def _least_frequency(parts: Sequence[str], most: int) -> int:
    """The least document frequency, 2 or more, that at most so many rows reach."""
    if sum(num_rows(part) for part in parts) <= most:
        return MIN_PHRASE_DOCUMENTS
    reached: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    for part in parts:
        frequencies = read_part(part, ["document_frequency"])["document_frequency"].to_numpy()
        found = np.bincount(np.minimum(frequencies, _LARGEST_FREQUENCY))
        longer = max(len(found), len(reached))
        reached = np.pad(found, (0, longer - len(found))) + np.pad(
            reached, (0, longer - len(reached))
        )
    # How many have so many documents or more, by that number.
    reached = reached[::-1].cumsum()[::-1]
    return max(MIN_PHRASE_DOCUMENTS, int(np.count_nonzero(reached > most)))


def term_folder(path: str, num_terms: int) -> PartFolder:
    """The published vocabulary's files."""
    return PartFolder(path, max(1, -(-num_terms // _TERMS_PER_FILE)))


class FitVocabularyDoFn(beam.DoFn):  # type: ignore[misc]
    """Merged counts to vocabulary, phrases and the published terms."""

    def __init__(
        self, folders: CountFolders, config: CountConfig, model_dir: str, terms_path: str
    ) -> None:
        self._folders = folders
        self._config = config
        self._model_dir = model_dir
        self._terms_path = terms_path

    def process(self, _: None) -> None:
        vocabulary, limits = vocabulary_of_counts(self._folders, self._config)
        self._write_terms(vocabulary)
        limits_path = storage.join(self._model_dir, LIMITS_FILE)
        storage.make_parent(limits_path)
        checksums.put_if_absent(limits_path, json.dumps(asdict(limits), sort_keys=True).encode())
        phrases = fit_phrases(self._folders)
        commit_saved(phrases.save, storage.join(self._model_dir, "phrases.parquet"))
        # The vocabulary last: where it stands, the stage is done.
        commit_saved(vocabulary.save, storage.join(self._model_dir, "vocabulary.parquet"))

    def _write_terms(self, vocabulary: Vocabulary) -> None:
        table = vocabulary.to_table()
        folder = term_folder(self._terms_path, len(vocabulary))
        for index in range(folder.num_parts):
            write_part(folder.part(index), table.slice(index * _TERMS_PER_FILE, _TERMS_PER_FILE))


class FitVocabulary(beam.PTransform):  # type: ignore[misc]
    """Writes vocabulary.parquet, phrases.parquet and the parts of terms."""

    def __init__(
        self, folders: CountFolders, config: CountConfig, model_dir: str, terms_path: str
    ) -> None:
        super().__init__()
        self._fit = FitVocabularyDoFn(folders, config, model_dir, terms_path)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return pbegin | "Start" >> beam.Create([None]) | "FitVocabulary" >> beam.ParDo(self._fit)
