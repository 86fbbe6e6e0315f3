"""Chinese word segmentation: the words of `jieba.cut`, from the Rust package rjieba.

rjieba (the crate jieba-rs) holds the same dictionary as jieba and finds the same best route
through a text, at many times the speed. Where it departs from jieba, jieba's way is restored
exactly, so that `Segmenter.cut(text)` equals `list(jieba.cut(text))` for every text:

- **Blocks.** jieba looks words up in runs of U+4E00..U+9FD5, ASCII letters and digits and
  `+#&._%-`; every other character is a token of its own. rjieba takes further ideographs
  (U+9FD6..U+9FFF, extensions, compatibility ideographs) into its runs. A text with such
  characters is divided at them first.
- **Runs of unknown characters.** What the best route leaves as single characters jieba hands
  to a hidden Markov model (Han) and an expression (ASCII). rjieba's emission probabilities are
  rounded to six digits, which turns a near-tie about once in five million characters, and its
  rule for ASCII is another one (`v1.2_a-b` comes out whole). rjieba is asked for the route
  alone, therefore, and `segment_kernels` divides the runs, with jieba's own probabilities.
- **The total.** jieba's dictionary has a line twice (one word, counted once in the table and
  twice in the total); rjieba's has it once. The difference enters every log probability by a
  hair, so it is made up for by an entry that no text can match.
- **User dictionaries.** jieba adds the frequency of a redefined word to the total without taking
  the old one away, and counts a prefix of a word as frequency 0 when it suggests a frequency;
  both are followed here.

No state is shared with jieba or rjieba: jieba is never imported (only its data files are read,
as text) and the instance of rjieba is private.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models.config import ConfigError

if TYPE_CHECKING:
    import rjieba

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]

# Ideographs that only rjieba looks up.
_RARE = re.compile("([\u3400-\u4dbf\u9fd6-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_ALPHANUMERIC = re.compile("[A-Za-z0-9]{2,}")
_HAN_MIN, _HAN_MAX = 0x4E00, 0x9FD5
_STATES = "BEMS"
_IMPOSSIBLE = -3.14e100
# A line of a user dictionary: a word, which may hold spaces, a frequency, a tag.
_USER_LINE = re.compile("(?P<word>.+?)(?: (?P<frequency>[0-9]+))?(?: (?P<tag>[a-z]+))?")
# Never inside a run, so never matched: carries the rest of the total.
_UNMATCHED = "\n"
# One that is not in the text stands between tokens; code points that no text should hold first.
_SEPARATORS = "\ufdd0\ufdd1" + "".join(map(chr, range(0xE000, 0xF900)))
# Keeps every sum of frequencies within what rjieba and a float64 hold exactly.
_MAX_TOTAL = 2**53
_NO_MASK = np.empty(0, np.bool_)


@dataclass(frozen=True)
class UserWord:
    """A line of a user dictionary; `frequency` None asks for jieba's suggestion."""

    line: int
    word: str
    frequency: int | None
    tag: str | None


def _parse_line(path: str, number: int, raw: bytes) -> UserWord | None:
    """The word on line `number`, or None where it is empty.

    Raises:
        ConfigError: if the line is not UTF-8, holds control characters or a frequency of 0.
    """
    try:
        line = raw.strip().decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise ConfigError("user_dict", path, f"line {number} is not UTF-8: {error}") from error
    if not line:
        return None
    if any(unicodedata.category(character) == "Cc" for character in line):
        reason = f"line {number} holds a control character (one space divides the fields): {line!r}"
        raise ConfigError("user_dict", path, reason)
    match = _USER_LINE.fullmatch(line)
    if match is None:  # every other line separator is a control character
        raise ConfigError("user_dict", path, f"line {number} is not one line of text: {line!r}")
    word, frequency, tag = match.group("word", "frequency", "tag")
    if frequency is not None and not frequency.strip("0"):
        reason = f"line {number} has frequency 0 (words cannot be taken out): {line!r}"
        raise ConfigError("user_dict", path, reason)
    if frequency is not None and len(frequency.lstrip("0")) > len(str(_MAX_TOTAL)):
        raise ConfigError("user_dict", path, f"line {number}: the frequency is too large: {line!r}")
    return UserWord(number, word, None if frequency is None else int(frequency), tag)


