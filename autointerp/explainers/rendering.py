"""Which train windows a language model is shown, and how they look in a prompt."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autointerp.explainers.words import printable, stem
from autointerp.sampling.windows import LatentRecord, TokenTable, Window, defuse

LEAST = 0.1
"""Words that carry less than this share of what the first one does are not listed."""
_LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}


def choose_windows(record: LatentRecord, n: int, rng: np.random.Generator) -> list[Window]:
    """At most `n` of the latent's activating windows, evenly over its deciles, strongest first.

    The deciles take turns, from the strongest down, and give a window drawn at random each, until
    there are enough: every decile is shown as long as it has windows.
    """
    by_decile: dict[int, list[Window]] = {}
    for window in record.activating:
        by_decile.setdefault(window.decile or 0, []).append(window)
    turns = []
    for decile in sorted(by_decile, reverse=True):
        windows = by_decile[decile]
        turns += [(turn, -decile, windows[int(i)]) for turn, i in enumerate(rng.permutation(len(windows)))]
    turns.sort(key=lambda t: t[:2])
    chosen = [window for _, _, window in turns[:n]]
    return sorted(chosen, key=lambda w: (-w.max_activation, w.example))


def active_marks(window: Window, threshold: float) -> np.ndarray:
    """Tokens active above `threshold` times the window's largest activation, [n_tokens] bool."""
    peak = window.max_activation
    return window.activations > threshold * peak if peak > 0 else np.zeros(len(window.tokens), dtype=bool)


def level(activation: float, largest: float) -> int:
    """An activation as a whole number from 1 to 10, 10 being the latent's largest; rounded up."""
    return max(1, min(10, math.ceil(10 * activation / largest))) if largest > 0 else 1


def show_windows(
    windows: Sequence[Window],
    table: TokenTable,
    *,
    threshold: float,
    largest: float | None,
    name: str = "Excerpt",
) -> str:
    """The windows as numbered lines `NAME i: ...`, each a JSON string with `<<` `>>` around the active tokens.

    With `largest` (the latent's largest activation) a second line lists each marked token with its
    activation from 1 to 10. JSON strings keep corpus text inside its line and its quotes.
    """
    lines = []
    for number, window in enumerate(windows, start=1):
        marks = active_marks(window, threshold)
        lines.append(f"{name} {number}: {quoted(table.marked(window.tokens, marks))}")
        if largest is not None:
            texts = table.texts(window.tokens)
            levels = [
                f"{quoted(text.strip())} {level(float(value), largest)}"
                for text, value, mark in zip(texts, window.activations, marks, strict=True)
                if mark and text.strip()
            ]
            lines.append(f"Activations: {', '.join(levels)}")
    return "\n".join(lines)


def quoted(text: str) -> str:
    """Corpus text as a JSON string without any character that ends a line."""
    return json.dumps(text, ensure_ascii=False).translate(_LINE_ENDS)


def quoted_list(texts: Sequence[str]) -> str:
    """Pieces of corpus text as a JSON list on one line, our marks broken up."""
    return f"[{', '.join(quoted(defuse(text)) for text in texts)}]"


def spelled_tokens(window: Window, table: TokenTable) -> list[tuple[str, float]]:
    """The window's tokens that can be shown, as (text, activation), in order.

    Tokens that hold one character together are one, with the largest of their activations; special
    tokens are left out. The texts together are the text of the window.
    """
    out: list[tuple[str, float]] = []
    pending = 0.0
    for token, text, activation in zip(
        window.tokens, table.texts(window.tokens), window.activations, strict=True
    ):
        if not table.names_special(int(token)):
            pending = max(pending, float(activation))
        if text:
            out.append((text, pending))
            pending = 0.0
    return out


def output_tokens(rows: Sequence[Mapping[str, Any]] | None, table: TokenTable, n: int) -> list[str]:
    """The first `n` tokens of a list of output logits that are readable text, each text once.

    `rows` as in `top_logits` of `latents`; None gives an empty list.
    """
    texts = (table.text([row["token"]]) for row in rows or ())
    shown = (text for text in texts if printable(text.strip()) or text.isspace())
    return list(dict.fromkeys(shown))[:n]


def marked_words(
    windows: Sequence[Window], table: TokenTable, *, threshold: float, n: int
) -> list[tuple[str, float]]:
    """The words that carry the marked tokens, with the share of the windows' peaks they account for.

    A token inside a word stands for the whole word, as far as the window shows it. Words that differ
    in case or a common ending count as one; left out are those without a letter or digit and those
    with less than `LEAST` of the first one's share. Largest share first.
    """
    weight: dict[str, float] = {}
    spelling: dict[str, Counter[str]] = {}
    for window in windows:
        texts = table.texts(window.tokens)
        best: dict[str, float] = {}
        for i in np.flatnonzero(active_marks(window, threshold)):
            word = _word_at(texts, int(i))
            key = stem(word)
            if any(c.isalnum() for c in word):
                best[key] = max(best.get(key, 0.0), float(window.activations[i]))
                spelling.setdefault(key, Counter())[word] += 1
        for key, value in best.items():
            weight[key] = weight.get(key, 0.0) + value
    total = sum(w.max_activation for w in windows) or 1.0
    least = LEAST * max(weight.values(), default=0.0)
    ranked = sorted((key for key in weight if weight[key] >= least), key=lambda key: (-weight[key], key))[:n]
    return [(max(spelling[k], key=lambda s: (spelling[k][s], s)), weight[k] / total) for k in ranked]


def _word_at(texts: Sequence[str], index: int) -> str:
    """The run of letters, digits, hyphens and apostrophes around token `index`."""
    text = texts[index].strip()
    if not text or not all(_in_word(c) for c in text):
        return "".join(c if _in_word(c) else " " for c in text).strip()
    first = last = index
    while first > 0 and _joined(texts[first - 1], texts[first]):
        first -= 1
    while last + 1 < len(texts) and _joined(texts[last], texts[last + 1]):
        last += 1
    run = "".join(texts[first : last + 1])
    start = len("".join(texts[first:index])) + len(texts[index]) - len(texts[index].lstrip())
    left = start
    while left > 0 and _in_word(run[left - 1]):
        left -= 1
    right = start
    while right < len(run) and _in_word(run[right]):
        right += 1
    return run[left:right].strip("-'’")


def _joined(before: str, after: str) -> bool:
    return bool(before and after) and _in_word(before[-1]) and _in_word(after[0])


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "-'’"
