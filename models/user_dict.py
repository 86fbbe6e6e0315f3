"""User dictionaries in jieba's format: a line is `word [frequency] [tag]`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from lexbeam.models.config import ConfigError

# A line: a word, which may hold spaces, a frequency, a tag.
_LINE = re.compile("(?P<word>.+?)(?: (?P<frequency>[0-9]+))?(?: (?P<tag>[a-z]+))?")
# Keeps every sum of frequencies within what a float64 holds exactly.
MAX_TOTAL = 2**53


@dataclass(frozen=True)
class UserWord:
    """A line of a user dictionary.

    Attributes:
        line: its number, from 1.
        word: may hold spaces.
        frequency: None asks for jieba's suggestion; 0 takes the word out.
        tag: part of speech, or None.
    """

    line: int
    word: str
    frequency: int | None
    tag: str | None


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
        check_total(path, word, total)
    return content, words


def check_total(path: str, word: UserWord, total: int) -> None:
    """Raise ConfigError, naming the line of `word`, if the sum of frequencies is too large."""
    if total > MAX_TOTAL:
        reason = f"line {word.line}: the frequencies sum up to more than {MAX_TOTAL}"
        raise ConfigError("user_dict", path, reason)


def _parse_line(path: str, number: int, raw: bytes) -> UserWord | None:
    """The word on line `number`, or None where it is empty.

    Raises:
        ConfigError: if the line is not UTF-8 or holds control characters.
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
    match = _LINE.fullmatch(line)
    if match is None:  # every other line separator is a control character
        raise ConfigError("user_dict", path, f"line {number} is not one line of text: {line!r}")
    word, frequency, tag = match.group("word", "frequency", "tag")
    if frequency is not None and len(frequency.lstrip("0")) > len(str(MAX_TOTAL)):
        raise ConfigError("user_dict", path, f"line {number}: the frequency is too large: {line!r}")
    return UserWord(number, word, None if frequency is None else int(frequency), tag)
