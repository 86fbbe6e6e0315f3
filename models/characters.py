r"""Classes of characters, as bits in a table over all code points.

Letters, digits and white space are those of Python's `re` (`\w`, `\s`), marks those of
`unicodedata`, so the table is as old or new as Python's Unicode.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata

import numpy as np
import numpy.typing as npt

# A letter or digit of any script but the four of East Asia.
LETTER = 1
# A combining mark (Mn, Mc, Me), which continues a word.
MARK = 2
ASCII_LETTER = 4
ASCII_DIGIT = 8
SPACE = 16
# The scripts whose runs are pieces of their own.
HAN, HIRAGANA, KATAKANA, HANGUL = 32, 64, 128, 256
PUNCTUATION = 512

NUM_CODES = 0x110000
_HAN = "\u2e80-\u2fd5\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SCRIPTS = {
    HAN: _HAN + "\U00020000-\U0003ffff",
    HIRAGANA: "\u3041-\u3096\u3099\u309a\u309d-\u309f",
    KATAKANA: "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    HANGUL: "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc",
}
LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
# Planes 4 to 13 are unassigned, 15 and 16 private: nothing there has a class.
_ASSIGNED = ((0, 0x40000), (0xE0000, 0xE1000))
# Where Unicode has combining marks.
_MARKS = ((0x300, 0x1F000), (0xE0100, 0xE01F0))


@functools.cache
def class_table() -> npt.NDArray[np.uint16]:
    """(NUM_CODES,) uint16, the classes of every code point."""
    table = np.zeros(NUM_CODES, np.uint16)
    east_asian = "".join(_SCRIPTS.values())
    expressions = {
        LETTER: f"[^\\W_{east_asian}]+",
        ASCII_LETTER: "[A-Za-z]+",
        ASCII_DIGIT: "[0-9]+",
        SPACE: r"\s+",
        PUNCTUATION: f"[{re.escape(string.punctuation)}]+",
        **{script: f"[{ranges}]+" for script, ranges in _SCRIPTS.items()},
    }
    for first, last in _ASSIGNED:
        characters = "".join(map(chr, range(first, last)))
        for bit, expression in expressions.items():
            for run in re.finditer(expression, characters):
                table[first + run.start() : first + run.end()] |= bit
    for first, last in _MARKS:
        is_mark = (unicodedata.category(chr(code))[0] == "M" for code in range(first, last))
        table[first:last] |= np.fromiter(is_mark, np.uint16, last - first) * np.uint16(MARK)
    return table
