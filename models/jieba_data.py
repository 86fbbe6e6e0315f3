"""The data files of the package jieba, read as text: jieba itself is never imported.

Its dictionary (words with frequency and part-of-speech tag) and its hidden Markov model of
unknown words.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.lexicon import package_folder

FloatArray = npt.NDArray[np.float64]

HAN_MIN, HAN_MAX = 0x4E00, 0x9FD5
_STATES = "BEMS"
_IMPOSSIBLE = -3.14e100
_MODEL_FILES = tuple(f"finalseg/prob_{part}.py" for part in ("start", "trans", "emit"))


def _file(name: str) -> Path:
    return package_folder("jieba") / name


def read_dictionary() -> pa.Table:
    """Jieba's dictionary: word string, frequency int64, tag string; a row for every line."""
    from pyarrow import csv

    return csv.read_csv(
        _file("dict.txt"),
        read_options=csv.ReadOptions(column_names=["word", "frequency", "tag"]),
        parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types={"word": pa.string(), "frequency": pa.int64(), "tag": pa.string()},
            strings_can_be_null=False,
        ),
    )


@functools.cache
def load_tags() -> Mapping[str, str]:
    """Part-of-speech tag of every word of jieba's dictionary; read once per process."""
    table = read_dictionary()
    words, tags = table["word"].to_pylist(), table["tag"].to_pylist()
    return MappingProxyType(dict(zip(words, tags, strict=True)))


def _read_probabilities(name: str) -> list[tuple[str, str, float]]:
    """The entries (state, key, log probability) of one of the model's files."""
    text = _file(f"finalseg/{name}.py").read_text(encoding="utf-8")
    entries = []
    for state, values in re.findall(r"'([BEMS])': *\{([^{}]*)\}", text):
        for key, value in re.findall(r"'([^']+)': *([-+.\deE]+)", values):
            character = chr(int(key[2:], 16)) if key.startswith("\\u") else key
            entries.append((state, character, float(value)))
    return entries


@functools.cache
def load_model() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Jieba's hidden Markov model: (4,), (4, 4) and (20,950, 4) float64 log probabilities.

    Initial, transition (from row to column) and emission (by code point from HAN_MIN), the
    states in the order B, E, M, S.
    """
    start = _file("finalseg/prob_start.py").read_text(encoding="utf-8")
    initial = np.full(4, _IMPOSSIBLE)
    for state, value in re.findall(r"'([BEMS])': *([-+.\deE]+)", start):
        initial[_STATES.index(state)] = float(value)
    transition = np.full((4, 4), _IMPOSSIBLE)
    for state, target, probability in _read_probabilities("prob_trans"):
        transition[_STATES.index(state), _STATES.index(target)] = probability
    emission = np.full((HAN_MAX - HAN_MIN + 1, 4), _IMPOSSIBLE)
    for state, character, probability in _read_probabilities("prob_emit"):
        if HAN_MIN <= ord(character) <= HAN_MAX:
            emission[ord(character) - HAN_MIN, _STATES.index(state)] = probability
    return initial, transition, emission


@functools.cache
def data_fingerprint() -> str:
    """SHA-256 of the dictionary, the model and the version of the package."""
    digest = hashlib.sha256()
    for name in ("dict.txt", *_MODEL_FILES):
        digest.update(hashlib.sha256(_file(name).read_bytes()).digest())
    digest.update(f"\njieba {importlib.metadata.version('jieba')}".encode())
    return digest.hexdigest()
