"""Tokens of documents: one tokenizer for every feature.

**Division.** The content is divided without a rest; offsets are in code points, half open.

- Chinese (`zh`): the words of `jieba.cut`, see `segment`.
- English and other languages: a *word* is letters, digits and marks joined by a single inner
  `-`, `'`, `’`, `/`, `&`, `.`, `+` or zero-width joiner, by `++`, or by underscores
  (`state-of-the-art`, `don't`, `AT&T`, `TCP/IP`, `snake_case`, `3.5`); `++` or `#` after one or
  two ASCII letters belongs to them (`C++`, `F#`), and so do separators of thousands and a percent
  sign to digits (`1,000`, `3.5%`). Words end where the script changes from or to
  Han, Hiragana, Katakana or Hangul; runs of Han are cut by the segmenter in English documents
  and stay whole in others. A run of one ASCII punctuation mark is a token, and so is every other
  character.
- White space is no token, except that a run of it that holds a line break is one token, a line
  feed, of kind SENTENCE_END.

**Normalisation.** A token is the lower case of NFKC of its text; the offsets are those of the text.

**Kinds**, by the normalised token (and, for STOP, by language), the first that applies:

1. no letter, digit or numeral: SENTENCE_END if it holds one of `。 ！ ？ ! ? ; ；` or an ellipsis
   (`…`, `⋯`, three dots), or if it is `.` or `..` with white space or the end of the content behind
   it; else PUNCTUATION;
2. no letter, but a digit: NUMBER (`3.5`, `1,000`, `50%`; Chinese numerals are letters);
3. a stop word of the document's language: STOP. Chinese documents have the Chinese and the
   English list, all others the English one, and all of them the user's; `’` counts as `'`;
4. two to 64 code points, a letter among them and no white space: **TERM**, and nothing else is.
   Longer tokens are encoded data, not words, and would flood the vocabulary; white space comes
   from NFKC of a few ligatures and would break a phrase's form;
5. else WORD: single characters above all.
"""

from __future__ import annotations

import functools
import hashlib
import re
import string
import threading
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.config import LANGUAGES, ConfigError, TextConfig
from lexbeam.models.schemas import NUMBER, PUNCTUATION, SENTENCE_END, STOP, TERM, TOKEN_FIELDS, WORD
from lexbeam.models.segment import Segmenter
from lexbeam.models.stopwords import stop_words

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
Texts: TypeAlias = "Sequence[str | None] | pa.Array"

RULE_VERSION = 1
MAX_TERM_LENGTH = 64

# Kinds that are settled by what stands beside the token.
_SPACE, _BREAK, _DOTS = 16, 17, 18

_LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_ENDS_SENTENCE = re.compile(r"[。!?;⋯]|\.\.\.")

_HAN = "\u2e80-\u2fd5\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HAN += "\U00020000-\U0003ffff"
_HIRAGANA = "\u3041-\u3096\u3099\u309a\u309d-\u309f"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc"
_HAN_RUN = re.compile(f"[{_HAN}]")

# Entries of a cache that outlive a block of documents, and the code points of their tokens.
_MAX_CACHED_TOKENS = 1 << 19
_MAX_CACHED_CHARACTERS = 1 << 23

_DATA_FIELDS = [
    field for field in TOKEN_FIELDS if field.name in ("tokens", "kinds", "starts", "ends")
]


