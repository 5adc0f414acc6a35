"""One question to a language model for each latent: what the explainers that ask have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation
from autointerp.explainers.prompt_files import PromptFile, Shot, load_prompt
from autointerp.explainers.replies import Reading, read_chat
from autointerp.llm.types import Capability, ErrorKind, Message, Reply, Request
from autointerp.sampling.windows import LatentRecord

WINDOWS_STREAM = 1
"""Draws activating windows: explainers that show as many show the same ones."""
NO_WINDOWS = "no activating train window with a word in it"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a latent's explainer asks, or why it has nothing to ask."""

    request: Request | None = None
    reason: str = NO_WINDOWS
    """Why there is no request."""
    n_windows: int = 0
    """Activating windows shown: with more than one, a prompt too long can be made shorter."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the explanation's details say of it."""


def ask_each(
    records: Sequence[LatentRecord],
    question: Callable[[LatentRecord, int], Question],
    read: Callable[[str | None, str | None], Reading],
    context: ExplainContext,
) -> list[Explanation]:
    """One explanation per latent, in order.

    `question(record, every)` asks with every `every`-th of the windows it would show; a prompt too
    long for the model is sent once more with `every` 2. A reply that repeats the answer of a worked
    example, as weak models do, is asked for again without the examples. `read(text, finish_reason)`
    reads a reply. A request that fails, a reply that cannot be read and a latent without anything to
    show become rows with a reason.
    """
    assert context.model is not None, "the explainer needs a model"
    questions = [question(record, 1) for record in records]
    replies: list[Reply | None] = [None] * len(records)
    asked = [i for i, q in enumerate(questions) if q.request is not None]
    _ask(questions, asked, replies, context)
    again = [
        i for i in asked if (r := replies[i]) and r.error is ErrorKind.TOO_LONG and questions[i].n_windows > 1
    ]
    for i in again:
        shorter = question(records[i], 2)
        questions[i] = replace(shorter, details={**shorter.details, "shortened": True})
    _ask(questions, again, replies, context)
    copied = [i for i in asked if _copies(questions[i].request, replies[i], read)]
    for i in copied:
        questions[i] = _without_examples(questions[i])
    _ask(questions, copied, replies, context)
    model = context.model.identity
    return [
        _explanation(record, q, reply, read, model)
        for record, q, reply in zip(records, questions, replies, strict=True)
    ]


def _copies(
    request: Request | None, reply: Reply | None, read: Callable[[str | None, str | None], Reading]
) -> bool:
    """Whether a reply says what an assistant's message of the request, a worked example, says."""
    if request is None or request.messages is None or reply is None or not reply.ok:
        return False
    said = read(reply.text, reply.finish_reason).text
    examples = [read(m.content, "stop").text for m in request.messages[:-1] if m.role == "assistant"]
    return said is not None and said.casefold() in [text.casefold() for text in examples if text]


def _without_examples(question: Question) -> Question:
    """The same question, its worked examples left out."""
    assert question.request is not None
    assert question.request.messages is not None
    messages = question.request.messages
    query = max(i for i, message in enumerate(messages) if message.role == "user")
    kept = (*(m for m in messages[:query] if m.role == "system"), *messages[query:])
    details = {**question.details, "examples_left_out": "the first reply repeated one of them"}
    return replace(question, request=replace(question.request, messages=kept), details=details)


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
        """The prompt file."""
        return {self.prompt_name: self.prompt.source}

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


def _ask(
    questions: Sequence[Question], which: Sequence[int], replies: list[Reply | None], context: ExplainContext
) -> None:
    """Put the replies to questions `which` into `replies`."""
    assert context.model is not None
    batch = [(i, request) for i in which if (request := questions[i].request) is not None]
    if batch:
        answers = context.model.complete([request for _, request in batch])
        for (i, _), reply in zip(batch, answers, strict=True):
            replies[i] = reply


def _explanation(
    record: LatentRecord,
    question: Question,
    reply: Reply | None,
    read: Callable[[str | None, str | None], Reading],
    model: str,
) -> Explanation:
    details = dict(question.details)
    if reply is None:
        dead = record.statistics.get("status") == "dead"
        reason = "dead latent" if dead else question.reason
        return Explanation(latent=record.latent, text=None, status="failed", reason=reason, details=details)
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
        usage=reply.usage if reply.ok else replace(reply.usage, completion_tokens=None),
        details=details,
    )