def read_user_dict(path: str) -> tuple[bytes, tuple[UserWord, ...]]:
    """Content and words, in the order of the file, of a dictionary in jieba's format.

    A line is `word [frequency] [tag]` in UTF-8, divided by single spaces.

    Raises:
        ConfigError: naming the line, if the file cannot be read or a line is malformed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise ConfigError("user_dict", path, reason) from error
    lines = enumerate(content.split(b"\n"), start=1)
    parsed = (_parse_line(path, number, raw) for number, raw in lines)
    words = tuple(word for word in parsed if word is not None)
    total = 0
    for word in words:
        total += word.frequency or 0
        _check_total(path, word, total)
    return content, words


def _check_total(path: str, word: UserWord, total: int) -> None:
    """Raise ConfigError, naming the line of `word`, if `total` is too large."""
    if total > _MAX_TOTAL:
        reason = f"line {word.line}: the frequencies sum up to more than {_MAX_TOTAL}"
        raise ConfigError("user_dict", path, reason)


def _jieba_file(name: str) -> Path:
    """A data file of jieba; jieba itself is not imported."""
    spec = importlib.util.find_spec("jieba")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'jieba'", name="jieba")
    return Path(spec.submodule_search_locations[0]) / name


@functools.cache
def _read_dictionary() -> pa.Table:
    """Jieba's dictionary: word string, frequency int64, tag string; a row for every line."""
    from pyarrow import csv

    return csv.read_csv(
        _jieba_file("dict.txt"),
        read_options=csv.ReadOptions(column_names=["word", "frequency", "tag"]),
        parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types={"word": pa.string(), "frequency": pa.int64(), "tag": pa.string()},
            strings_can_be_null=False,
        ),
    )


def _read_probabilities(name: str) -> list[tuple[str, str, float]]:
    """The entries (state, key, log probability) of one of jieba's model files, read as text."""
    text = _jieba_file(f"finalseg/{name}.py").read_text(encoding="utf-8")
    entries = []
    for state, values in re.findall(r"'([BEMS])': *\{([^{}]*)\}", text):
        for key, value in re.findall(r"'([^']+)': *([-+.\deE]+)", values):
            character = chr(int(key[2:], 16)) if key.startswith("\\u") else key
            entries.append((state, character, float(value)))
    return entries


@functools.cache
def _load_model() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Jieba's hidden Markov model: (4,), (4, 4) and (20,950, 4) float64 log probabilities.

    Initial, transition (from row to column) and emission (by code point from U+4E00), the
    states in the order B, E, M, S.
    """
    start = _jieba_file("finalseg/prob_start.py").read_text(encoding="utf-8")
    initial = np.full(4, _IMPOSSIBLE)
    for state, value in re.findall(r"'([BEMS])': *([-+.\deE]+)", start):
        initial[_STATES.index(state)] = float(value)
    transition = np.full((4, 4), _IMPOSSIBLE)
    for state, target, probability in _read_probabilities("prob_trans"):
        transition[_STATES.index(state), _STATES.index(target)] = probability
    emission = np.full((_HAN_MAX - _HAN_MIN + 1, 4), _IMPOSSIBLE)
    for state, character, probability in _read_probabilities("prob_emit"):
        if _HAN_MIN <= ord(character) <= _HAN_MAX:
            emission[ord(character) - _HAN_MIN, _STATES.index(state)] = probability
    return initial, transition, emission


@functools.cache
def load_tags() -> Mapping[str, str]:
    """Part-of-speech tag of every word of jieba's dictionary; read once per process."""
    table = _read_dictionary()
    return MappingProxyType(
        dict(zip(table["word"].to_pylist(), table["tag"].to_pylist(), strict=True))
    )


