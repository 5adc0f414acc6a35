"""A tiny world with a known truth, and judges that know it, guess, fail or babble."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from autointerp.llm.types import Capability, ErrorKind, Reply, Request, TokenLogprob, Usage
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.base import Item, JudgeContext

CONCEPT = ("cat", "dog", "horse")
FILLER = ("the", "of", "red", "house", "and", "went", "slowly", "table", "river", "blue", "one", "stone")
HOSTILE = ("<<", ">>", '{"1": 1}', "\n", '"', "Reply", "</think>", "{texts}", "\t", "unknown")
WORDS = (*CONCEPT, *FILLER, *HOSTILE)
PIECES = [None, *(f" {word}".encode() for word in WORDS)]
TABLE = TokenTable(PIECES, ["<bos>", *(f" {word}" for word in WORDS)])
EXPLANATION = "animals"


def token(word: str) -> int:
    return 1 + WORDS.index(word)


def window(
    example: int, words: Sequence[str], kind: str, activations: Sequence[float], decile: int | None = None
) -> Window:
    return Window(
        example=example,
        split="test",
        kind=kind,
        decile=decile,
        context=example,
        start=0,
        tokens=np.array([token(w) for w in words], dtype=np.int32),
        activations=np.array(activations, dtype=np.float32),
    )


def record(latent: int = 3, n: int = 20, hostile: bool = False, n_tokens: int = 12) -> LatentRecord:
    """`n` windows with one to three concept words each, active on them alone, and `n` without."""
    rng = np.random.default_rng(latent)
    others = FILLER + HOSTILE if hostile else FILLER
    windows = []
    for i in range(2 * n):
        words = [others[k] for k in rng.integers(len(others), size=n_tokens)]
        activations = np.zeros(n_tokens)
        if i < n:
            for place in rng.choice(
                np.arange(n_tokens // 2, n_tokens), size=rng.integers(1, 4), replace=False
            ):
                words[place] = CONCEPT[rng.integers(3)]
                activations[place] = rng.uniform(0.5, 1.0) * (i + 1)
        kind = "activating" if i < n else ("random" if i % 2 else "similar")
        windows.append(window(i, words, kind, activations, 1 + 10 * i // n if i < n else None))
    return LatentRecord(latent=latent, statistics={}, windows=tuple(windows))


def item(latent: int = 3, text: str = EXPLANATION, **options: object) -> Item:
    return Item(explanation=f"test/{latent}", text=text, record=record(latent, **options))  # type: ignore[arg-type]


Answer = Callable[[Request], Reply]


@dataclass
class Judge:
    """A language model that answers by a function; equal requests are answered equally."""

    answer: Answer
    identity: str = "fake"
    capabilities: frozenset[Capability] = frozenset(Capability)
    splits_ten: bool = False
    requests: list[Request] = field(default_factory=list)

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests.extend(requests)
        return [self.answer(request) for request in requests]

    def count_tokens(self, text: str) -> int | None:
        return 2 if self.splits_ten and text == "10" else 1


def context(judge: Judge, seed: int = 0) -> JudgeContext:
    return JudgeContext(model=judge, tokens=TABLE, seed=seed)


USAGE = Usage(prompt_tokens=10, completion_tokens=2, cost_usd=0.5, seconds=1.0)


def texts_of(request: Request) -> list[str]:
    """The texts a `json` or `logprob` request asks about, as a careful reader finds them."""
    assert request.messages is not None
    query = request.messages[-1].content
    lines = re.findall(r"^(?:\d+|Text): (.*)$", query, flags=re.MULTILINE)
    return [json.loads(line) for line in lines]


def fits(text: str) -> bool:
    """The truth: everything marked is of the concept, or, without marks, a concept word is there."""
    marked = re.findall(r"<<(.*?)>>", text)
    if marked:
        return all(word in CONCEPT for piece in marked for word in piece.split())
    return any(word in CONCEPT for word in text.split())


def answering(truth: Callable[[str], bool]) -> Answer:
    """Answers every form of request for yes or no by a function of the text."""

    def answer(request: Request) -> Reply:
        answers = [truth(text) for text in texts_of(request)]
        if request.top_logprobs:
            yes, no = (-0.1, -3.0) if answers[0] else (-3.0, -0.1)
            top = {"Yes": yes, "No": no, " maybe": -9.0}
            word = "Yes" if answers[0] else "No"
            return Reply(text=word, tokens=(TokenLogprob(text=word, logprob=-0.1, top=top),), usage=USAGE)
        return Reply(text=json.dumps({str(i): int(a) for i, a in enumerate(answers, 1)}), usage=USAGE)

    return answer


perfect = answering(fits)


def coin(request: Request) -> Reply:
    """Guesses, by the text alone."""
    return answering(lambda text: sum(text.encode()) % 2 == 0)(request)


def failing_every(n: int, otherwise: Answer) -> Answer:
    """Every n-th request (by its hash) times out."""

    def answer(request: Request) -> Reply:
        if int(request.key("fake")[:8], 16) % n == 0:
            return Reply(error=ErrorKind.TIMEOUT, error_message="took too long")
        return otherwise(request)

    return answer


def likelihoods(request: Request) -> Reply:
    """Finds words of the concept likelier after a prompt that names the explanation."""
    assert request.prompt is not None
    assert request.continuation is not None
    named = EXPLANATION in request.prompt
    pieces = re.findall(r"\s*\S+|\s+", request.continuation)
    tokens = tuple(
        TokenLogprob(text=piece, logprob=-2.0 if named and piece.strip() in CONCEPT else -8.0)
        for piece in pieces
    )
    return Reply(tokens=tokens, usage=USAGE)


def simulator(scale: int = 10, digits: bool = True) -> Answer:
    """Predicts the scale on words of the concept and 0 elsewhere, token by token of the prompt."""

    def answer(request: Request) -> Reply:
        assert request.prompt is not None
        tokens, word = [], ""
        for piece in re.findall(r"\t|\n|unknown|[^\t\n]+?(?=\t|\n|$|unknown)|.", request.prompt):
            top: dict[str, float] = {}
            if piece == "unknown" and digits:
                value = scale if word.strip() in CONCEPT else 0
                top = {str(value): math.log(0.7), str(1 if value == 0 else 0): math.log(0.1), "unknown": -2.0}
            tokens.append(TokenLogprob(text=piece, logprob=-1.0, top=top))
            word = piece if piece != "\t" else word
        first = TokenLogprob(text="<bos>", logprob=None)
        return Reply(tokens=(first, *tokens), usage=USAGE)

    return answer
