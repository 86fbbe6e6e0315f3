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
import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.characters import LINE_BREAKS, class_table
from lexbeam.models.config import LANGUAGES, ConfigError, TextConfig
from lexbeam.models.piece_table import PieceTable
from lexbeam.models.schemas import NUMBER, PUNCTUATION, SENTENCE_END, STOP, TERM, TOKEN_FIELDS, WORD
from lexbeam.models.segment import Segmenter
from lexbeam.models.stopwords import stop_words
from lexbeam.models.utf8 import text_bytes

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
Texts: TypeAlias = "Sequence[str | None] | pa.Array"

RULE_VERSION = 1
MAX_TERM_LENGTH = 64

_ENDS_SENTENCE = re.compile(r"[。!?;⋯]|\.\.\.")

_DATA_FIELDS = [
    field for field in TOKEN_FIELDS if field.name in ("tokens", "kinds", "starts", "ends")
]


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
    """Kind of a normalised token, or DOTS where that depends on what follows."""
    from lexbeam.models.token_kernels import DOTS

    if not any(map(str.isalnum, token)):
        if token in (".", ".."):
            return DOTS
        return SENTENCE_END if _ENDS_SENTENCE.search(token) else PUNCTUATION
    has_letter = any(map(str.isalpha, token))
    if not has_letter and any(map(str.isdigit, token)):
        return NUMBER
    if token in stops or token.replace("’", "'") in stops:
        return STOP
    if has_letter and 2 <= len(token) <= MAX_TERM_LENGTH and not any(map(str.isspace, token)):
        return TERM
    return WORD


class Tokenizer:
    """Tokens of documents, by the rule in the module's docstring.

    The user's dictionary and stop words are read at once; the rest is loaded on first use. A
    document's tokens depend on nothing but its content and language. Threads may share one.

    Raises:
        ConfigError: if the user's dictionary or stop words cannot be read.
    """

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._segmenter = Segmenter(config.user_dict)
        user = read_stop_words(config.stopwords) if config.stopwords else frozenset()
        self._user_stops: frozenset[str] = user
        self._pieces = PieceTable(self._judge)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[TextConfig]]:
        """Pickled as its configuration."""
        return Tokenizer, (self._config,)

    @property
    def segmenter(self) -> Segmenter:
        """Cuts the Chinese text; knows the dictionary's part-of-speech tags."""
        return self._segmenter

    @functools.cached_property
    def _stops(self) -> dict[str, frozenset[str]]:
        """Stop words of documents of each language."""
        english = self._user_stops | stop_words("en")
        return {name: english | stop_words(name) for name in LANGUAGES}

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of all that tokens depend on."""
        digest = hashlib.sha256(self._segmenter.fingerprint().encode())
        versions = (f"rule {RULE_VERSION}", f"unicode {unicodedata.unidata_version}")
        stops = (f"{name} {word}" for name in LANGUAGES for word in sorted(self._stops[name]))
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
        from lexbeam.models import token_kernels

        texts = pa.array(contents, pa.string()) if isinstance(contents, Sequence) else contents
        rules = _language_codes(texts, languages)
        codes, text_offsets = token_kernels.decode_utf8(*text_bytes(texts))
        text_pieces, ends = self._divide(codes, text_offsets, rules)
        numbers, pieces, piece_ends, groups = token_kernels.distinct_pieces(
            codes, text_pieces, rules, ends
        )
        kinds, tokens = self._pieces.look_up(pieces, piece_ends, groups)
        offsets, rows, *columns = token_kernels.resolve_pieces(
            text_offsets, text_pieces, numbers, ends, kinds, len(kinds)
        )
        # One more, which stands for line breaks.
        values = pa.concat_arrays([tokens, pa.array(["\n"])]).take(pa.array(rows))
        return _to_batch(offsets, [values, *map(pa.array, columns)], texts)

    def _divide(
        self, codes: UInt32Array, text_offsets: Int64Array, rules: Int8Array
    ) -> tuple[Int64Array, Int32Array]:
        """First piece of each text, and where each piece ends."""
        from lexbeam.models import segment_kernels, word_kernels

        text_spans, ends, is_chinese = word_kernels.divide_texts(
            codes, text_offsets, rules, class_table()
        )
        if not is_chinese.any():
            return text_spans, ends
        return segment_kernels.cut_spans(
            codes, text_spans, ends, is_chinese, self._segmenter.model, True
        )

    def _judge(self, piece: str, group: int) -> tuple[str, int]:
        """Token and kind of a piece in the language of that number."""
        from lexbeam.models.token_kernels import BREAK, SPACE

        if piece.isspace():
            has_break = not LINE_BREAKS.isdisjoint(piece)
            return ("\n", BREAK) if has_break else (" ", SPACE)
        token = normalise(piece)
        return token, _kind_of(token, self._stops[LANGUAGES[group]])


def _language_codes(contents: pa.Array, languages: Texts) -> Int8Array:
    """(num_texts,) index into LANGUAGES, which is the rule of `word_kernels` as well."""
    names = languages if isinstance(languages, Sequence) else languages.to_pylist()
    if len(names) != len(contents):
        raise ValueError(f"{len(contents)} documents, but {len(names)} languages")
    codes = np.zeros(len(contents), np.int8)
    for index, (name, is_text) in enumerate(
        zip(names, contents.is_valid().to_pylist(), strict=True)
    ):
        if is_text:
            if name not in LANGUAGES:
                raise ValueError(f"document {index} has the language {name!r}, not {LANGUAGES}")
            codes[index] = LANGUAGES.index(name)
    return codes


def _to_batch(offsets: Int32Array, values: list[pa.Array], texts: pa.Array) -> pa.RecordBatch:
    """Lists of the values between `offsets`, null where the text is."""
    mask = texts.is_null() if texts.null_count else None
    lists = [pa.ListArray.from_arrays(pa.array(offsets), value, mask=mask) for value in values]
    return pa.RecordBatch.from_arrays(lists, schema=pa.schema(_DATA_FIELDS))
