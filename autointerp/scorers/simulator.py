"""OpenAI's all-at-once simulator: its prompt, and activations read from prompt log-probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from autointerp.llm.types import LanguageModel, TokenLogprob
from autointerp.sampling.windows import TokenTable
from autointerp.scorers.alignment import token_spans
from autointerp.scorers.prompting import load_prompt, one_line

SLOT = "unknown"
"""What stands where a number is to be foretold."""

_ESCAPES = {ord("\t"): "\\t", **{ord(c): f"\\x{ord(c):02x}" for c in "\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"}}
_ESCAPES[ord("\n")] = "\\n"


def activation_scale(model: LanguageModel) -> int:
    """10 if the judge's tokenizer holds "10" as one token (as it holds "9"), else or if unknown 9.

    Where "10" is split, the alternative "1" carries the probability of both 1 and 10.
    """
    ten, nine = model.count_tokens("10"), model.count_tokens("9")
    return 10 if ten is not None and ten == nine else 9


def expected_value(top: Mapping[str, float], scale: int) -> float | None:
    """Expected activation at one slot: sum(v p(v)) / sum(p(v)) over alternatives that are a number.

    Keys are compared exactly, without stripping. None if no alternative is a number from 0 to `scale`.
    """
    found = [(v, top[str(v)]) for v in range(scale + 1) if str(v) in top]
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
    for token, piece in zip(tokens, table.texts(tokens), strict=True):
        line = (piece or table.readable(int(token))).translate(_ESCAPES)
        offsets.append(length + len(line) + 1)
        lines.append(f"{line}\t{SLOT}")
        length += len(lines[-1]) + 1
    return text + "\n".join(lines) + after, offsets


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
