"""The `likelihood` readout: what a causal model's log-probabilities say for an explanation.

No instruction has to be followed and nothing is generated, so a model far too small to answer a
question can judge. The evidence of a word w for an explanation E is a log-likelihood ratio, in
nats: w after a prefix that names E, against the same prefix with one of a few names that say
nothing in particular (N: "words", "people", "places"), each as likely as the others:

    e(w; E) = log p(w | "In this text there are E, such as")
              - log mean over N of p(w | "In this text there are N, such as")

Words are judged out of their context (a bag of words): a small model's left-to-right prediction
inside a window knows too little of the word to come, and separates far worse (`evidence =
"context"`; measured in `benchmarks/likelihood_readout.py`, as is the choice of N). Prefixes are
shared by all words, and those that name nothing by all explanations, so a backend that shares
prefixes pays little more than the words themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from autointerp.llm.types import Reply, Request
from autointerp.scorers.alignment import carry_over, edges, token_spans
from autointerp.scorers.asking import error_reason
from autointerp.scorers.prompting import load_prompt, one_line

EvidenceKind = Literal["words", "context"]

_WORD = re.compile(r"\w+|[^\w\s]")
_MAX_WORD_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of a window and the tokens they lie on."""

    words: tuple[str, ...]
    """In order, as they are written: runs of letters and digits, and single other characters."""
    of_token: tuple[tuple[int, ...], ...]
    """For each token, the indices of the words it shares characters with."""

    def under(self, marks: np.ndarray) -> list[int]:
        """Indices of the words that marked tokens lie on, [n_tokens] bool to list."""
        return sorted({w for words, mark in zip(self.of_token, marks, strict=True) if mark for w in words})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Evidence for one explanation at each unit (word or token) of a window, or why there is none."""

    values: np.ndarray | None = None
    """Nats, [n_units] float64; None unless `status` is `ok`."""
    requests: tuple[int, ...] = ()
    """Which request of the plan each unit's evidence comes from, [n_units]."""
    status: str = "ok"
    reason: str | None = None


_NOTHING = Evidence(status="error", reason="the window holds no words")


def words_of(texts: Sequence[str]) -> Words:
    """The words of a window given as one piece of text per token (`TokenTable.texts`)."""
    text, bounds = "".join(texts), edges(texts)
    spans = [(m.start(), min(m.end(), m.start() + _MAX_WORD_CHARACTERS)) for m in _WORD.finditer(text)]
    of_token: list[tuple[int, ...]] = []
    for start, end in pairwise(bounds):
        of_token.append(tuple(i for i, (a, b) in enumerate(spans) if a < end and b > start))
    return Words(words=tuple(text[a:b] for a, b in spans), of_token=tuple(of_token))


def prefixes(explanation: str, kind: EvidenceKind) -> tuple[str, list[str]]:
    """The prefix that names the explanation, and those that name nothing in particular."""
    prompt = load_prompt("likelihood")
    return (
        prompt.part(kind, {"explanation": one_line(explanation)}),
        [prompt.part(kind, {"explanation": name}) for name in prompt.part(f"{kind}_null").split("\n")],
    )


class EvidencePlan:
    """The requests for one explanation and some windows, and the evidence read from the replies.

    `kind` "words": the units are the distinct words of all windows; "context": each window's tokens.
    """

    def __init__(self, explanation: str, windows: Sequence[Sequence[str]], kind: EvidenceKind) -> None:
        """`windows` hold one piece of text per token (`TokenTable.texts`)."""
        self.kind = kind
        self.windows = windows
        self.words = [words_of(texts) for texts in windows]
        if kind == "words":
            self.asked = sorted({word for words in self.words for word in words.words})
        else:
            self.asked = ["".join(texts) for texts in windows]
        self.texts = [text for text in self.asked if text]
        named, unnamed = prefixes(explanation, kind)
        lead = " " if kind == "words" else ""
        self.requests = [
            Request(prompt=prefix, continuation=f"{lead}{text}")
            for prefix in (named, *unnamed)
            for text in self.texts
        ]

    def read(self, replies: Sequence[Reply]) -> list[Evidence]:
        """Evidence for each window, in order."""
        told = {text: replies[i :: len(self.texts)] for i, text in enumerate(self.texts)}
        if self.kind == "context":
            order = {text: i for i, text in enumerate(self.texts)}
            return [
                context_evidence(told[text], order[text], pieces) if text else _NOTHING
                for text, pieces in zip(self.asked, self.windows, strict=True)
            ]
        by_word = {word: _word_evidence(told[word], i) for i, word in enumerate(self.texts)}
        return [_gathered([by_word[word] for word in words.words]) for words in self.words]

    def units_under(self, index: int, marks: np.ndarray) -> list[int]:
        """The units of a window that marked tokens lie on; `marks` [n_tokens] bool."""
        if self.kind == "words":
            return self.words[index].under(marks)
        return [int(i) for i in np.flatnonzero(marks)]

    def on_tokens(self, index: int, values: np.ndarray) -> np.ndarray:
        """Evidence of a window's units laid on its tokens, [n_tokens]: a token gets that of its
        likeliest word, and 0 if it lies on none."""
        if self.kind == "context":
            return values
        return np.array(
            [max((values[i] for i in units), default=0.0) for units in self.words[index].of_token],
            dtype=np.float64,
        )


def _word_evidence(replies: Sequence[Reply], request: int) -> Evidence:
    """Evidence of one word, [1], from the reply with the explanation and those without."""
    for reply in replies:
        if not reply.ok:
            return Evidence(status="error", reason=error_reason(reply))
        if not reply.tokens or any(token.logprob is None for token in reply.tokens):
            return Evidence(status="unparsed", reason="the reply has no log-probabilities")
    named, *unnamed = (reply.logprob for reply in replies)
    nothing = float(np.logaddexp.reduce(unnamed)) - math.log(len(unnamed))
    return Evidence(values=np.array([named - nothing]), requests=(request,))


def _gathered(parts: Sequence[Evidence]) -> Evidence:
    """Evidence of a window from that of its words; a failure if any word has none."""
    if not parts:
        return _NOTHING
    for part in parts:
        if part.values is None:
            return part
    values = np.concatenate([part.values for part in parts if part.values is not None])
    return Evidence(values=values, requests=tuple(i for part in parts for i in part.requests))


def context_evidence(replies: Sequence[Reply], request: int, texts: Sequence[str]) -> Evidence:
    """Evidence at each token of a window, each given what stands to its left, [n_tokens].

    log p(token | prefix with the explanation, left context) - log p(token | prefix without,
    left context), carried from the judge's tokens to those of the window by shared characters.
    """
    text, bounds = "".join(texts), edges(texts)
    totals = []
    for reply in replies:
        if not reply.ok:
            return Evidence(status="error", reason=error_reason(reply))
        spans = token_spans(reply.tokens, text)
        if not reply.tokens or spans is None or any(t.logprob is None for t in reply.tokens):
            return Evidence(status="unparsed", reason="the reply's tokens do not spell the window")
        totals.append(carry_over([t.logprob or 0.0 for t in reply.tokens], spans, bounds))
    named, unnamed = totals
    return Evidence(values=named - unnamed, requests=(request,) * len(texts))


def evidence_prompts() -> dict[str, str]:
    """Prompt texts of this readout by name."""
    return {"likelihood": load_prompt("likelihood").source}
