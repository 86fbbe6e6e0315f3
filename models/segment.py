"""Chinese word segmentation: the words of `jieba.cut`, by a compiled kernel.

`Segmenter.cut(text)` equals `list(jieba.cut(text, HMM=True))` for every text, with the dictionary
and the hidden Markov model that the package jieba ships (`jieba_data`), and with a user
dictionary as `jieba.load_userdict` takes it. As in jieba

- words are looked up in runs of U+4E00..U+9FD5, ASCII letters and digits and `+#&._%-`; every
  other character is a token of its own, but for a carriage return with its line feed;
- a redefined word adds its new frequency to the total without taking the old one away, and so
  does a word that stands twice in the dictionary;
- a frequency that the user leaves out is the one that lets the word be cut whole; with frequency
  0 a word is taken out, and what the Markov model makes of it is split into characters.

No state is shared with jieba, which is never imported: segmenters with different dictionaries
live side by side, and threads may share one.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models.jieba_data import data_fingerprint, load_model, load_tags, read_dictionary
from lexbeam.models.user_dict import UserWord, check_total, read_user_dict
from lexbeam.models.vocabulary import logarithm

if TYPE_CHECKING:
    from lexbeam.models.segment_kernels import WordModel

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
BoolArray = npt.NDArray[np.bool_]

# One that is not in the text stands between words; code points that no text should hold first.
_SEPARATORS = "\ufdd0\ufdd1" + "".join(map(chr, range(0xE000, 0xF900)))
_CODES_AT_ONCE = 1 << 18
# A single text, all of it Chinese.
_ONE_SPAN, _IS_CHINESE = np.array([0, 1], np.int64), np.ones(1, np.bool_)
# Part of the fingerprint: rises when the same dictionaries give other words.
_VERSION = 2


def code_points(text: str) -> UInt32Array:
    """(len(text),) uint32."""
    # A copy, since kernels would be compiled once more for what cannot be written.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).copy()


def _word_codes(words: pa.Array) -> tuple[UInt32Array, Int64Array]:
    """Code points of words, end to end, and (num_words + 1,) where each begins."""
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum(pc.utf8_length(words).to_numpy(), out=offsets[1:])
    return code_points("".join(words.to_pylist())), offsets


class _ModelBuilder:
    """jieba's table of frequencies, to which the user's words are added one by one.

    Args:
        room: code points of the words that will be added.
    """

    def __init__(self, room: int) -> None:
        from lexbeam.models import segment_kernels

        self._kernels = segment_kernels
        table = read_dictionary().combine_chunks()
        codes, offsets = _word_codes(pc.cast(table["word"], pa.string()).combine_chunks())
        # The words share most of their beginnings: how many nodes there are shows afterwards.
        self._keys, _ = self._insert(codes, offsets, len(codes))
        num_nodes = int(np.count_nonzero(self._keys))
        self._keys, nodes = self._insert(codes, offsets, num_nodes + room)
        frequencies = table["frequency"].to_numpy()
        self._log_frequencies = np.full(len(self._keys), segment_kernels.BEGINNING)
        self._log_frequencies[nodes] = logarithm(frequencies)
        self._frequencies = np.zeros(len(self._keys), np.int64)
        self._frequencies[nodes] = frequencies
        self._firsts = segment_kernels.first_nodes(self._keys)
        self._singles = np.where(
            self._firsts < 0, segment_kernels.BEGINNING, self._log_frequencies[self._firsts]
        )
        self._has_forced = False
        self.total = int(frequencies.sum())

    def _insert(
        self, codes: UInt32Array, offsets: Int64Array, num_nodes: int
    ) -> tuple[npt.NDArray[np.uint64], Int64Array]:
        """Keys with room for so many nodes, at most half full, and the node of each word."""
        keys = np.zeros(1 << (2 * num_nodes).bit_length(), np.uint64)
        return keys, self._kernels.insert_words(keys, codes, offsets)

    def add(self, entry: UserWord) -> int:
        """Add a word, or replace its frequency; returns the frequency. The total only grows."""
        frequency = self._suggest(entry.word) if entry.frequency is None else entry.frequency
        codes = code_points(entry.word)
        ends = np.array([0, len(codes)], np.int64)
        node = self._kernels.insert_words(self._keys, codes, ends)[0]
        self._frequencies[node] = frequency
        is_forced = frequency == 0
        self._has_forced |= is_forced
        self._log_frequencies[node] = self._kernels.FORCED if is_forced else math.log(frequency)
        if codes[0] < len(self._firsts):
            first = self._kernels.find_node(self._keys, codes[:1])
            self._firsts[codes[0]] = first
            self._singles[codes[0]] = self._log_frequencies[first]
        self.total += frequency
        return frequency

    def _frequency(self, word: str) -> int:
        """Frequency of `word`: 0 for a mere beginning of a word, 1 for what is not there."""
        node = self._kernels.find_node(self._keys, code_points(word))
        return 1 if node < 0 else int(self._frequencies[node])

    def _suggest(self, word: str) -> int:
        """The frequency that lets `word` be cut whole, computed as jieba does."""
        share = 1.0
        for part in cut_text(word, self.model(), with_unknown=False):
            share *= self._frequency(part) / float(self.total)
        return max(int(share * self.total) + 1, self._frequency(word))

    def model(self) -> WordModel:
        """What has been added up to now; changes with what is added later."""
        return self._kernels.WordModel(
            self._keys,
            self._log_frequencies,
            self._firsts,
            self._singles,
            math.log(self.total),
            *load_model(),
            self._has_forced,
        )


def build_model(path: str, words: Iterable[UserWord]) -> WordModel:
    """Words of jieba with the user's, added in order as `jieba.load_userdict` does.

    Raises:
        ConfigError: naming the line of the file at `path` that makes the sum of frequencies too
            large.
    """
    entries = tuple(words)
    builder = _ModelBuilder(sum(len(entry.word) for entry in entries))
    for entry in entries:
        builder.add(entry)
        check_total(path, entry, builder.total)
    return builder.model()


def cut_text(text: str, model: WordModel, *, with_unknown: bool) -> list[str]:
    """Words of one text; `with_unknown` is jieba's `HMM`."""
    spans = _ONE_SPAN, np.array([len(text)], np.int32), _IS_CHINESE
    return _cut_spans(text, spans, model, with_unknown)[1] if text else []


