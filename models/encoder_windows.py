"""Turns documents into windows of model tokens, with offsets into the content.

A document is tokenized once, prefix and content together, so that a window holds the tokens
that the model's own tokenizer gives. Windows are then slices of its tokens, each between the
special tokens and behind the prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lexbeam.models.encoder_spec import ModelSpec, damaged

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Int32Array = npt.NDArray[np.int32]

OVERLAP_SHARE = 8  # the overlap is this part of a window ...
MAX_OVERLAP = 32  # ... and at most so many tokens
LOOK_BACK_SHARE = 4  # a window may end this part earlier, at the end of a sentence
SENTENCE_ENDS = frozenset("。！？!?…")
CLOSING = frozenset("\"'”’」』）)】]》")


@dataclass(frozen=True)
class TokenizedText:
    """Model tokens of a document's content.

    Attributes:
        prefix_ids: (p,) ids of the prefix's tokens.
        ids: (k,) ids of the content's tokens, without special tokens.
        starts: (k,) where each begins, in code points of the content.
        ends: (k,) where each ends, exclusive.
    """

    prefix_ids: Int32Array
    ids: Int32Array
    starts: Int32Array
    ends: Int32Array


@dataclass(frozen=True)
class Window:
    """A piece of a document as the model reads it.

    Attributes:
        document: row of the document.
        ids: (w,) token ids, special tokens and prefix included.
        lead: tokens before the first content token.
        starts: (c,) offsets of the content tokens.
        ends: (c,) their ends, exclusive.
    """

    document: int
    ids: Int32Array
    lead: int
    starts: Int32Array
    ends: Int32Array


class TextTokenizer:
    """The model's fast tokenizer, for bulk use.

    Args:
        spec: the model; its tokenizer.json is read directly, without transformers.

    Raises:
        ModelError: if the tokenizer cannot be read.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._tokenizer = load_tokenizer(spec)
        self.prefix = spec.document_prefix
        around = surrounding_ids(self._tokenizer)
        if around is None:
            raise damaged(spec.directory, "tokenizer.json", "cannot encode a letter")
        self.opening, self.closing = around
        self.pad_id = self._pad_id(spec)
        self._prefix_end = len(self.prefix.rstrip())

    def _pad_id(self, spec: ModelSpec) -> int:
        from lexbeam.models.encoder_spec import read_json

        value = read_json(spec.directory, "config.json").get("pad_token_id")
        return value if isinstance(value, int) else 0

    def capacity(self, max_seq_length: int) -> int:
        """Content tokens that a window of max_seq_length tokens holds; may be negative."""
        prefix = self._tokenizer.encode(self.prefix, add_special_tokens=False)
        return max_seq_length - len(prefix.ids) - len(self.opening) - len(self.closing)

    def tokenize(self, contents: Sequence[str]) -> list[TokenizedText]:
        """Tokenize in bulk, on all of the tokenizer's threads."""
        texts = [self.prefix + content for content in contents]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._split(encoding) for encoding in encodings]

    def _split(self, encoding: Encoding) -> TokenizedText:
        """Part the prefix's tokens from the content's, whose offsets are made its own."""
        ids = np.array(encoding.ids, dtype=np.int32)
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        shifted = np.maximum(offsets - len(self.prefix), 0)
        # A tokenizer may give the space behind the prefix a token of its own. In front of
        # content it is the content's, as it would be without a prefix; alone it is the prefix's.
        in_prefix = offsets[:, 1] <= self._prefix_end
        if self.prefix and (offsets[:, 1] <= len(self.prefix)).all():
            in_prefix[:] = True
        first = int(np.argmin(in_prefix)) if not in_prefix.all() else len(ids)
        return TokenizedText(ids[:first], ids[first:], shifted[first:, 0], shifted[first:, 1])


def surrounding_ids(tokenizer: Tokenizer) -> tuple[Int32Array, Int32Array] | None:
    """Special tokens that a tokenizer puts before and after a text.

    None where it cannot encode a letter.
    """
    encoding = tokenizer.encode("a", add_special_tokens=True)
    plain = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    if not plain:
        return None
    ids = np.array(encoding.ids, dtype=np.int32)
    return ids[: plain[0]], ids[plain[-1] + 1 :]