@functools.cache
def _dictionary_fingerprint() -> str:
    """SHA-256 of the dictionary, the model and the versions of what reads them."""
    digest = hashlib.sha256()
    names = ("dict.txt", *(f"finalseg/prob_{part}.py" for part in ("start", "trans", "emit")))
    for name in names:
        digest.update(hashlib.sha256(_jieba_file(name).read_bytes()).digest())
    for package in ("jieba", "rjieba"):
        digest.update(f"\n{package} {importlib.metadata.version(package)}".encode())
    return digest.hexdigest()


@functools.cache
def _load_totals() -> tuple[int, int]:
    """Sum of all frequencies as jieba counts it (every line), and as rjieba does (every word)."""
    table = _read_dictionary()
    words, frequencies = table["word"].to_pylist(), table["frequency"].to_pylist()
    return sum(frequencies), sum(dict(zip(words, frequencies, strict=True)).values())


class _Frequencies:
    """What jieba's table of frequencies holds while user words are added, beside rjieba's.

    Attributes:
        engine: rjieba with the words added so far.
        total: jieba's total of all frequencies.
    """

    def __init__(self, engine: rjieba.Jieba) -> None:
        self.engine = engine
        self.total, self._engine_total = _load_totals()
        self._user_prefixes: set[str] = set()
        self._is_prefix: dict[str, bool] = {}
        self.balance()

    @functools.cached_property
    def _words(self) -> dict[str, int]:
        table = _read_dictionary()
        words, frequencies = table["word"].to_pylist(), table["frequency"].to_pylist()
        return dict(zip(words, frequencies, strict=True))

    def balance(self) -> None:
        """Give rjieba the total that jieba has."""
        self.engine.add_word(_UNMATCHED, self.total - self._engine_total, None)

    def get(self, word: str) -> int:
        """Frequency of `word`: 0 for a mere prefix of a word, 1 for what is not there."""
        frequency = self._words.get(word)
        if frequency is not None:
            return frequency
        if word in self._user_prefixes:
            return 0
        if word not in self._is_prefix:
            starts = pc.starts_with(_read_dictionary()["word"], pattern=word)
            self._is_prefix[word] = pc.any(starts).as_py()
        return 0 if self._is_prefix[word] else 1

    def suggest(self, word: str) -> int:
        """The frequency that lets `word` be cut whole, computed as jieba does."""
        self.balance()
        share = 1.0
        for part in _cut_blocks(self.engine, word):
            share *= self.get(part) / float(self.total)
        return max(int(share * self.total) + 1, self.get(word))

    def add(self, word: str, frequency: int) -> None:
        """Add `word`, or replace its frequency; jieba's total only grows."""
        self.engine.add_word(word, frequency, None)
        self.total += frequency
        self._engine_total += frequency - self._words.get(word, 0)
        self._words[word] = frequency
        self._user_prefixes.update(word[:end] for end in range(1, len(word)))

    def is_joined(self, word: str) -> bool:
        """Whether the route takes `word` whole, rather than as single characters."""
        log_total = math.log(self.total)
        singles = sum(math.log(self.get(character) or 1) - log_total for character in word)
        return math.log(self.get(word) or 1) - log_total >= singles


def _add_user_words(path: str, frequencies: _Frequencies, words: Iterable[UserWord]) -> None:
    """Add `words` in order, as jieba's `load_userdict` does.

    Raises:
        ConfigError: naming the line that makes the sum of frequencies too large.
    """
    for entry in words:
        frequency = entry.frequency
        if frequency is None:
            frequency = frequencies.suggest(entry.word)
        _check_total(path, entry, frequencies.total + frequency)
        frequencies.add(entry.word, frequency)
    frequencies.balance()


def _cut_blocks(engine: rjieba.Jieba, text: str) -> list[str]:
    """The best route of `text`: jieba's tokens without the model for unknown words.

    Single ASCII letters and digits that follow each other are joined, as in jieba.
    """
    if text.isascii() or _RARE.search(text) is None:
        return engine.cut(text, False)
    tokens: list[str] = []
    for index, piece in enumerate(_RARE.split(text)):
        if index % 2:
            tokens.append(piece)
        elif piece:
            tokens += engine.cut(piece, False)
    return tokens


