"""Explainer `default`: a language model reads activating windows and says what their marks share.

After the explainer of Paulo, Mallen, Juang and Belrose, "Automatically Interpreting Millions of
Features in Large Language Models" (arXiv 2410.13928; `DefaultExplainer` in EleutherAI/delphi), with
prompts of our own. Style `completion` is ours: a few-shot word list that a base model, or one of a
hundred million parameters, can continue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from autointerp.explainers.asking import WINDOWS_STREAM, Question, ask_each
from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation, explainer
from autointerp.explainers.mending import FORM
from autointerp.explainers.prompt_files import PromptFile, load_prompt
from autointerp.explainers.rendering import choose_windows, marked_words, show_windows
from autointerp.explainers.replies import read_chat, read_completion
from autointerp.llm.types import Capability, Message, Request
from autointerp.sampling.windows import LatentRecord, TokenTable, Window


class DefaultConfig(ExplainerConfig):
    """`[explainers.default]`."""

    style: Literal["chat", "completion"] = "chat"
    """`chat`: excerpts in a conversation, for models that follow instructions. `completion`: a list
    of the marked words for the model to continue, for base and very small models."""
    n_windows: Annotated[int, Field(ge=1)] = 40
    """Most activating windows shown, evenly over deciles."""
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """A token is marked if its activation is above this share of its window's largest."""
    show_activations: bool = True
    """List the activation of each marked token, 1 to 10 (style `chat`)."""
    few_shot: bool = True
    """Show worked examples first."""
    n_words: Annotated[int, Field(ge=1)] = 8
    """Most words listed (style `completion`)."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest reply; by default 500 (`chat`) or 16 (`completion`)."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Sampling temperature; 0 takes the likeliest token each time."""


@explainer("default")
class DefaultExplainer:
    """Explains each latent with one request; see the module and `DefaultConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = DefaultConfig
    version: ClassVar[int] = 3
    uses_windows: ClassVar[bool] = True

    def __init__(self, config: DefaultConfig) -> None:
        self.config = config
        self._prompt: PromptFile = load_prompt(config.style)

    def requires(self) -> frozenset[Capability]:
        """Generation of text."""
        return frozenset({Capability.GENERATE})

    def prompts(self) -> Mapping[str, str]:
        """The prompt file of the configured style, and of `chat` the one that asks for the form."""
        own: dict[str, str] = {self.config.style: self._prompt.source}
        return {**own, FORM: load_prompt(FORM).source} if self.config.style == "chat" else own

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order; failures are rows (see `ask_each`)."""

        def question(record: LatentRecord, every: int) -> Question:
            rng = context.rng(record.latent, WINDOWS_STREAM)
            windows = choose_windows(record, self.config.n_windows, rng)[::every]
            request = self.request(record, windows, context.tokens)
            n = len(windows)
            return Question(request=request, n_windows=n, details={"n_windows": n})

        read = read_chat if self.config.style == "chat" else read_completion
        return ask_each(records, question, read, context)

    def request(self, record: LatentRecord, windows: Sequence[Window], table: TokenTable) -> Request | None:
        """The request for one latent; None if there is nothing to show."""
        if not windows:
            return None
        options: dict[str, Any] = {"temperature": self.config.temperature}
        if self.config.style == "chat":
            options["max_tokens"] = self.config.max_tokens or 500
            return Request(messages=self._messages(record, windows, table), **options)
        prompt = self._completion_prompt(windows, table)
        options["max_tokens"] = self.config.max_tokens or 16
        return None if prompt is None else Request(prompt=prompt, stop=("\n", ". "), **options)

    def _messages(
        self, record: LatentRecord, windows: Sequence[Window], table: TokenTable
    ) -> tuple[Message, ...]:
        explain_values = self._prompt.part("activations") if self.config.show_activations else ""
        messages = [
            Message(role="system", content=self._prompt.part("system", {"activations": explain_values}))
        ]
        for shot in self._prompt.shots() if self.config.few_shot else []:
            messages.append(self._user(shot.windows, shot.table, 10.0))
            messages.append(Message(role="assistant", content=f"EXPLANATION: {shot.answer}"))
        largest = record.statistics.get("max_activation") or max(w.max_activation for w in windows)
        return (*messages, self._user(windows, table, float(largest)))

    def _user(self, windows: Sequence[Window], table: TokenTable, largest: float) -> Message:
        excerpts = show_windows(
            windows,
            table,
            threshold=self.config.threshold,
            largest=largest if self.config.show_activations else None,
        )
        return Message(role="user", content=self._prompt.part("query", {"excerpts": excerpts}))

    def _completion_prompt(self, windows: Sequence[Window], table: TokenTable) -> str | None:
        words = marked_words(windows, table, threshold=self.config.threshold, n=self.config.n_words)
        if not words:
            return None
        query = self._prompt.part("query", {"words": ", ".join(word for word, _ in words)})
        shots = [text for name, text in self._prompt.parts if name == "shot"] if self.config.few_shot else []
        return "\n\n".join([*shots, query])
