"""Windows as a page shows them: text in shaded pieces, and what the judges said of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.report import numbers
from autointerp.report.selection import spread_over_deciles
from autointerp.run import printable
from autointerp.sampling.windows import TokenTable, Window

N_LEVELS = 10
"""Shades of activation."""
CONTROL_ENDING = ".shuffled"
"""Ends the name of a control in the id of its explanation."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of window text: silent (level 0) or one active token, with its activation in words."""

    text: str
    level: int
    value: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one judge said of one item."""

    kind: str
    """`right`, `wrong`, `bad` (no readable reply) or `done` (nothing was to be decided)."""
    word: str
    tip: str
    """Probability, evidence and the request's hash; the reason if there is no readable reply."""
    said: str = ""
    """Probability and evidence alone."""
    request: str | None = None
    """Hash of the request it was read from."""

    @property
    def mistaken(self) -> bool:
        """Whether it is wrong, or could not be read."""
        return self.kind in ("wrong", "bad")


@dataclass(frozen=True, kw_only=True)
class ShownWindow:
    """A window as pieces, and the judges' decisions on it in the order of `Judged.judges`."""

    split: str
    kind: str
    decile: int | None
    peak: str
    pieces: list[Piece]
    decisions: list[list[Decision]]

    @property
    def mistaken(self) -> bool:
        """Whether a judge was wrong about it, or could not be read."""
        return any(d.mistaken for some in self.decisions for d in some)

    @property
    def asked(self) -> bool:
        """Whether a model was asked about it."""
        return any(d.request for some in self.decisions for d in some)


@dataclass(frozen=True, kw_only=True)
class OtherItem:
    """A judged item that is no window of the latent, as a text an intervention made."""

    judge: str
    item: int
    kind: str
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Every judged item of a latent's real explanations."""

    judges: list[tuple[str, str]]
    """(scorer, explanation it judged; empty if none was needed)."""
    windows: list[ShownWindow]
    others: list[OtherItem]

    def requests(self) -> list[tuple[bool, str | None]]:
        """(mistaken, hash of the request) of every decision, in the order of the page."""
        shown = [d for w in self.windows for some in w.decisions for d in some]
        return [(d.mistaken, d.request) for d in [*shown, *(o.decision for o in self.others)]]

    @property
    def scorers(self) -> list[tuple[str, int]]:
        """Each scorer and how many of the judges are its."""
        return list(Counter(scorer for scorer, _ in self.judges).items())


@dataclass(frozen=True, kw_only=True)
class DecileGroup:
    """Windows of one activation decile, or those without one."""

    decile: int | None
    windows: list[ShownWindow]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one simulator expected of a window."""

    who: str
    pieces: list[Piece]
    request: str | None


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """One window's true activations and, under each explanation's name, those a simulator expected."""

    kind: str
    true: list[Piece]
    expected: list[Expected]


def pieces_of(window: Window, tokens: TokenTable, peak: float) -> list[Piece]:
    """A window's text in runs; each active token is a run of its own with a level from 1 to 10.

    The space before an active word stays outside its run.
    """
    out: list[Piece] = []
    for text, activation in zip(tokens.texts(window.tokens), window.activations.tolist(), strict=True):
        text = text if text.isprintable() else printable(text)
        active = activation is not None and activation > 0
        if active and text.startswith(" ") and text.strip():
            text = text[1:]
            _add_silent(out, " ")
        if not text:
            continue
        if active:
            shade = max(1, min(N_LEVELS, math.ceil(N_LEVELS * activation / peak))) if peak > 0 else 1
            out.append(Piece(text=text, level=shade, value=numbers.measure(activation)))
        else:
            _add_silent(out, text)
    return out


class Shader:
    """A latent's windows as pieces, each made once; `peak` is its largest activation."""

    def __init__(self, tokens: TokenTable, peak: float) -> None:
        self.tokens = tokens
        self.peak = peak
        self._made: dict[int, list[Piece]] = {}

    def __call__(self, window: Window) -> list[Piece]:
        """A window's pieces, by `pieces_of`."""
        if window.example not in self._made:
            self._made[window.example] = pieces_of(window, self.tokens, self.peak)
        return self._made[window.example]


def _add_silent(pieces: list[Piece], text: str) -> None:
    if pieces and pieces[-1].level == 0:
        pieces[-1] = Piece(text=pieces[-1].text + text, level=0, value="")
    else:
        pieces.append(Piece(text=text, level=0, value=""))


def _shown(
    window: Window, shade: Shader, decisions: list[list[Decision]], kind: str | None = None
) -> ShownWindow:
    return ShownWindow(
        split=window.split,
        kind=kind or window.kind,
        decile=window.decile,
        peak=numbers.measure(window.max_activation) if window.activating else numbers.DASH,
        pieces=shade(window),
        decisions=decisions,
    )


def by_decile(windows: Sequence[Window], shade: Shader, n: int) -> list[DecileGroup]:
    """At most `n` activating windows, spread over the deciles, the strongest decile first."""
    shown = spread_over_deciles([w for w in windows if w.activating], n)
    deciles = sorted({w.decile or 0 for w in shown}, reverse=True)
    return [
        DecileGroup(
            decile=decile or None,
            windows=[_shown(w, shade, []) for w in shown if (w.decile or 0) == decile],
        )
        for decile in deciles
    ]