class _Engine:
    """rjieba with the user's words, and what the division of unknown runs needs.

    Words of letters and digits alone are told from joined letters by name: the route takes them
    whole whenever it can, unless the user gave single letters huge frequencies (`is_joined`).
    A run that is itself a word is left in characters by jieba. With ASCII that can only happen
    where the user made a word of an ASCII character: then every run is looked up.
    """

    def __init__(self, path: str, words: tuple[UserWord, ...]) -> None:
        import rjieba

        from lexbeam.models import segment_kernels

        frequencies = _Frequencies(rjieba.Jieba())
        _add_user_words(path, frequencies, words)
        self._jieba = frequencies.engine
        self._divide_runs = segment_kernels.divide_runs
        self._model = _load_model()
        names = {entry.word for entry in words}
        self._known = frozenset(
            name for name in names if _ALPHANUMERIC.fullmatch(name) and frequencies.is_joined(name)
        )
        self._look_up_all = any(len(name) == 1 and name.isascii() for name in names)

    def _known_mask(self, tokens: list[str]) -> BoolArray:
        if not self._known:
            return _NO_MASK
        return np.fromiter(map(self._known.__contains__, tokens), np.bool_, len(tokens))

    def cut(self, text: str) -> list[str]:
        """Words of `text`."""
        tokens = _cut_blocks(self._jieba, text)
        if not tokens:
            return tokens
        separator = next(mark for mark in _SEPARATORS if mark not in text)
        joined = np.frombuffer(separator.join(tokens).encode("utf-32-le"), np.uint32)
        runs, ends = self._divide_runs(
            joined, ord(separator), self._known_mask(tokens), *self._model, self._look_up_all
        )
        return self._replace_runs(text, tokens, runs, ends) if len(runs) else tokens

    def _replace_runs(
        self, text: str, tokens: list[str], runs: Int32Array, ends: Int32Array
    ) -> list[str]:
        """The tokens, with those of every run replaced by its words (see `divide_runs`)."""
        words: list[str] = []
        all_ends = ends.tolist()
        has_word = self._jieba.has_word
        done = 0
        for first, after, start, begin, stop in runs.tolist():
            words += tokens[done:first]
            run_ends = all_ends[begin:stop]
            run = text[start : run_ends[-1]]
            if has_word(run):
                words += run
            else:
                for end in run_ends:
                    words.append(text[start:end])
                    start = end
            done = after
        words += tokens[done:]
        return words


class Segmenter:
    """Cuts Chinese text into the words of `jieba.cut(text, HMM=True)`.

    The user dictionary is read and checked at once; the engine is loaded on the first use.

    Args:
        user_dict: path of a dictionary in jieba's format, or None.

    Raises:
        ConfigError: if the user dictionary cannot be read or is malformed; names the line.
    """

    def __init__(self, user_dict: str | None = None) -> None:
        self._path = user_dict or ""
        self._content, self._words = read_user_dict(user_dict) if user_dict else (b"", ())
        self._user_tags = {entry.word: entry.tag for entry in self._words if entry.tag}

    def __reduce__(self) -> tuple[type[Segmenter], tuple[str | None]]:
        """Pickled as its configuration."""
        return Segmenter, (self._path or None,)

    @functools.cached_property
    def _engine(self) -> _Engine:
        return _Engine(self._path, self._words)

    def cut(self, text: str) -> list[str]:
        """Words of `text` in order; together they are `text`.

        Raises:
            ConfigError: on the first use, if the user's words make the frequencies too large.
        """
        return self._engine.cut(text)

    def dictionary_tag(self, word: str) -> str | None:
        """Part-of-speech tag of `word` in the user dictionary, else in jieba's, else None."""
        return self._user_tags.get(word) or load_tags().get(word)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of all that `cut` depends on."""
        content = hashlib.sha256(self._content).hexdigest()
        return hashlib.sha256(f"{_dictionary_fingerprint()}\n{content}".encode()).hexdigest()
