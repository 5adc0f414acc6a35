"""What is asked once more where a reply cannot be used: shorter, without worked examples, in the right form.

Weak models repeat the answer of a worked example, or reason and leave the line out that holds the label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autointerp.explainers.prompt_files import load_prompt
from autointerp.explainers.replies import FORMLESS, Reading, spoken
from autointerp.llm.types import Capability, ErrorKind, LanguageModel, Message, Reply, Request

FORM = "form"
"""Prompt file of the second turn in which the form is asked for."""
NO_WINDOWS = "no activating train window with a word in it"
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"explanation": {"type": "string"}},
    "required": ["explanation"],
    "additionalProperties": False,
}
_MOST_REPEATED = 2_000
"""Characters of the model's reply shown to it again."""

Reader = Callable[[str | None, str | None], Reading]
"""Reads a reply's text, given why it ended."""


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


Mend = Callable[[int, Question, Reply], Question | None]
"""From a question's number, the question and its reply to what to ask instead; None if it does not apply."""


def ask_mended(
    questions: list[Question], mends: Sequence[Mend], model: LanguageModel
) -> dict[int, list[Reply]]:
    """Ask all questions at once, then those that a mend applies to, until none does.

    Each mend is used once for each question; `questions` hold what was asked last. Returns the replies to
    each question that had a request, in order.
    """
    replies: dict[int, list[Reply]] = {}
    unused = {i: list(mends) for i in range(len(questions))}
    asked = [i for i, question in enumerate(questions) if question.request is not None]
    while asked:
        answers = model.complete([request for i in asked if (request := questions[i].request) is not None])
        again = []
        for i, reply in zip(asked, answers, strict=True):
            replies.setdefault(i, []).append(reply)
            for mend in unused[i]:
                better = mend(i, questions[i], reply)
                if better is not None and better.request is not None:
                    unused[i].remove(mend)
                    questions[i] = better
                    again.append(i)
                    break
        asked = again
    return replies


def answer(replies: Sequence[Reply]) -> Reply:
    """Of the replies to one question the last that is one, else the last."""
    return next((reply for reply in reversed(replies) if reply.ok), replies[-1])


def shorter(question: Callable[[int], Question]) -> Mend:
    """Half the windows, if the prompt is too long; `question(i)` asks with these."""

    def mend(i: int, asked: Question, reply: Reply) -> Question | None:
        if reply.error is not ErrorKind.TOO_LONG or asked.n_windows < 2:
            return None
        half = question(i)
        return replace(half, details={**half.details, "shortened": True})

    return mend


def without_examples(read: Reader) -> Mend:
    """No worked examples, if the reply repeats the answer of one."""

    def mend(_: int, asked: Question, reply: Reply) -> Question | None:
        request = asked.request
        if request is None or request.messages is None or not _copies(request.messages, reply, read):
            return None
        query = max(i for i, message in enumerate(request.messages) if _asks(message))
        kept = (*(m for m in request.messages[:query] if m.role == "system"), request.messages[query])
        details = {**asked.details, "examples_left_out": "the first reply repeated one of them"}
        return replace(asked, request=replace(request, messages=kept, json_schema=None), details=details)

    return mend


def in_form(read: Reader, capabilities: Collection[Capability]) -> Mend:
    """The line with the label in a second turn, if the reply has none; held to JSON where that can be done."""

    def mend(_: int, asked: Question, reply: Reply) -> Question | None:
        request = asked.request
        if request is None or request.messages is None or not reply.ok:
            return None
        reason = read(reply.text, reply.finish_reason).reason
        if reason not in FORMLESS:
            return None
        again = in_form_request(request, reply, capabilities)
        return replace(asked, request=again, details={**asked.details, "asked_again": reason})

    return mend


def in_form_request(request: Request, reply: Reply, capabilities: Collection[Capability]) -> Request:
    """The conversation of `request` and `reply`, and a turn that asks for the label alone."""
    assert request.messages is not None
    held = Capability.JSON_SCHEMA in capabilities
    said = spoken(reply.text)[:_MOST_REPEATED] or "..."
    return replace(
        request,
        messages=(
            *request.messages,
            Message(role="assistant", content=said),
            Message(role="user", content=form_prompt(held)),
        ),
        json_schema=_SCHEMA if held else None,
    )


def form_prompt(held: bool) -> str:
    """The turn that asks for the label alone: as JSON if the model is `held` to it, else as a line."""
    return load_prompt(FORM).part("json" if held else "line")


def _copies(messages: Sequence[Message], reply: Reply, read: Reader) -> bool:
    """Whether a reply says what an assistant's message, a worked example, says."""
    if not reply.ok:
        return False
    said = read(reply.text, reply.finish_reason).text
    examples = [read(m.content, "stop").text for m in messages[:-1] if m.role == "assistant"]
    return said is not None and said.casefold() in [text.casefold() for text in examples if text]


def _asks(message: Message) -> bool:
    """Whether a message shows a latent: the user's, but for one that asks for the form."""
    return message.role == "user" and message.content not in (form_prompt(True), form_prompt(False))
