"""One question to a language model for each latent: what the explainers that ask have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation
from autointerp.explainers.mending import (
    FORM,
    NO_WINDOWS,
    Question,
    Reader,
    answer,
    ask_mended,
    in_form,
    shorter,
    without_examples,
)
from autointerp.explainers.prompt_files import PromptFile, Shot, load_prompt
from autointerp.explainers.replies import Reading, read_chat
from autointerp.llm.types import Capability, Message, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.asking import summed_usage

__all__ = ["NO_WINDOWS", "WINDOWS_STREAM", "ChatConfig", "ChatExplainer", "Question", "ask_each"]

WINDOWS_STREAM = 1
"""Draws activating windows: explainers that show as many show the same ones."""


def ask_each(
    records: Sequence[LatentRecord],
    question: Callable[[LatentRecord, int], Question],
    read: Reader,
    context: ExplainContext,
) -> list[Explanation]:
    """One explanation per latent, in order.

    `question(record, every)` asks with every `every`-th of the windows it would show; a prompt too
    long for the model is sent once more with `every` 2. A reply that repeats the answer of a worked
    example, as weak models do, is asked for again without the examples; one without the line that holds
    the label, in a second turn, for that line. `read(text, finish_reason)` reads a reply. A request that
    fails, a reply that cannot be read and a latent without anything to show become rows with a reason.
    """
    assert context.model is not None, "the explainer needs a model"
    model = context.model
    questions = [question(record, 1) for record in records]
    mends = (
        shorter(lambda i: question(records[i], 2)),
        without_examples(read),
        in_form(read, model.capabilities),
    )
    replies = ask_mended(questions, mends, model)
    return [
        _explanation(record, q, replies.get(i, []), read, model.identity)
        for i, (record, q) in enumerate(zip(records, questions, strict=True))
    ]


class ChatConfig(ExplainerConfig):
    """Options of every explainer that asks in a conversation."""

    few_shot: bool = True
    """Show worked examples first."""
    max_tokens: Annotated[int, Field(ge=1)] = 500
    """Longest reply."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Sampling temperature; 0 takes the likeliest token each time."""


class ChatExplainer:
    """Base of explainers with one chat prompt file: `question` says what a latent's query shows.

    The worked examples of the file are shown through `show_shot`, by the code that shows queries.
    """

    prompt_name: ClassVar[str]
    """Its file in `prompts/`."""
    config: ChatConfig

    @property
    def prompt(self) -> PromptFile:
        """Its prompt file."""
        return load_prompt(self.prompt_name)

    def requires(self) -> frozenset[Capability]:
        """Generation of text."""
        return frozenset({Capability.GENERATE})

    def prompts(self) -> Mapping[str, str]:
        """The prompt file, and the one that asks for the form."""
        return {self.prompt_name: self.prompt.source, FORM: load_prompt(FORM).source}

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order; failures are rows (see `ask_each`)."""

        def question(record: LatentRecord, every: int) -> Question:
            return self.question(record, context, every)

        return ask_each(records, question, self.read, context)

    def question(self, record: LatentRecord, context: ExplainContext, every: int) -> Question:
        """What is asked of a latent, from every `every`-th of the windows it would show."""
        raise NotImplementedError

    def show_shot(self, shot: Shot) -> str:
        """A worked example as a query shows a latent."""
        raise NotImplementedError

    def shot_reply(self, shot: Shot) -> str:
        """The reply a worked example should get."""
        return f"EXPLANATION: {shot.answer}"

    def system(self) -> str:
        """The system message."""
        return self.prompt.part("system")

    def read(self, text: str | None, finish_reason: str | None) -> Reading:
        """A reply as an explanation."""
        return read_chat(text, finish_reason)

    def ask(self, query: str) -> Request:
        """The request that ends in `query`: system message, worked examples, query."""
        messages = [Message(role="system", content=self.system())]
        for shot in self.prompt.shots() if self.config.few_shot else []:
            messages.append(Message(role="user", content=self.show_shot(shot)))
            messages.append(Message(role="assistant", content=self.shot_reply(shot)))
        messages.append(Message(role="user", content=query))
        return Request(
            messages=tuple(messages),
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
        )


def _explanation(
    record: LatentRecord, question: Question, replies: Sequence[Reply], read: Reader, model: str
) -> Explanation:
    details = dict(question.details)
    if not replies:
        dead = record.statistics.get("status") == "dead"
        reason = "dead latent" if dead else question.reason
        return Explanation(latent=record.latent, text=None, status="failed", reason=reason, details=details)
    reply = answer(replies)
    if reply.ok:
        reading = read(reply.text, reply.finish_reason)
    else:
        message = " ".join((reply.error_message or "").split())
        reading = Reading(
            status="failed", reason=f"{reply.error}: {message}" if message else str(reply.error)
        )
    if reading.text is None and reply.text:
        details["reply"] = reply.text[-500:]
    return Explanation(
        latent=record.latent,
        text=reading.text,
        status=reading.status,
        reason=reading.reason,
        model=reply.model or model,
        usage=_usage(replies),
        details=details,
    )


def _usage(replies: Sequence[Reply]) -> Usage:
    """What all replies to one question consumed together, failed requests left out if any was answered."""
    told = [reply.usage for reply in replies if reply.ok]
    if not told:
        return replace(replies[-1].usage, completion_tokens=None)
    return told[0] if len(told) == 1 else summed_usage(lambda name: [getattr(usage, name) for usage in told])
