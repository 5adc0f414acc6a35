from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.explainers.replies import MAX_CHARACTERS, Reading, clean, read_chat, read_completion

HOSTILE = st.lists(
    st.sampled_from(
        [
            "EXPLANATION:",
            "explanation : x",
            "<think>",
            "</think>",
            "**",
            '"',
            "'",
            "[",
            "]",
            "<<",
            ">>",
            "\n",
            "none",
            "I cannot",
            "\u202e",
            "\x00",
            "a.b",
            ".",
            "Excerpt 1:",
            "{x}",
            "…",
            "é",
        ]
    )
    | st.text(max_size=8),
    max_size=20,
).map(" ".join)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("EXPLANATION: words for boats", "words for boats"),
        ("Some thought.\n\nEXPLANATION: words for boats.", "words for boats"),
        ("EXPLANATION: first\nNo, better:\nEXPLANATION: second", "second"),
        ("**EXPLANATION:** *words for boats*", "words for boats"),
        ("[EXPLANATION]: words for boats", "words for boats"),
        ('explanation: "words for boats"', "words for boats"),
        ("EXPLANATION:\nwords for boats", "words for boats"),
        ("<think>EXPLANATION: wrong [1,0]</think>\nEXPLANATION: right", "right"),
        ('EXPLANATION: the word "cat" in "cat and dog"', 'the word "cat" in "cat and dog"'),
        ("EXPLANATION: times such as 6 p.m.", "times such as 6 p.m."),
        ("EXPLANATION: the <<marked>> word", "the marked word"),
        ("EXPLANATION: The marked words share the concept of independence", "the concept of independence"),
        ("EXPLANATION: the shared word", "the shared word"),
        ('{"explanation": "words for boats"}', "words for boats"),
        ('```json\n{"EXPLANATION": "words\nfor boats."}\n```', "words for boats"),
    ],
)
def test_the_last_line_is_the_text(reply, text):
    assert read_chat(reply) == Reading(text=text)


@pytest.mark.parametrize(
    ("reply", "status", "reason"),
    [
        (None, "failed", "empty"),
        ("  \n", "failed", "empty"),
        ("The words are about boats.", "failed", "no line"),
        ("I'm sorry, but I can't help with that.", "failed", "refused"),
        ("EXPLANATION: I cannot assist with this", "failed", "refused"),
        ("EXPLANATION: ...", "failed", "empty"),
        ("EXPLANATION: none", "undetermined", "no pattern"),
        ('{"explanation": "none"}', "undetermined", "no pattern"),
        ('{"explanation": 3}', "failed", "no line"),
        ("EXPLANATION: your phrase", "failed", "form"),
        ("EXPLANATION: No clear pattern.", "undetermined", "no pattern"),
        ("<think>EXPLANATION: still thinking", "failed", "no line"),
    ],
)
def test_no_text_without_a_reason(reply, status, reason):
    reading = read_chat(reply)
    assert (reading.text, reading.status) == (None, status)
    assert reason in (reading.reason or "")


def test_a_reply_that_was_cut_off_says_so():
    assert "cut off" in (read_chat("The words are about", "length").reason or "")


@given(HOSTILE, st.sampled_from([None, "stop", "length"]))
def test_any_reply_is_a_text_or_a_reason(reply, finish):
    for reading in (read_chat(reply, finish), read_completion(reply, finish)):
        if reading.text is None:
            assert reading.status in ("failed", "undetermined")
            assert reading.reason
        else:
            assert reading.status == "ok"
            assert reading.reason is None
            assert 0 < len(reading.text) <= MAX_CHARACTERS
            assert len(reading.text.splitlines()) == 1
            assert "<<" not in reading.text
            assert clean(reading.text) == reading.text


@given(HOSTILE)
def test_nothing_before_the_last_line_matters(reply):
    safe = reply.replace("<think>", "")
    assert read_chat(f"{safe}\nEXPLANATION: words for boats").text == "words for boats"


def test_completion_takes_the_first_sentence():
    assert read_completion(" planets. The words").text == "planets"
    assert read_completion(" planets\nThe words").text == "planets"
    assert read_completion(" the U.S. Congress").text == "the U.S"  # known limit: an abbreviation ends it
    assert read_completion(" seas, lakes, riv", "length").text == "seas, lakes"
