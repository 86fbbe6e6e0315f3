"""Plain tables for terminals, aligned for characters of double width."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def display_width(text: str) -> int:
    """Columns that a terminal takes to show the text."""
    width = 0
    for character in text:
        if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn"):
            continue
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return width


def printable(text: str) -> str:
    """The text on one line: control characters, which could steer the terminal, become spaces."""
    return "".join(
        " " if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character
        for character in text
    )


def shorten(text: str, width: int) -> str:
    """The text cut to so many columns, with an ellipsis where something is missing."""
    text = printable(text)
    if display_width(text) <= width:
        return text
    kept: list[str] = []
    used = 0
    for character in text:
        used += display_width(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text filled with spaces up to so many columns."""
    spaces = " " * max(0, width - display_width(text))
    return spaces + text if right else text + spaces


def table(
    rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), right: Sequence[int] = ()
) -> list[str]:
    """Lines of a table: columns two spaces apart; those numbered in `right` are right-aligned."""
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not lines:
        return []
    widths = [max(display_width(line[i]) for line in lines) for i in range(len(lines[0]))]
    if header:
        lines.insert(1, ["-" * width for width in widths])
    return [
        "  ".join(pad(cell, widths[i], right=i in right) for i, cell in enumerate(line)).rstrip()
        for line in lines
    ]


def definition_list(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Lines `name  value`, values below each other."""
    width = max((display_width(name) for name, _ in pairs), default=0)
    return [f"{pad(name, width)}  {value}" for name, value in pairs]


def count_of(number: int, noun: str) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
