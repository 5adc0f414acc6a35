"""What a model's tokens cost: from its options, the user's table of prices, or the one shipped here.

A model without a known price has an unknown cost, never 0; a model that runs in this process costs 0.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from autointerp.config import Section, parse_table
from autointerp.errors import UserError
from autointerp.llm.options import BackendOptions
from autointerp.llm.types import Usage

PRICES_VARIABLE = "AUTOINTERP_PRICES"
"""Environment variable that names the user's own table of prices."""
FREE_BACKENDS = frozenset({"local", "vllm", "canned"})
"""Backends whose models run in this process, or are none."""

_SHIPPED = Path(__file__).with_name("prices.toml")

_Usd = Annotated[float, Field(ge=0, strict=False)]


class PriceEntry(Section):
    """`[[price]]` of a table of prices, in US dollars per million tokens."""

    models: list[str] = Field(min_length=1)
    """Patterns of the model's name, as in a shell; case counts."""
    prompt: _Usd
    """Prompt tokens."""
    completion: _Usd
    """Generated tokens, those of reasoning included."""
    cached: _Usd | None = None
    """Prompt tokens that were in the server's cache; by default as `prompt`."""
    batch: Annotated[float, Field(gt=0, le=1, strict=False)] | None = None
    """What the Batch API charges, as a share of these prices; unset: not known, so `openai_batch` is
    counted at the full price."""
    as_of: str | None = None
    """When the price was looked up."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens of one model."""

    prompt: float
    completion: float
    cached: float | None = None
    """Prompt tokens that were in the server's cache; None: as `prompt`."""
    source: str
    """Where the price comes from, in words."""

    def usd(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        """Cost of some tokens; `cached_tokens` are among the prompt's."""
        cached = self.prompt if self.cached is None else self.cached
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.prompt + cached_tokens * cached + completion_tokens * self.completion) / 1e6

    def of(self, usage: Usage) -> float | None:
        """Cost of one reply; None if its tokens are not known."""
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        return self.usd(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens or 0)


def price_of(options: BackendOptions) -> Price | None:
    """The price of a model's tokens; None if it is not known.

    Prices among the options win, then the user's table, then the shipped one. Raises `UserError` if
    the user's table cannot be read.
    """
    if options.backend in FREE_BACKENDS:
        return Price(prompt=0.0, completion=0.0, source="runs here, costs nothing")
    prompt: float | None = getattr(options, "price_prompt_usd_per_million", None)
    completion: float | None = getattr(options, "price_completion_usd_per_million", None)
    if prompt is not None and completion is not None:
        return Price(prompt=prompt, completion=completion, source="from the model's options")
    found = find_price(options.model, batch=options.backend == "openai_batch")
    if found is None or (prompt is None and completion is None):
        return found
    return Price(
        prompt=found.prompt if prompt is None else prompt,
        completion=found.completion if completion is None else completion,
        cached=found.cached if prompt is None else None,
        source=f"from the model's options and {found.source}",
    )


def find_price(model: str, *, batch: bool = False) -> Price | None:
    """The price a table gives for a model's name, or for batches; None if no pattern fits."""
    for path in (user_table(), _SHIPPED):
        for entry in read_table(path) if path is not None else ():
            if any(fnmatchcase(model, pattern) for pattern in entry.models):
                source = "the shipped table" if path == _SHIPPED else str(path)
                if entry.as_of:
                    source += f", as of {entry.as_of}"
                if batch:
                    source += (
                        " for batches" if entry.batch else ", at the full price: it gives none for batches"
                    )
                share = (entry.batch or 1.0) if batch else 1.0
                return Price(
                    prompt=entry.prompt * share,
                    completion=entry.completion * share,
                    cached=None if entry.cached is None else entry.cached * share,
                    source=source,
                )
    return None


def user_table() -> Path | None:
    """The user's own table: what `AUTOINTERP_PRICES` names, else `prices.toml` in the configuration folder."""
    configured = os.environ.get(PRICES_VARIABLE)
    if configured:
        return Path(configured).expanduser()
    from platformdirs import user_config_path

    path = user_config_path("autointerp") / "prices.toml"
    return path if path.is_file() else None


@cache
def read_table(path: Path) -> Sequence[PriceEntry]:
    """The entries of a table of prices. Raises `UserError`."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            f"table of prices {str(path)!r} ({PRICES_VARIABLE}): cannot be read: {error}"
        ) from None
    entries = table.get("price", [])
    if (
        set(table) - {"price"}
        or not isinstance(entries, list)
        or not all(isinstance(e, dict) for e in entries)
    ):
        raise UserError(
            f"table of prices {str(path)!r}: accepted: [[price]] with models, prompt and completion"
        )
    return [parse_table(PriceEntry, e, f"{path} price {i}") for i, e in enumerate(entries, 1)]
