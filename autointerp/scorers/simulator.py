"""The simulators' prompts, and simulated activations read from log-probabilities of numbers.

Two of OpenAI's simulators (`neuron_explainer/explanations/simulator.py` of automated-interpretability):
all at once, where every slot of one prompt is read (`simulation_prompt`, `slot_values`), and token
by token, where a number is generated (`token_request`, `generated_value`). The words are our own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from autointerp.errors import UserError
from autointerp.llm.types import LanguageModel, Message, Request, TokenLogprob
from autointerp.sampling.windows import TokenTable
from autointerp.scorers.alignment import token_spans
from autointerp.scorers.prompting import fill, load_prompt, one_line, quoted

SLOT = "unknown"
"""What stands where a number is to be foretold."""

Style = Literal["chat", "completion"]

_ESCAPES = {ord("\t"): "\\t", **{ord(c): f"\\x{ord(c):02x}" for c in "\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"}}
_ESCAPES[ord("\n")] = "\\n"


def activation_scale(model: LanguageModel, wanted: Literal["auto", 9, 10] = "auto") -> int:
    """The largest number the judge may say: 10 if its tokenizer holds "10" as one token, else 9.

    Where "10" is split, the alternative "1" carries the probability of both 1 and 10. Unless it is
    `wanted`, 9 also where the tokenizer is not known. Raises `UserError` for 10 with a tokenizer
    that splits it.
    """
    ten, nine = model.count_tokens("10"), model.count_tokens("9")
    if wanted == 10 and ten != nine:
        raise UserError('scale = 10: the judge\'s tokenizer splits "10"; accepted: "auto" or 9')
    if wanted != "auto":
        return wanted
    return 10 if ten is not None and ten == nine else 9


def expected_value(top: Mapping[str, float], scale: int, strip: bool = False) -> float | None:
    """Expected activation at one slot: sum(v p(v)) / sum(p(v)) over alternatives that are a number.

    Keys are compared exactly, as in the published rule, or (`strip`) without the white space around
    them. None if no alternative is a number from 0 to `scale`.
    """
    numbers = {str(v): v for v in range(scale + 1)}
    found = [
        (numbers[key], logprob)
        for text, logprob in top.items()
        if (key := text.strip() if strip else text) in numbers and math.isfinite(logprob)
    ]
    if not found:
        return None
    highest = max(logprob for _, logprob in found)
    weights = [(v, math.exp(logprob - highest)) for v, logprob in found]
    return sum(v * p for v, p in weights) / sum(p for _, p in weights)


def simulation_prompt(
    explanation: str, tokens: np.ndarray, table: TokenTable, scale: int
) -> tuple[str, list[int]]:
    """The prompt for one window and the character offset of each token's slot, [n_tokens].

    Tokens are shown on one line each: line breaks and tabs inside them are written `\\n` and `\\t`,
    and special tokens or parts of a split character by their readable names.
    """
    prompt = load_prompt("simulation")
    blocks = [prompt.part("head", {"scale": str(scale)})]
    for name, text in prompt.parts:
        if name == "example":
            blocks.append(re.sub(r"\t10$", f"\t{scale}", text, flags=re.MULTILINE))
    before, _, after = prompt.part("query").partition("{slots}")
    text = "\n".join([*blocks, before.replace("{explanation}", one_line(explanation))])
    offsets = []
    lines = []
    length = len(text)
    for piece in shown_tokens(tokens, table):
        line = piece.translate(_ESCAPES)
        offsets.append(length + len(line) + 1)
        lines.append(f"{line}\t{SLOT}")
        length += len(lines[-1]) + 1
    return text + "\n".join(lines) + after, offsets


def shown_tokens(tokens: np.ndarray, table: TokenTable) -> list[str]:
    """Each token's text, or its readable name where it has none of its own."""
    return [piece or table.readable(int(t)) for t, piece in zip(tokens, table.texts(tokens), strict=True)]


def slot_values(
    tokens: Sequence[TokenLogprob], prompt: str, offsets: Sequence[int], scale: int
) -> list[float | None] | None:
    """Expected value at each slot; None at a slot without number, or for a prompt that does not fit.

    A slot is read at the token that begins exactly where the word "unknown" does.
    """
    spans = token_spans(tokens, prompt)
    if spans is None:
        return None
    starts = {start: i for i, (start, end) in enumerate(spans) if end > start}
    return [
        None if (at := starts.get(offset)) is None else expected_value(tokens[at].top, scale)
        for offset in offsets
    ]


def token_requests(
    explanation: str, tokens: np.ndarray, table: TokenTable, scale: int, n_alternatives: int, style: Style
) -> list[Request]:
    """One request per token of a window, which shows the window up to that token.

    Style `completion` is the chat's text in one piece, ending where the number begins.
    """
    shown, pieces = shown_tokens(tokens, table), table.texts(tokens)
    before, text = few_shot(scale), ""
    requests = []
    for token, piece in zip(shown, pieces, strict=True):
        text += piece
        values = {"explanation": one_line(explanation), "text": quoted(text), "token": quoted(token)}
        query = Message(role="user", content=load_prompt("simulation_token").part("query", values))
        chat = (*before, query)
        requests.append(
            Request(
                messages=chat if style == "chat" else None,
                prompt=None if style == "chat" else as_text(chat),
                max_tokens=1,
                top_logprobs=n_alternatives,
            )
        )
    return requests


def few_shot(scale: int) -> tuple[Message, ...]:
    """What the token-by-token prompt begins with, the same for all tokens and explanations."""
    parts: list[Message] = []
    for name, text in load_prompt("simulation_token").parts:
        if name == "assistant":
            parts.append(Message(role="assistant", content=str(min(int(text), scale))))
        elif name == "user":
            parts.append(Message(role="user", content=text))
        elif name == "system":
            parts.append(Message(role="system", content=fill(text, {"scale": str(scale)})))
    return tuple(parts)


def as_text(chat: Sequence[Message]) -> str:
    """Chat messages as text to be continued: an answer on the line below its question."""
    return "".join(m.content + ("\n" if m.role == "user" else "\n\n") for m in chat)


def generated_value(tokens: Sequence[TokenLogprob], scale: int, style: Style) -> float | None:
    """Expected value at the first generated token; None if no alternative there is a number.

    In a chat, where a space may come before the number, spellings with white space count too.
    """
    if not tokens:
        return None
    top = dict(tokens[0].top)
    if tokens[0].logprob is not None:
        top.setdefault(tokens[0].text, tokens[0].logprob)
    return expected_value(top, scale, strip=style == "chat")
