"""Tables whose names have letters that are two columns wide, or none."""

import unicodedata

import pytest

pytest.importorskip("hypothesis")

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import paramtree as pt
from paramtree.display import table_text
from paramtree.letters import cut_middle, pad, text_width

LETTERS = st.text(st.sampled_from("ab/重みé\u0301\u200d🙂"), max_size=12)


@given(LETTERS, st.integers(0, 30))
def test_a_padded_text_is_as_wide_as_asked(text, more):
    width = text_width(text) + more
    assert text_width(pad(text, width)) == text_width(pad(text, width, left=True)) == width
    assert pad(text, width).startswith(text)
    assert pad(text, width, left=True).endswith(text)


@given(LETTERS, st.integers(0, 6), st.integers(0, 6))
def test_a_cut_text_is_never_wider_than_its_parts(text, before, behind):
    cut = cut_middle(text, before, behind)
    first, _, last = cut.partition("…")
    assert text.startswith(first)
    assert text_width(first) <= before
    assert text.endswith(last)
    assert text_width(last) <= behind


@pytest.mark.parametrize("width", [30, 80])
def test_columns_line_up_whatever_the_letters(width):
    rows = [("層" * 20 + "/重み", "1"), ("layer/weight", "22"), ("e\u0301/weight", "3")]
    lines = table_text(("name", "count"), rows, width, wide=1).split("\n")
    assert len({text_width(line) for line in lines}) == 1
    assert all(text_width(line) <= width for line in lines)


def test_the_table_of_statistics_lines_up():
    params = {"層": {"重み": np.ones((2, 3), "float32")}, "layer": {"weight": np.ones((2, 3), "float32")}}
    _, _, *lines = pt.stats(params).to_text(100).split("\n")
    starts = [text_width(line[: line.index("float32")]) for line in lines]
    assert starts == [14, 14]


def test_a_syllable_that_is_taken_apart_is_as_wide_as_the_whole():
    assert text_width(unicodedata.normalize("NFD", "한글")) == text_width("한글") == 4