def judged_windows(
    rows: Sequence[Mapping[str, Any]],
    windows: Sequence[Window],
    shade: Shader,
    scorers: Sequence[str],
) -> Judged:
    """Rows of `judgements` of one latent, controls left out, laid out by window and judge.

    A scorer whose items are not the windows themselves has its rows in `others`; simulated
    activations are left to `simulated_windows`.
    """
    kinds = {w.example: w.kind for w in windows}
    real = [row for row in rows if not _explainer_of(row["explanation"]).endswith(CONTROL_ENDING)]
    real = [row for row in real if row["predicted_activations"] is None]
    elsewhere = {row["scorer"] for row in real if not _is_window(row["kind"], kinds.get(row["example"]))}
    keys = sorted({_judge_key(row, scorers) for row in real if row["scorer"] not in elsewhere})
    place = {key: i for i, key in enumerate(keys)}
    items: dict[tuple[int, str], list[list[Decision]]] = {}
    for row in real:
        if row["scorer"] not in elsewhere:
            cells = items.setdefault((row["example"], row["kind"]), [[] for _ in keys])
            cells[place[_judge_key(row, scorers)]].append(_decision(row))
    found = {w.example: w for w in windows}
    order = sorted(items, key=lambda item: _window_order(found[item[0]], item[1]))
    return Judged(
        judges=[(scorer, _short(explanation)) for _, scorer, explanation in keys],
        windows=[_shown(found[e], shade, items[(e, kind)], kind) for e, kind in order],
        others=[
            OtherItem(
                judge=_judge_name(row["scorer"], row["explanation"]),
                item=row["example"],
                kind=row["kind"],
                decision=_decision(row),
            )
            for row in real
            if row["scorer"] in elsewhere
        ],
    )


def _is_window(judged: str, kind: str | None) -> bool:
    """Whether an item judged as one kind can be the window of that number, of another kind."""
    if kind is None or judged == "decoy":
        return False
    return judged == "mismarked" or (judged == "activating") == (kind == "activating")


def simulated_windows(
    rows: Sequence[Mapping[str, Any]],
    windows: Sequence[Window],
    shade: Shader,
    scorers: Sequence[str],
    n: int,
) -> list[Simulated]:
    """At most `n` windows whose activations were simulated, half of them activating.

    Simulated activations have a scale of the judge's own: they are shaded by the largest of each explanation.
    """
    real = [
        row
        for row in rows
        if row["predicted_activations"] is not None
        and not _explainer_of(row["explanation"]).endswith(CONTROL_ENDING)
    ]
    keys = sorted({_judge_key(row, scorers) for row in real})
    expected: dict[tuple[int, tuple[int, str, str]], np.ndarray] = {
        (row["example"], _judge_key(row, scorers)): np.array(row["predicted_activations"], dtype=np.float32)
        for row in real
    }
    requests = {(row["example"], _judge_key(row, scorers)): row["request"] for row in real}
    largest = {
        key: max((float(np.nanmax(v, initial=0.0)) for (_, k), v in expected.items() if k == key))
        for key in keys
    }
    asked = {example for example, _ in expected}
    mine = [w for w in windows if w.example in asked]
    shown = spread_over_deciles([w for w in mine if w.activating], (n + 1) // 2)
    shown += sorted((w for w in mine if not w.activating), key=lambda w: w.example)[: n // 2]
    return [
        Simulated(
            kind=_kind_in_words(w.kind, w.decile),
            true=shade(w),
            expected=[
                Expected(
                    who=_judge_name(key[1], key[2]),
                    pieces=pieces_of(
                        replace(w, activations=np.nan_to_num(expected[(w.example, key)])),
                        shade.tokens,
                        largest[key],
                    ),
                    request=requests[(w.example, key)],
                )
                for key in keys
                if len(expected.get((w.example, key), ())) == len(w.tokens)
            ],
        )
        for w in shown
    ]


def _kind_in_words(kind: str, decile: int | None) -> str:
    return kind if decile is None else f"{kind}, decile {decile}"


def _window_order(window: Window, kind: str) -> tuple[bool, str, float, int]:
    """Activating windows first, strongest first; then the other kinds, each together."""
    silent = kind != "activating"
    return (silent, kind if silent else "", -window.max_activation, window.example)


def _explainer_of(explanation: str) -> str:
    return explanation.rsplit("/", 1)[0]


def _judge_key(row: Mapping[str, Any], scorers: Sequence[str]) -> tuple[int, str, str]:
    scorer = row["scorer"]
    return (scorers.index(scorer) if scorer in scorers else len(scorers), scorer, row["explanation"])


def _judge_name(scorer: str, explanation: str) -> str:
    return " · ".join(filter(None, [scorer, _short(explanation)]))


def _short(explanation: str) -> str:
    """The id of an explanation without what is the same for most."""
    return "" if explanation == NO_EXPLAINER else explanation.removesuffix("/0")


def _decision(row: Mapping[str, Any]) -> Decision:
    said = []
    if row["probability"] is not None:
        said.append(f"probability of yes {numbers.score(row['probability'])}")
    if row["log_odds"] is not None:
        said.append(f"evidence {numbers.measure(row['log_odds'])} nats")
    why = [] if row["status"] == "ok" else [printable(row["reason"] or "no reason recorded")]
    where = [] if row["request"] is None else [f"request {printable(row['request'])[:12]}"]
    kind, word = _verdict(row)
    tip = ", ".join([*why, *said, *where])
    return Decision(kind=kind, word=word, tip=tip, said=", ".join(said), request=row["request"])


def _verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["status"] != "ok":
        return ("bad", row["status"])
    if row["prediction"] is None:
        return ("done", "judged" if row["log_odds"] is None else numbers.measure(row["log_odds"]))
    word = "yes" if row["prediction"] else "no"
    if row["label"] is None:
        return ("done", word)
    return ("right" if row["prediction"] == row["label"] else "wrong", word)
