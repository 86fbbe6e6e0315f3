"""Windows: where they are cut, and what their tokens are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models.encoder_spec import ModelError, ModelSpec
from lexbeam.models.encoder_windows import (
    MAX_OVERLAP,
    TextTokenizer,
    cut_windows,
    ends_sentence,
    make_windows,
)
from tests.models.conftest import SpecMaker
from tests.models.tiny_models import ENGLISH, FAMILIES, TEXTS


def letter_ends(text: str) -> np.ndarray:
    """A token a character."""
    return np.arange(1, len(text) + 1, dtype=np.int32)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("到了。", "明天", True),
        ("到了。”", "明天", True),
        ("到了。", "”明天", False),
        ("到了", "。", False),
        ("好！", "！", False),
        ("really?", " Yes", True),
        ("He left.", " She", True),
        ("He left.", "", True),
        ("3.", "14", False),
        ('"Gone."', " So", True),
        ("a line", "\nnext", True),
        ("a line\n", "next", True),
        ("a word", " more", False),
        ("”", "x", False),
    ],
)
def test_sentence_ends(before: str, after: str, expected: bool) -> None:
    assert ends_sentence(before + after, len(before)) is expected


def test_offset_zero_ends_nothing() -> None:
    assert ends_sentence("word", 0) is False


def test_short_document_is_one_window() -> None:
    assert cut_windows("", letter_ends(""), 10) == [(0, 0)]
    assert cut_windows("abc", letter_ends("abc"), 3) == [(0, 3)]


def test_cut_at_the_last_sentence_end_within_reach() -> None:
    text = "a" * 30 + "." + " " + "b" * 5 + "。" + "c" * 30
    # 40 tokens a window: a sentence ends behind token 38, the overlap is 5.
    assert cut_windows(text, letter_ends(text), 40) == [(0, 38), (33, len(text))]


def test_cut_at_capacity_without_a_sentence_end() -> None:
    text = "a。" + "b" * 70
    assert cut_windows(text, letter_ends(text), 40) == [(0, 40), (35, 72)]


def test_truncate_takes_the_first_window() -> None:
    text = "a" * 35 + "。" + "b" * 35
    assert cut_windows(text, letter_ends(text), 40, first_only=True) == [(0, 40)]


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        cut_windows("abc", letter_ends("abc"), 0)


@given(st.text(alphabet="ab。. \n", max_size=400), st.integers(min_value=1, max_value=90))
def test_windows_cover_every_token_in_order(text: str, capacity: int) -> None:
    windows = cut_windows(text, letter_ends(text), capacity)
    assert windows[0][0] == 0
    assert windows[-1][1] == len(text)
    overlap = min(MAX_OVERLAP, capacity // 8)
    for (start, end), (following, following_end) in zip(windows, windows[1:], strict=False):
        assert end - start <= capacity
        assert following == end - overlap
        assert following > start
        assert following_end > end


@pytest.mark.parametrize("prefix", ["", "passage: "])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_model_s_own_tokenizer(
    tiny_model: SpecMaker, own_cache: Path, family: str, prefix: str
) -> None:
    from transformers import AutoTokenizer

    spec = tiny_model(family, prefix)
    tokenizer = TextTokenizer(spec)
    own = AutoTokenizer.from_pretrained(spec.directory)
    texts = [*TEXTS, "", " lead", "two  spaces\n\nand lines", "🦢", "\x00"]
    for row, (text, tokens) in enumerate(zip(texts, tokenizer.tokenize(texts), strict=True)):
        (window,) = make_windows(row, text, tokens, tokenizer, 10_000, first_only=False)
        assert window.ids.tolist() == own(prefix + text)["input_ids"]
        assert len(window.ids) == window.lead + len(window.starts) + len(tokenizer.closing)
        assert (window.starts >= 0).all()
        assert (window.ends <= len(text)).all()


def test_later_windows_repeat_specials_and_prefix(tiny_model: SpecMaker, own_cache: Path) -> None:
    tokenizer = TextTokenizer(tiny_model("bert", "passage: "))
    (tokens,) = tokenizer.tokenize([ENGLISH])
    windows = list(make_windows(0, ENGLISH, tokens, tokenizer, 24, first_only=False))
    assert len(windows) > 1
    opening = [*tokenizer.opening.tolist(), *tokens.prefix_ids.tolist()]
    for window in windows:
        assert len(window.ids) <= 24
        assert window.ids[: window.lead].tolist() == opening
        assert window.ids[-1] == tokenizer.closing[0]


def test_capacity_counts_specials_and_prefix(tiny_model: SpecMaker, own_cache: Path) -> None:
    tokenizer = TextTokenizer(tiny_model("bert", "passage: "))
    prefix = tokenizer.tokenize([""])[0].prefix_ids
    assert len(prefix) >= 2
    assert tokenizer.capacity(64) == 64 - 2 - len(prefix)


def test_truncation_and_padding_stored_in_the_file_are_ignored(
    tiny_bert: ModelSpec, tmp_path: Path
) -> None:
    import dataclasses

    from tokenizers import Tokenizer

    stored = Tokenizer.from_file(str(tiny_bert.directory / "tokenizer.json"))
    stored.enable_truncation(8)
    stored.enable_padding(length=300)
    (tmp_path / "config.json").write_bytes((tiny_bert.directory / "config.json").read_bytes())
    stored.save(str(tmp_path / "tokenizer.json"))
    spec = dataclasses.replace(tiny_bert, directory=tmp_path)
    got = TextTokenizer(spec).tokenize([ENGLISH])[0].ids
    assert got.tolist() == TextTokenizer(tiny_bert).tokenize([ENGLISH])[0].ids.tolist()


def test_damaged_tokenizer_is_named(tiny_bert: ModelSpec, tmp_path: Path) -> None:
    import dataclasses

    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        TextTokenizer(dataclasses.replace(tiny_bert, directory=tmp_path))
