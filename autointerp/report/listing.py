"""What is asked of the list of latents: search words, filters, order, page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from autointerp.errors import UserError, unknown_name
from autointerp.report.entries import STATES

PAGE = 100
"""Entries on one page of the list."""
LATENT_STATUS = ("ok", "rare", "dense", "dead")
SORTS = ("judged", "latent", "density", "max_activation")
"""Orders beside the scorers; `judged` has the entries with most scores first."""
FIRST, EVERY = "", "*"
"""Values of `explainer` that list one entry per latent, and every entry."""
_MAX_TEXT = 200
_MAX_PAGE = 10_000_000


@dataclass(frozen=True, kw_only=True)
class ListQuery:
    """A question to the list of latents; the defaults list everything, most judged first."""

    q: str = ""
    """Words that must all occur in labels or tokens; a number also finds the latent of that number."""
    sort: str = "judged"
    """One of `SORTS` or a scorer."""
    dir: str = "desc"
    """`desc` or `asc`."""
    explainer: str = FIRST
    """An explainer's labels only; `*` for every label; empty for the first of each latent."""
    status: str = ""
    """A latent's status."""
    state: str = ""
    """What became of the label: one of `STATES`."""
    by: str = ""
    """The scorer that `low` and `high` bound."""
    low: float | None = None
    high: float | None = None
    sparse: float | None = None
    """Smallest density."""
    dense: float | None = None
    """Largest density."""
    page: int = 1
    """Page of the list, from 1."""

    @property
    def words(self) -> list[str]:
        """Search words in lower case."""
        return self.q.lower().split()

    def address(self, **changes: object) -> str:
        """The query string of this question with some fields changed; only what is not default."""
        asked = replace(self, **changes)  # type: ignore[arg-type]
        default = ListQuery()
        pairs = {
            name: _said(getattr(asked, name))
            for name in self.__dataclass_fields__
            if getattr(asked, name) != getattr(default, name)
        }
        return f"?{urlencode(pairs)}" if pairs else "?"


def parse_query(asked: Mapping[str, str], scorers: Sequence[str], explainers: Sequence[str]) -> ListQuery:
    """The fields of an address as a question. Raises `UserError` for a field or value that is not known."""
    names = ListQuery.__dataclass_fields__
    for name in asked:
        if name not in names:
            raise unknown_name("field", name, names)
    choices: dict[str, Sequence[str]] = {
        "sort": (*SORTS, *scorers),
        "dir": ("desc", "asc"),
        "explainer": (FIRST, EVERY, *explainers),
        "status": ("", *LATENT_STATUS),
        "state": ("", *STATES),
        "by": ("", *scorers),
    }
    values: dict[str, object] = {}
    for name, value in asked.items():
        if name in choices:
            if value not in choices[name]:
                raise unknown_name(name, value, [c for c in choices[name] if c])
            values[name] = value
        elif name == "q":
            values[name] = value[:_MAX_TEXT]
        elif value.strip():
            values[name] = _page(value) if name == "page" else _number(name, value)
    return ListQuery(**values)  # type: ignore[arg-type]


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name}: seen {text[:_MAX_TEXT]!r}; accepted: a number")
    return value


def _page(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 8 and 1 <= int(text) <= _MAX_PAGE):
        raise UserError(f"page: seen {text[:_MAX_TEXT]!r}; accepted: 1 to {_MAX_PAGE}")
    return int(text)


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
