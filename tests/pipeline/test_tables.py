from hypothesis import given
from hypothesis import strategies as st

from lexbeam.pipeline import tables


def test_han_characters_take_two_columns():
    assert tables.display_width("茶叶 tea") == 8
    assert tables.display_width("e\u0301") == 1


def test_columns_line_up_below_each_other():
    lines = tables.table([["茶叶", "1"], ["tea", "22"]], header=["term", "n"], right=(1,))
    assert lines == ["term   n", "----  --", "茶叶   1", "tea   22"]


def test_a_table_without_rows_is_its_header():
    assert tables.table([], header=["term"]) == ["term", "----"]
    assert tables.table([]) == []


@given(st.text(), st.integers(1, 40))
def test_shortened_text_fits_and_cannot_steer_the_terminal(text, width):
    short = tables.shorten(text, width)
    assert tables.display_width(short) <= width
    assert "\x1b" not in short
    assert "\n" not in short


def test_counts_have_their_plural():
    assert tables.count_of(1, "file") == "1 file"
    assert tables.count_of(2000, "file") == "2,000 files"