@lru_cache(maxsize=1)
def load_tokenizer(spec: ModelSpec) -> Tokenizer:
    """The tokenizer of tokenizer.json, or one that transformers makes of older files.

    It neither truncates nor pads. Loaded once for what checks the model and what encodes with it:
    that takes most of a second. Raises ModelError where it cannot be read.
    """
    from tokenizers import Tokenizer

    path = spec.directory / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            from transformers import AutoTokenizer

            made: Any = AutoTokenizer.from_pretrained(
                spec.directory, use_fast=True, local_files_only=True, trust_remote_code=False
            )
            tokenizer = Tokenizer.from_str(made.backend_tokenizer.to_str())
    except Exception as error:  # the Rust library raises bare Exception
        raise damaged(spec.directory, path.name, str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cut_windows(
    content: str, ends: Int32Array, capacity: int, *, first_only: bool = False
) -> list[tuple[int, int]]:
    """Ranges of a document's tokens that become its windows, in order.

    content: the text; ends: (k,) where its tokens end; capacity: content tokens a window.
    A window ends behind a sentence where one ends in its last quarter; the next one begins
    some tokens before that end. At least one range is given, (0, 0) for a text without tokens.
    Raises ValueError unless capacity is positive.
    """
    if capacity < 1:
        raise ValueError(f"a window must hold at least one token, not {capacity}")
    total = len(ends)
    if total <= capacity:
        return [(0, total)]
    if first_only:
        return [(0, capacity)]
    overlap = min(MAX_OVERLAP, capacity // OVERLAP_SHARE)
    look_back = capacity // LOOK_BACK_SHARE
    windows = []
    start = 0
    while start + capacity < total:
        latest = start + capacity
        end = _sentence_end(content, ends, latest, latest - look_back) or latest
        windows.append((start, end))
        start = end - overlap
    windows.append((start, total))
    return windows


def _sentence_end(content: str, ends: Int32Array, latest: int, earliest: int) -> int | None:
    """The last token count in (earliest, latest] behind which a sentence ends, or None."""
    for count in range(latest, max(earliest, 0), -1):
        if ends_sentence(content, int(ends[count - 1])):
            return count
    return None


def ends_sentence(content: str, end: int) -> bool:
    """Whether a sentence of `content` ends right before offset `end`.

    It does behind 。！？!?… and their closing quotes, behind a full stop that a space follows,
    and at a line break.
    """
    following = content[end : end + 1]
    if following == "\n":
        return True
    if following in CLOSING or following in SENTENCE_ENDS:
        return False
    last = end - 1
    while last >= 0 and end - last < 4 and content[last] in CLOSING:
        last -= 1
    if last < 0:
        return False
    if content[last] == ".":
        return not following or following.isspace()
    return content[last] in SENTENCE_ENDS or content[last] == "\n"


def make_windows(
    document: int,
    content: str,
    text: TokenizedText,
    tokenizer: TextTokenizer,
    max_seq_length: int,
    *,
    first_only: bool,
) -> Iterator[Window]:
    """Windows of a tokenized document, special tokens and prefix around each.

    Raises ValueError if max_seq_length leaves no room for content.
    """
    opening = np.concatenate([tokenizer.opening, text.prefix_ids])
    capacity = max_seq_length - len(opening) - len(tokenizer.closing)
    for start, end in cut_windows(content, text.ends, capacity, first_only=first_only):
        ids = np.concatenate([opening, text.ids[start:end], tokenizer.closing])
        yield Window(document, ids, len(opening), text.starts[start:end], text.ends[start:end])


def all_windows(
    texts: Mapping[int, str],
    tokens: Mapping[int, TokenizedText],
    tokenizer: TextTokenizer,
    max_seq_length: int,
    *,
    first_only: bool = False,
) -> list[Window]:
    """Windows of every document that has tokens, in order of rows; see `make_windows`."""
    return [
        window
        for row in sorted(tokens)
        for window in make_windows(
            row, texts[row], tokens[row], tokenizer, max_seq_length, first_only=first_only
        )
    ]
