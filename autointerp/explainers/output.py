"""Explainer `output`: what the tokens share that a latent makes more likely.

The decoder direction is read through the subject's final norm and unembedding (`top_logits` and
`bottom_logits` of `latents`; the "logit lens" of nostalgebraist, 2020, for one direction). With
`steered` the latent is also turned up in the running subject (`token_change`), which says what the
layers behind make of it, and needs no linear way to the output. The label says what the latent does to
the output, not what it answers to. Prompts and worked examples are our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from autointerp.errors import UserError
from autointerp.explainers.asking import ChatConfig, ChatExplainer, Question
from autointerp.explainers.base import ExplainContext, ExplainerConfig, explainer
from autointerp.explainers.max_act_logits import NO_LOGITS, NO_READABLE_LOGITS
from autointerp.explainers.prompt_files import Shot
from autointerp.explainers.rendering import output_tokens, quoted_list
from autointerp.explainers.replies import EMPTY, Reading, read_chat
from autointerp.explainers.token_change import TokenChange, readable_tokens, silent_prompts, token_change
from autointerp.sampling.windows import LatentRecord, TokenTable

_PARTS = {("output", "promoted"): "query"}
"""Parts of a prompt file that are not named as the list they show."""
_SAID = re.compile(r"^(?:it |the unit )?(?:promotes|raises|favou?rs)\b[\s:]*", re.IGNORECASE)


class OutputConfig(ChatConfig):
    """`[explainers.output]`."""

    n_promoted: Annotated[int, Field(ge=1)] = 20
    """Most promoted tokens shown (`cache.n_top_tokens` are kept)."""
    n_demoted: Annotated[int, Field(ge=0)] = 10
    """Most demoted tokens shown."""
    max_tokens: Annotated[int, Field(ge=1)] = 300
    """Longest reply."""
    steered: bool = True
    """Also run the subject with the latent turned up, and show the tokens that rise and fall. Without it
    neither the subject nor windows are needed."""
    n_prompts: Annotated[int, Field(ge=1)] = 8
    """`steered` only: train windows in which the latent is silent and is turned up."""
    prompt_tokens: Annotated[int, Field(ge=2)] = 16
    """`steered` only: tokens read of each, BOS not counted."""
    kl: Annotated[float, Field(gt=0.0)] = 0.5
    """`steered` only: mean divergence KL(steered || clean) of the next-token distribution that the
    latent is turned up to, in nats."""

    def result_values(self) -> dict[str, Any]:
        """As of every section; without `steered` its options change nothing and are left out."""
        values = super().result_values()
        if not self.steered:
            for name in ("steered", "n_prompts", "prompt_tokens", "kl"):
                del values[name]
        return values


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The tokens a query shows, as texts."""

    promoted: Sequence[str]
    demoted: Sequence[str]
    risen: Sequence[str] = ()
    fallen: Sequence[str] = ()


@explainer("output")
class OutputExplainer(ChatExplainer):
    """Explains each latent with one request; see the module and `OutputConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = OutputConfig
    version: ClassVar[int] = 3

    def __init__(self, config: OutputConfig) -> None:
        self.config: OutputConfig = config
        self._readable: Any = None

    @property
    def uses_windows(self) -> bool:
        """Only with `steered`: the latent is turned up on windows."""
        return self.config.steered

    @property
    def needs_subject(self) -> bool:
        """Only with `steered`."""
        return self.config.steered

    @property
    def prompt_name(self) -> str:  # type: ignore[override]
        """Its file in `prompts/`."""
        return "output_steered" if self.config.steered else "output"

    def question(self, record: LatentRecord, context: ExplainContext, every: int) -> Question:
        """The lists of one latent; nothing to ask without any."""
        config, table = self.config, context.tokens
        top, bottom = record.statistics.get("top_logits"), record.statistics.get("bottom_logits")
        lists = Lists(
            promoted=output_tokens(top, table, config.n_promoted),
            demoted=output_tokens(bottom, table, config.n_demoted),
        )
        details: dict[str, Any] = {"n_promoted": len(lists.promoted), "n_demoted": len(lists.demoted)}
        reason = NO_LOGITS if top is None else NO_READABLE_LOGITS
        if config.steered:
            change = self.turned_up(record, context)
            lists = replace(lists, risen=_texts(change.risen, table), fallen=_texts(change.fallen, table))
            details |= _described(change, lists)
            reason = change.reason or "turned up, it raises no readable token"
        if not lists.promoted and not lists.risen:
            return Question(reason=reason, details=details if config.steered else {})
        return Question(request=self.ask(self._show(lists)), details=details)

    def turned_up(self, record: LatentRecord, context: ExplainContext) -> TokenChange:
        """What turning the latent up does in the running subject; for some dictionaries that cannot be done."""
        assert context.subject is not None, "explainer `output` with `steered` needs the subject"
        config, steered = self.config, context.subject()
        try:
            steered.check()
        except UserError as error:
            return TokenChange(reason=f"not turned up: {error}")
        if self._readable is None:
            self._readable = readable_tokens(context.tokens, steered, bool)
        return token_change(
            record,
            steered,
            silent_prompts(record, config.n_prompts, context),
            n_tokens=config.prompt_tokens,
            kl=config.kl,
            n_risen=config.n_promoted,
            n_fallen=config.n_demoted,
            readable=self._readable,
        )

    def show_shot(self, shot: Shot) -> str:
        """Its two lists: of the steered subject, where that is asked about."""
        demoted = shot.demoted[: self.config.n_demoted]
        if self.config.steered:
            return self._show(Lists(promoted=(), demoted=(), risen=shot.promoted, fallen=demoted))
        return self._show(Lists(promoted=shot.promoted, demoted=demoted))

    def read(self, text: str | None, finish_reason: str | None) -> Reading:
        """A reply as an explanation that begins with "promotes", so that none is taken for what a
        latent answers to."""
        reading = read_chat(text, finish_reason)
        if reading.text is None:
            return reading
        rest = _SAID.sub("", reading.text)
        if not any(c.isalnum() for c in rest):
            return Reading(status="failed", reason=EMPTY)
        return Reading(text=f"promotes {rest}")

    def _show(self, lists: Lists) -> str:
        """A line for each list with something in it, under the name the prompt gives it; then what is asked."""
        names = ("promoted", "demoted", "risen", "fallen")
        if self.config.steered:
            names = ("risen", "fallen", "promoted", "demoted")
        shown = {name: getattr(lists, name) for name in names if getattr(lists, name)}
        lines = [
            self.prompt.part(_PARTS.get((self.prompt_name, name), name), {name: quoted_list(texts)})
            for name, texts in shown.items()
        ]
        return "\n".join([*lines, "", self.prompt.part("ask")])


def _texts(tokens: Sequence[int], table: TokenTable) -> list[str]:
    """The texts of some tokens, each once."""
    return list(dict.fromkeys(table.text([token]) for token in tokens))


def _described(change: TokenChange, lists: Lists) -> dict[str, Any]:
    """What `details` say of the steered part."""
    return {
        "risen": list(lists.risen),
        "fallen": list(lists.fallen),
        "strength": change.strength,
        "kl": change.kl,
        "n_prompts": change.n_prompts,
        "not_steered": change.reason,
    }
