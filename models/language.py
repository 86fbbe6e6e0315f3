"""Language of a document: Chinese, English, or another one.

The rule, on the letters of the whole content (digits, punctuation, marks and emoji are not
letters, and nothing is sampled):

1. no letter at all: `other`;
2. the text is East Asian where Han, kana and Hangul are at least 10 % of all letters
   (`MIN_EAST_ASIAN`), or at least 4 % (`MIN_EAST_ASIAN_IN_CODE`) and less than 5 % of its Latin
   words are English function words (code and names around a little prose). A Han character
   stands for about a word and a Latin letter for a fifth of one, so a Chinese text full of code
   is still Chinese. Such a text is `other` where kana and Hangul are more than 10 % of the three
   (Japanese, Korean), else `zh`, in Traditional as in Simplified characters;
3. Latin letters are more than half: `en`, unless the text has at least 20 words, at least 0.5 %
   of its Latin letters are not ASCII, and less than 5 % of its words are English function words
   (French, Polish, Vietnamese and the like): `other`. Languages written in plain ASCII, and
   texts too short to tell, count as `en`;
4. any other script: `other`.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.utf8 import text_bytes

MIN_EAST_ASIAN = 0.10
MIN_EAST_ASIAN_IN_CODE = 0.04
MAX_KANA_HANGUL = 0.10
MIN_LATIN = 0.50
MIN_WORDS = 20
MIN_NON_ASCII = 0.005
MIN_FUNCTION_WORDS = 0.05

_NO_LETTER, _ASCII, _LATIN, _HAN, _KANA_HANGUL, _OTHER_LETTER = range(6)
_NUM_CLASSES = 6

# First and last code point of the scripts, of which only letters count.
_LATIN_RANGES = (
    (0x00AA, 0x00BA),
    (0x00C0, 0x02B8),
    (0x1D00, 0x1DBF),
    (0x1E00, 0x1EFF),
    (0x2C60, 0x2C7F),
    (0xA722, 0xA7FF),
    (0xAB30, 0xAB6F),
    (0xFB00, 0xFB06),
)
_FULL_WIDTH_LATIN = ((0xFF21, 0xFF3A), (0xFF41, 0xFF5A))
_KANA_HANGUL_RANGES = (
    (0x1100, 0x11FF),
    (0x3041, 0x309F),
    (0x30A1, 0x30FF),
    (0x3131, 0x318E),
    (0x31F0, 0x31FF),
    (0xA960, 0xA97F),
    (0xAC00, 0xD7FF),
    (0xFF66, 0xFFDC),
)
_HAN_RANGES = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
# Planes 2 and 3: ideographs, also where this Python's tables do not know them yet.
_IDEOGRAPHIC_PLANES = (0x20000, 0x3FFFF)

_LATIN_WORD = re.compile(
    f"[A-Za-z{''.join(f'{chr(first)}-{chr(last)}' for first, last in _LATIN_RANGES)}]+"
)
# About a fifth of English prose. Without words that code or another language uses as well
# ("for", "in", "is"; "a", "was", "me").
_FUNCTION_WORDS = frozenset(
    "the of and to that it are be by this have has had which you they we his her she were been "
    "their its can would should there when who what about into than also these those such my "
    "your our only between through may how where".split()
)


@functools.cache
def _class_table() -> npt.NDArray[np.uint8]:
    """Class of code points: (0x40001,) uint8; the last entry stands for all beyond."""
    table = np.zeros(_IDEOGRAPHIC_PLANES[1] + 2, dtype=np.uint8)
    letters = np.fromiter(
        (chr(code).isalpha() for code in range(_IDEOGRAPHIC_PLANES[0])),
        dtype=np.bool_,
        count=_IDEOGRAPHIC_PLANES[0],
    )
    table[: len(letters)][letters] = _OTHER_LETTER
    classes = (
        (_LATIN_RANGES, _LATIN),
        (_FULL_WIDTH_LATIN, _ASCII),
        (_KANA_HANGUL_RANGES, _KANA_HANGUL),
        (_HAN_RANGES, _HAN),
        (((0x41, 0x5A), (0x61, 0x7A)), _ASCII),
    )
    for ranges, letter_class in classes:
        for first, last in ranges:
            part = table[first : last + 1]
            part[part == _OTHER_LETTER] = letter_class
    table[_IDEOGRAPHIC_PLANES[0] : -1] = _HAN
    return table


def count_letters(content: str) -> npt.NDArray[np.int64]:
    """Letters of `content` by class: (6,) int64.

    Classes: none, ASCII (full-width forms included), other Latin, Han, kana and Hangul, other.
    """
    codes = np.frombuffer(content.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    table = _class_table()
    classes = table[np.minimum(codes, len(table) - 1)]
    return np.bincount(classes, minlength=_NUM_CLASSES)


def _count_words(content: str | pa.StringScalar) -> tuple[int, int]:
    """Latin words of `content`, and how many of them are English function words."""
    text = content if isinstance(content, str) else content.as_py()
    words = _LATIN_WORD.findall(text.lower())
    return len(words), sum(map(_FUNCTION_WORDS.__contains__, words))


def _lacks_function_words(words: int, function_words: int) -> bool:
    return function_words < MIN_FUNCTION_WORDS * words


def _is_east_asian(content: str | pa.StringScalar, east_asian: int, letters: int) -> bool:
    """Step 2 of the rule."""
    if east_asian >= MIN_EAST_ASIAN * letters:
        return True
    if east_asian < MIN_EAST_ASIAN_IN_CODE * letters:
        return False
    return _lacks_function_words(*_count_words(content))


def _is_foreign_latin(
    content: str | pa.StringScalar, ascii_letters: int, latin_letters: int
) -> bool:
    """Whether a text in Latin script is surely not English (step 3 of the rule)."""
    if latin_letters < MIN_NON_ASCII * (ascii_letters + latin_letters):
        return False
    words, function_words = _count_words(content)
    return words >= MIN_WORDS and _lacks_function_words(words, function_words)


def detect_language(content: str) -> str:
    """Language of `content`: `zh`, `en` or `other`, by the rule in the module's docstring."""
    return _decide(content, *count_letters(content).tolist())


def detect_languages(contents: pa.Array) -> list[str | None]:
    """Language of each of (n,) string contents, None where the content is null."""
    from lexbeam.models import token_kernels

    counts = token_kernels.count_classes(
        *token_kernels.decode_utf8(*text_bytes(contents)), _class_table(), _NUM_CLASSES
    )
    texts = zip(contents, contents.is_valid().to_pylist(), counts.tolist(), strict=True)
    return [_decide(content, *row) if is_text else None for content, is_text, row in texts]


def _decide(
    content: str | pa.StringScalar,
    _: int,
    ascii_letters: int,
    latin: int,
    han: int,
    kana_hangul: int,
    other: int,
) -> str:
    """The rule, given the letters of the content by class."""
    letters = ascii_letters + latin + han + kana_hangul + other
    if letters == 0:
        return "other"
    east_asian = han + kana_hangul
    if _is_east_asian(content, east_asian, letters):
        return "other" if kana_hangul > MAX_KANA_HANGUL * east_asian else "zh"
    if ascii_letters + latin > MIN_LATIN * letters:
        return "other" if _is_foreign_latin(content, ascii_letters, latin) else "en"
    return "other"
