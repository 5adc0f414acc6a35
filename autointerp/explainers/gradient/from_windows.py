"""From a latent's train windows to tokens: whole words in their text, with their activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autointerp.explainers.gradient.types import TokenItem
from autointerp.sampling.windows import LatentRecord, TokenTable, Window

_ACTIVE_SHARE = 0.3
"""A word counts as active if its activation is above this share of its window's largest."""


def token_items(
    record: LatentRecord, tokens: TokenTable, rng: np.random.Generator, *, most: int
) -> list[TokenItem]:
    """Words of a latent's windows: all active ones, and up to `most` silent ones of each stratum.

    Strata: words of activating windows on which it is silent, and words of each kind of silent
    window. Words between silence and a third of a window's largest activation are left out.
    """
    active: list[TokenItem] = []
    silent: dict[str, list[TokenItem]] = {}
    for window in record.windows:
        if window.kind == "unread":
            continue
        least = _ACTIVE_SHARE * window.max_activation
        text, words = words_of(window, tokens)
        for word, start, activation in words:
            item = TokenItem(token=word, activation=activation, text=text, start=start)
            if activation > 0 and activation >= least:
                active.append(item)
            elif activation == 0:
                silent.setdefault(window.kind, []).append(
                    TokenItem(token=word, activation=0.0, text=text, start=start)
                )
    out = active
    for kind in sorted(silent):
        stratum = silent[kind]
        picks = rng.permutation(len(stratum))[:most]
        out = out + [stratum[i] for i in sorted(picks)]
    return out


def words_of(window: Window, tokens: TokenTable) -> tuple[str, list[tuple[str, int, float]]]:
    """A window's text, and each of its words with the character it starts at and its largest activation.

    A word ends where white space, punctuation or a digit meets a letter; a run of punctuation is a
    word of its own. Special tokens are no words.
    """
    parts = tokens.texts(window.tokens)
    text = "".join(parts)
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    words: list[tuple[str, int, float]] = []
    begin = 0
    for i in range(1, len(text) + 1):
        if i < len(text) and _kind(text[i]) == _kind(text[i - 1]):
            continue
        word = text[begin:i]
        if word.strip():
            activation = float(window.activations[np.unique(owners[begin:i])].max())
            words.append((word, begin, activation))
        begin = i
    return text, words


def _kind(character: str) -> int:
    """Characters of one kind may stand in one word."""
    if character.isspace():
        return 0
    if character.isdecimal():
        return 1
    return 2 if character.isalpha() or character in "'’-" else 3


def same_words(
    items: Sequence[TokenItem], most: int, totals_of: Mapping[str, float] | None = None
) -> tuple[list[str], float, float] | None:
    """The few words, forms counted as one, that carry a feature: words, precision and recall by activation.

    Each word is shown in the form with the largest total in `totals_of` (`form_totals`), where that knows one, as
    the strongest windows begin sentences more often than others do; else in that of the largest summed activation.
    None if there is no active item. Precision is the share of the words' items that are active,
    recall their share of the summed activation.
    """
    from autointerp.explainers.words import stem

    totals: dict[str, float] = {}
    shown: dict[str, dict[str, float]] = {}
    for item in items:
        if item.activation > 0:
            root = stem(item.token)
            totals[root] = totals.get(root, 0.0) + item.activation
            forms = shown.setdefault(root, {})
            forms[item.token] = forms.get(item.token, 0.0) + item.activation
    if not totals:
        return None
    whole = sum(totals.values())
    ranked = sorted(totals, key=lambda root: -totals[root])
    roots = [root for root in ranked[:most] if totals[root] >= 0.1 * totals[ranked[0]]]
    matching = [item for item in items if stem(item.token) in roots]
    precision = sum(item.activation > 0 for item in matching) / len(matching)
    recall = sum(totals[root] for root in roots) / whole
    known = totals_of or {}
    words = [max(shown[root], key=lambda form: (known.get(form, 0.0), shown[root][form])) for root in roots]
    return words, precision, recall


def form_totals(record: LatentRecord, tokens: TokenTable) -> dict[str, float]:
    """Summed activation, in all train documents, of each of the latent's top tokens; as text without blanks around it."""
    totals: dict[str, float] = {}
    for row in record.statistics.get("top_tokens") or []:
        text = tokens.text([row["token"]]).strip()
        totals[text] = totals.get(text, 0.0) + float(row["total"])
    return totals
