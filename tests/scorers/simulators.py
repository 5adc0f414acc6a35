"""Judges that know the tiny world of `fakes`, for the readouts of simulation that generate."""

from __future__ import annotations

import json
import math
import re

from autointerp.llm.types import Reply, Request, TokenLogprob
from tests.scorers import fakes


def query(request: Request) -> str:
    """What a request asks: its last chat message, or the last block of its prompt."""
    if request.messages is not None:
        return request.messages[-1].content
    assert request.prompt is not None
    return request.prompt.rsplit("\n\n", 1)[1]


def by_token(scale: int = 10, space: str = "") -> fakes.Answer:
    """Gives the scale probability 0.7 on words of the concept, else 0; `space` stands before each number."""

    def answer(request: Request) -> Reply:
        (last,) = re.findall(r"^Last token: (.*)$", query(request), flags=re.MULTILINE)
        value = scale if json.loads(last).strip() in fakes.CONCEPT else 0
        top = {f"{space}{value}": math.log(0.7), f"{space}{1 if value == 0 else 0}": math.log(0.1), "a": -2.0}
        return Reply(
            text=str(value), tokens=(TokenLogprob(text=f"{space}{value}", logprob=math.log(0.7), top=top),)
        )

    return answer


def asked_tokens(request: Request) -> list[str]:
    """The numbered tokens of a `json` request."""
    lines = re.findall(r"^(\d+): (.*)$", query(request), flags=re.MULTILINE)
    assert [int(i) for i, _ in lines] == list(range(1, len(lines) + 1))
    return [json.loads(token) for _, token in lines]


def by_json(request: Request) -> Reply:
    """Writes 10 on words of the concept and 0 elsewhere."""
    values = [10 if token.strip() in fakes.CONCEPT else 0 for token in asked_tokens(request)]
    return Reply(text=json.dumps(dict(enumerate(values, 1))))


def saying(text: str) -> fakes.Answer:
    """Always gives one text."""
    return lambda request: Reply(text=text)