@functools.cache
def _marks() -> str:
    r"""Combining marks (Mn, Mc, Me), which Python's `\w` lacks, as ranges of a character class."""
    ranges: list[list[int]] = []
    for code in chain(range(0x300, 0x1F000), range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code)).startswith("M"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@functools.cache
def _piece_pattern() -> re.Pattern[str]:
    """Matches the next piece of a text that is not Chinese; every character is in some piece.

    Possessive where a repetition needs no second thoughts, so that time stays linear in the text.
    """
    east_asian = (_HAN, _HIRAGANA, _KATAKANA, _HANGUL)
    letter, mark = f"[^\\W_{''.join(east_asian)}]", f"[{_marks()}]"
    word = f"{letter}++(?:{mark}{letter}*+)*+"
    joint = "(?:_+|\\+\\+|[-'’/&.+\u200c\u200d])"
    pieces = (
        f"[A-Za-z]{{1,2}}(?:\\+\\+|#)(?!{letter}|{mark})",
        r"[0-9]++(?:,[0-9]{3})++(?![0-9])(?:\.[0-9]++)?%?",
        r"[0-9]++(?:\.[0-9]++)?%",
        f"{word}(?:{joint}{word})*+",
        r"\s++",
        *(f"[{script}]++" for script in east_asian),
        *(f"{re.escape(punctuation)}++" for punctuation in string.punctuation),
        "(?s:.)",
    )
    return re.compile("|".join(pieces))


def normalise(token: str) -> str:
    """Lower case of NFKC: the form in which tokens are counted."""
    return unicodedata.normalize("NFKC", token).lower()


def read_stop_words(path: str) -> frozenset[str]:
    """The normalised words of a file with a stop word a line, in UTF-8.

    Raises:
        ConfigError: if the file cannot be read or is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise ConfigError("stopwords", path, reason) from error
    except UnicodeDecodeError as error:
        raise ConfigError("stopwords", path, f"is not UTF-8: {error}") from error
    return frozenset(normalise(line.strip()) for line in lines if line.strip())


def _kind_of(token: str, stops: frozenset[str]) -> int:
    """Kind of a normalised token, or _DOTS where that depends on what follows."""
    if not any(map(str.isalnum, token)):
        if token in (".", ".."):
            return _DOTS
        return SENTENCE_END if _ENDS_SENTENCE.search(token) else PUNCTUATION
    has_letter = any(map(str.isalpha, token))
    if not has_letter and any(map(str.isdigit, token)):
        return NUMBER
    if token in stops or token.replace("’", "'") in stops:
        return STOP
    if has_letter and 2 <= len(token) <= MAX_TERM_LENGTH and not any(map(str.isspace, token)):
        return TERM
    return WORD


class _TokenTable(dict[str, int]):
    """Rows of the pieces met so far, by their text; a new piece is judged as it is looked up.

    Grows only: rows given out stay valid. Safe for threads that share it.
    """

    def __init__(self, stops: frozenset[str]) -> None:
        super().__init__()
        self._stops = stops
        self._lock = threading.Lock()
        self.tokens: list[str] = []
        self.kinds = array("b")
        self.lengths = array("i")
        self.num_characters = 0

    def __missing__(self, piece: str) -> int:
        if piece.isspace():
            has_break = not _LINE_BREAKS.isdisjoint(piece)
            token, kind = ("\n", _BREAK) if has_break else (" ", _SPACE)
        else:
            token = normalise(piece)
            kind = _kind_of(token, self._stops)
        with self._lock:
            row = len(self.tokens)
            self.tokens.append(token)
            self.kinds.append(kind)
            self.lengths.append(len(piece))
            self.num_characters += len(piece)
            self[piece] = row
        return row

    def is_full(self) -> bool:
        too_many = len(self) > _MAX_CACHED_TOKENS
        return too_many or self.num_characters > _MAX_CACHED_CHARACTERS


class _Pieces(NamedTuple):
    """Pieces of some documents of one language, laid end to end."""

    documents: Int32Array
    """Index of the document of each piece, ascending."""
    tokens: Sequence[str]
    """Distinct normalised tokens."""
    rows: Int32Array
    """Of each piece, its index in `tokens`."""
    kinds: Int8Array
    starts: Int32Array
    ends: Int32Array


class Tokenizer:
    """Tokens of documents, by the rule in the module's docstring.

    The user's dictionary and stop words are read at once; the rest is loaded on first use. A
    document's tokens depend on nothing but its content and language.

    Raises:
        ConfigError: if the user's dictionary or stop words cannot be read.
    """

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._segmenter = Segmenter(config.user_dict)
        user = read_stop_words(config.stopwords) if config.stopwords else frozenset()
        self._user_stops: frozenset[str] = user
        self._tables: dict[str, _TokenTable] = {}

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[TextConfig]]:
        """Pickled as its configuration."""
        return Tokenizer, (self._config,)

    @property
    def segmenter(self) -> Segmenter:
        """Cuts the Chinese text; knows the dictionary's part-of-speech tags."""
        return self._segmenter

    def _stops(self, language: str) -> frozenset[str]:
        languages = ("zh", "en") if language == "zh" else ("en",)
        return self._user_stops.union(*map(stop_words, languages))

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of all that tokens depend on."""
        digest = hashlib.sha256(self._segmenter.fingerprint().encode())
        versions = (f"rule {RULE_VERSION}", f"unicode {unicodedata.unidata_version}")
        stops = (f"{name} {word}" for name in LANGUAGES for word in sorted(self._stops(name)))
        for line in chain(versions, stops):
            digest.update(f"\n{line}".encode())
        return digest.hexdigest()

    def tokenize(self, contents: Texts, languages: Texts) -> pa.RecordBatch:
        """Tokens of some documents.

        Args:
            contents: texts; None for rejected documents.
            languages: `zh`, `en` or `other` for each; anything where the content is None.

        Returns:
            Columns tokens list<string> (normalised), kinds list<int8>, starts and ends
            list<int32> (code points), a row for each document, null where the content is None.

        Raises:
            ValueError: if a document has no known language.
            ConfigError: on the first use, if frequencies of the user's dictionary are too large.
        """
        texts = _as_list(contents)
        names = _as_list(languages)
        groups: dict[str, list[int]] = {}
        for index, (text, name) in enumerate(zip(texts, names, strict=True)):
            if text is not None:
                if name not in LANGUAGES:
                    raise ValueError(f"document {index} has the language {name!r}, not {LANGUAGES}")
                groups.setdefault(name, []).append(index)
        parts = [self._tokenize_group(name, rows, texts) for name, rows in sorted(groups.items())]
        return _to_batch(_join(parts), [text is None for text in texts])

    def _cutter(self, language: str) -> Callable[[str], list[str]]:
        if language == "zh":
            return self._segmenter.cut
        cut_others = _piece_pattern().findall
        if language == "other":
            return cut_others
        return functools.partial(_cut_english, cut_others, self._segmenter)

    def _table(self, language: str) -> _TokenTable:
        """The language's table; replaced, never emptied, since others may be reading it."""
        table = self._tables.get(language)
        if table is None or table.is_full():
            table = self._tables[language] = _TokenTable(self._stops(language))
        return table

    def _tokenize_group(self, language: str, rows: list[int], texts: list[str | None]) -> _Pieces:
        table = self._table(language)
        pieces = list(map(self._cutter(language), (texts[row] or "" for row in rows)))
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
        looked_up = map(table.__getitem__, chain.from_iterable(pieces))
        table_rows = np.fromiter(looked_up, np.int32, int(sizes.sum()))
        documents = np.repeat(np.asarray(rows, np.int32), sizes)
        return _resolve(table, table_rows, documents)


def _as_list(values: Texts) -> list[str | None]:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        listed: list[str | None] = values.to_pylist()
        return listed
    return list(values)


def _cut_english(
    cut_others: Callable[[str], list[str]], segmenter: Segmenter, text: str
) -> list[str]:
    """Pieces of an English text, its runs of Han cut by the segmenter."""
    pieces = cut_others(text)
    if text.isascii() or _HAN_RUN.search(text) is None:
        return pieces
    cut: list[str] = []
    for piece in pieces:
        if _HAN_RUN.match(piece):
            cut += segmenter.cut(piece)
        else:
            cut.append(piece)
    return cut


def _offsets(lengths: Int32Array, is_first: BoolArray) -> tuple[Int32Array, Int32Array]:
    """Starts and ends of pieces within their documents; `is_first` begins a document."""
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    bases = starts[is_first][np.cumsum(is_first) - 1]
    return (starts - bases).astype(np.int32), (ends - bases).astype(np.int32)


def _resolve(table: _TokenTable, rows: Int32Array, documents: Int32Array) -> _Pieces:
    """Tokens of pieces: offsets, runs of white space merged, full stops judged."""
    line_feed = table["\n"]
    num_rows = max(line_feed, int(rows.max(initial=0))) + 1
    kinds = np.array(table.kinds[:num_rows], dtype=np.int8)[rows]
    lengths = np.array(table.lengths[:num_rows], dtype=np.int32)[rows]
    # edges[i]: a document begins at piece i.
    edges = np.ones(len(rows) + 1, np.bool_)
    np.not_equal(documents[1:], documents[:-1], out=edges[1:-1])
    is_first, is_last = edges[:-1], edges[1:]
    starts, ends = _offsets(lengths, is_first)

    is_space = (kinds == _SPACE) | (kinds == _BREAK)
    is_dots = kinds == _DOTS
    ends_sentence = is_last | np.append(is_space[1:], True)[: len(rows)]
    kinds[is_dots] = np.where(ends_sentence[is_dots], SENTENCE_END, PUNCTUATION)

    keep = ~is_space
    run_starts = np.flatnonzero(is_space & (is_first | np.insert(keep, 0, True)[:-1]))
    run_stops = np.flatnonzero(is_space & (is_last | np.append(keep, True)[1:]))
    if len(run_starts):
        # Breaks lie in runs only, so a sum up to the next run counts those of this one.
        has_break = np.add.reduceat(kinds == _BREAK, run_starts, dtype=np.int64) > 0
        breaks = run_starts[has_break]
        ends[breaks] = ends[run_stops[has_break]]
        rows[breaks], kinds[breaks], keep[breaks] = line_feed, SENTENCE_END, True
    rows, kinds = rows[keep], kinds[keep]
    used = np.zeros(num_rows, np.bool_)
    used[rows] = True
    tokens = [table.tokens[row] for row in np.flatnonzero(used).tolist()]
    renumbered = (np.cumsum(used, dtype=np.int32) - 1)[rows].astype(np.int32)
    return _Pieces(documents[keep], tokens, renumbered, kinds, starts[keep], ends[keep])


def _join(parts: list[_Pieces]) -> _Pieces:
    """Pieces of all languages, in the order of the documents."""
    if len(parts) == 1:
        return parts[0]
    sizes = np.cumsum([0, *(len(part.tokens) for part in parts)], dtype=np.int32)
    rows = [part.rows + size for part, size in zip(parts, sizes, strict=False)]
    documents = _concatenate([part.documents for part in parts], np.int32)
    order = np.argsort(documents, kind="stable")
    return _Pieces(
        documents[order],
        list(chain.from_iterable(part.tokens for part in parts)),
        _concatenate(rows, np.int32)[order],
        _concatenate([part.kinds for part in parts], np.int8)[order],
        _concatenate([part.starts for part in parts], np.int32)[order],
        _concatenate([part.ends for part in parts], np.int32)[order],
    )


def _concatenate(arrays: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays], dtype=dtype)


def _to_batch(pieces: _Pieces, is_null: list[bool]) -> pa.RecordBatch:
    """The columns of `pieces`, a row for each of `is_null`."""
    offsets = np.zeros(len(is_null) + 1, np.int32)
    np.cumsum(np.bincount(pieces.documents, minlength=len(is_null)), out=offsets[1:])
    columns = {
        "tokens": pa.array(pieces.tokens, pa.string()).take(pa.array(pieces.rows)),
        "kinds": pa.array(pieces.kinds),
        "starts": pa.array(pieces.starts),
        "ends": pa.array(pieces.ends),
    }
    mask = pa.array(is_null, pa.bool_())
    lists = [
        pa.ListArray.from_arrays(pa.array(offsets), columns[field.name], mask=mask)
        for field in _DATA_FIELDS
    ]
    return pa.RecordBatch.from_arrays(lists, schema=pa.schema(_DATA_FIELDS))