def _cut_texts(texts: Sequence[str], model: WordModel) -> list[list[str]]:
    """Words of each text, all cut in one call of the kernel."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts))).astype(np.int32)
    if not len(ends) or not ends[-1]:
        return [[] for _ in texts]
    spans = np.arange(len(texts) + 1), ends, np.ones(len(texts), np.bool_)
    offsets, words = _cut_spans("".join(texts), spans, model, True)
    bounds = offsets.tolist()
    return [words[first:last] for first, last in zip(bounds, bounds[1:], strict=False)]


def _cut_spans(
    text: str, spans: tuple[Int64Array, Int32Array, BoolArray], model: WordModel, with_unknown: bool
) -> tuple[Int64Array, list[str]]:
    """First word of each span's text, and the words of all (see `segment_kernels.cut_spans`)."""
    from lexbeam.models import segment_kernels

    codes = code_points(text)
    offsets, ends = segment_kernels.cut_spans(codes, *spans, model, with_unknown)
    # Splitting a string costs half as much as taking slices of it.
    separator = next(mark for mark in _SEPARATORS if mark not in text)
    marked = segment_kernels.join_words(codes, ends, ord(separator))
    return offsets, marked.tobytes().decode("utf-32-le", "surrogatepass").split(separator)


class Segmenter:
    """Cuts Chinese text into the words of `jieba.cut(text, HMM=True)`.

    The user dictionary is read and checked at once; the model is built on the first use.

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
    def model(self) -> WordModel:
        """What the kernel knows of words; raises ConfigError as `cut` does."""
        return _plain_model() if not self._words else build_model(self._path, self._words)

    def cut(self, text: str) -> list[str]:
        """Words of `text` in order; together they are `text`.

        Raises:
            ConfigError: on the first use, if the user's words make the frequencies too large.
        """
        return cut_text(text, self.model, with_unknown=True)

    def cut_all(self, texts: Sequence[str]) -> list[list[str]]:
        """Words of each text, as `cut` gives them; much faster where texts are short.

        Raises ConfigError as `cut` does.
        """
        cut: list[list[str]] = []
        first = size = 0
        for last, text in enumerate(texts, start=1):
            size += len(text)
            if size >= _CODES_AT_ONCE or last == len(texts):
                cut += _cut_texts(texts[first:last], self.model)
                first, size = last, 0
        return cut

    def dictionary_tag(self, word: str) -> str | None:
        """Part-of-speech tag of `word` in the user dictionary, else in jieba's, else None."""
        return self._user_tags.get(word) or load_tags().get(word)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of all that `cut` depends on."""
        content = hashlib.sha256(self._content).hexdigest()
        text = f"{data_fingerprint()}\nsegmenter {_VERSION}\n{content}"
        return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _plain_model() -> WordModel:
    """The model without user words, built once per process."""
    return build_model("", ())
