"""Tokens as text and marked text: exact, and safe against a corpus that holds our own marks."""

from __future__ import annotations

import itertools
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.sampling.windows import TokenTable, defuse


def table_for(text: str, cuts: list[int]) -> tuple[TokenTable, list[int]]:
    """A vocabulary that splits the text's bytes at arbitrary places, even inside characters."""
    raw = text.encode()
    places = sorted({0, len(raw), *[c % (len(raw) + 1) for c in cuts]})
    pieces = [raw[a:b] for a, b in itertools.pairwise(places)]
    return TokenTable(pieces, [repr(p) for p in pieces]), list(range(len(pieces)))


hostile = st.text(st.sampled_from(list('<> ab<>é中𝄞\n"')), max_size=30)


@given(hostile, st.lists(st.integers(0, 200), max_size=20))
@settings(max_examples=300, deadline=None)
def test_pieces_of_text_join_to_the_text(text, cuts):
    table, tokens = table_for(text, cuts)
    assert table.text(tokens) == text
    assert "".join(table.texts(tokens)) == text


@given(hostile, st.lists(st.integers(0, 200), max_size=20), st.integers(0, 2**20))
@settings(max_examples=500, deadline=None)
def test_the_corpus_cannot_make_or_break_a_mark(text, cuts, bits):
    table, tokens = table_for(text, cuts)
    marks = [bool(bits >> i & 1) for i in range(len(tokens))]
    marked = table.marked(tokens, marks)
    # Opening and closing marks alternate, whatever the corpus holds.
    found = re.findall("<<|>>", marked)
    assert found == ["<<", ">>"] * (len(found) // 2)
    # Apart from spaces, the text is the corpus's own.
    bare = marked.replace("<<", "").replace(">>", "")
    strip = str.maketrans("", "", " ")
    assert bare.translate(strip) == text.translate(strip)


@given(st.lists(st.sampled_from([" cat", " dog", "s", " the", "\n"]), max_size=12), st.integers(0, 2**12))
@settings(max_examples=200, deadline=None)
def test_marked_spans_are_exactly_the_runs_of_marked_tokens(words, bits):
    table = TokenTable([w.encode() for w in words], words)
    marks = [bool(bits >> i & 1) for i in range(len(words))]
    marked = table.marked(range(len(words)), marks)
    runs, current = [], ""
    for word, mark in zip([*words, ""], [*marks, False], strict=True):
        if mark:
            current += word
        elif current:
            runs.append(current)
            current = ""
    assert re.findall("<<(.*?)>>", marked, re.DOTALL) == [r.lstrip(" ") for r in runs if r.lstrip(" ")]


def test_a_plain_example():
    words = [" The", " cat", " sat", " on", " mats"]
    table = TokenTable([w.encode() for w in words], words)
    assert table.marked(range(5), np.array([0, 1, 1, 0, 1])) == " The <<cat sat>> on <<mats>>"


def test_special_tokens_have_no_text():
    table = TokenTable([None, b"cat"], ["<bos>", "cat"])
    assert table.text([0, 1]) == "cat"
    assert table.marked([0, 1], [True, False]) == "cat"


def test_defuse_leaves_no_mark():
    for text in ("<<", "<<<", "<<<<", ">>><<", "a<<b>>c"):
        assert "<<" not in defuse(text)
        assert ">>" not in defuse(text)
