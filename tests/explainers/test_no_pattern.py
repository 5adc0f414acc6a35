"""Replies that say there is no pattern, and explanations that only look like them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.explainers.no_pattern import sees_no_pattern
from autointerp.explainers.replies import NO_PATTERN, read_chat, read_completion

DENIALS = """\
The excerpts have nothing in common
None of the excerpts have anything in common.
none
N/A
no common pattern
No clear pattern.
There is no clear pattern in the marked words
I can't identify a common pattern among the marked words.
I cannot identify any pattern
I’m unable to determine what the marked words have in common
The marked words do not share a common theme.
The words don't have anything in common
words that have nothing in common
nothing in common
no common theme or meaning
There is no common theme between the excerpts.
unclear
It is unclear what the words have in common
The excerpts do not have a clear pattern.
Not enough information to determine a pattern
Unable to find a common theme
none of the above excerpts share a common theme
None. The marked words do not share a pattern.
No pattern found
the marked words have no common meaning or form
The tokens are unrelated to each other
The excerpts are about different topics and have nothing in common
no single concept
I see no pattern
Sorry, I could not find a pattern.
nothing sets the marked words apart
The marked words have no clear connection to each other
The pattern cannot be determined from the excerpts
none (no common pattern)
The excerpts share no common pattern
a lack of a common theme
There does not seem to be a common pattern"""
EXPLANATIONS = """\
people who have nothing in common
the phrase "nothing in common"
"nothing in common" and similar phrases
statements that two things have nothing in common
the word "none"
words meaning nothing
none, nobody and other negative pronouns
words with no meaning
no connection between two events
claims that something cannot be determined
phrases saying that there is not enough information
words that describe patterns
common words that share a theme
words with a negative meaning
unknown persons
the words "unclear" and "unknown"
uncertainty, as in "it is unclear"
patterns in nature
words that share a common theme
the word "pattern"
words that do not change in the plural
no clear winner in a contest
things that cannot be found
the word "common" in the context of shared features
not
similar words in different contexts
words that can be found in different contexts"""


@pytest.mark.parametrize("text", DENIALS.splitlines())
def test_a_reply_that_only_says_so(text):
    for reading in (read_chat(f"EXPLANATION: {text}"), read_chat(text), read_completion(f" {text}")):
        assert (reading.text, reading.status, reading.reason) == (None, "undetermined", NO_PATTERN)


@pytest.mark.parametrize("text", EXPLANATIONS.splitlines())
def test_an_explanation_is_kept(text):
    assert not sees_no_pattern(text)
    assert read_chat(f"EXPLANATION: {text}").status == "ok"


@pytest.mark.parametrize("text", DENIALS.splitlines())
def test_one_word_of_content_makes_it_an_explanation(text):
    assert not sees_no_pattern(f"{text} boats")


def test_what_is_said_before_the_line_does_not_count():
    reply = "I can't identify a common pattern in all of them.\nEXPLANATION: words for boats"
    assert read_chat(reply).text == "words for boats"


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["no", "not", "a", "the", "any", "common", "nothing"])).map(" ".join)
)
def test_any_text_is_decided_quickly(text):
    begun = time.perf_counter()
    assert sees_no_pattern(text) in (True, False)
    assert time.perf_counter() - begun < 1.0
