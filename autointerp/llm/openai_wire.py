"""Between `Request`/`Reply` and the JSON of OpenAI's `/chat/completions` and `/completions`.

Pure functions over plain JSON values, so that odd servers can be met with tables of examples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from autointerp.config import digest
from autointerp.llm.options import OpenAIOptions
from autointerp.llm.types import ErrorKind, Message, Reply, Request, TokenLogprob, Usage

Endpoint = Literal["chat", "completions"]

_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
_UNOPENED_THOUGHT = re.compile(r"(?:(?!<think>).)*?</think>\s*", re.DOTALL)
_UNCLOSED_THOUGHT = re.compile(r"\s*<think>.*", re.DOTALL)


class MalformedReplyError(ValueError):
    """The server's JSON is not what the protocol says."""


class UnsupportedRequestError(ValueError):
    """The request has a form that the configured endpoints, or the server, do not take."""


@lru_cache(maxsize=64)
def is_openai(url: str) -> bool:
    """Whether a URL is OpenAI's own service, which refuses the fields other servers add."""
    host = urlsplit(url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def openai_identity(options: OpenAIOptions) -> str:
    """What a model's answers depend on, of the options; the same for single requests and batches."""
    told = [options.model, options.revision, options.api, options.extra_body, sorted(options.omit)]
    if options.system_role is False:
        told.append("no system role")
    return f"openai:{options.model}#{digest(told)}"


def endpoint_of(request: Request, options: OpenAIOptions) -> Endpoint:
    """Which endpoint a request goes to. Raises `UnsupportedRequestError` if `api` rules it out."""
    reads = request.continuation is not None or request.prompt_top_logprobs > 0
    if request.messages is not None:
        if reads:
            raise UnsupportedRequestError("log-probabilities of given text need a raw prompt")
        if options.api == "completions":
            raise UnsupportedRequestError("api = 'completions' takes raw prompts, not chat messages")
        return "chat"
    if options.api == "chat":
        raise UnsupportedRequestError("api = 'chat' takes chat messages, not raw prompts")
    return "completions"


def without_system_role(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages whose system message stands at the beginning of the first message after it."""
    if len(messages) < 2 or messages[0].role != "system":
        return tuple(replace(m, role="user") if m.role == "system" else m for m in messages)
    first = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
    return (first, *messages[2:])


def request_body(request: Request, options: OpenAIOptions, echo_max_tokens: int = 0) -> dict[str, Any]:
    """The JSON body of a request, `model` and `extra_body` included.

    `echo_max_tokens` is what a request that generates nothing sends as `max_tokens`: 0, or 1 for
    servers that refuse 0.
    """
    endpoint = endpoint_of(request, options)
    own = is_openai(options.url)
    body: dict[str, Any] = {"model": options.model}
    if endpoint == "chat":
        messages = request.messages or ()
        if options.system_role is False:
            messages = without_system_role(messages)
        body["messages"] = [{"role": m.role, "content": m.content} for m in messages]
        body[options.max_tokens_field or ("max_completion_tokens" if own else "max_tokens")] = (
            request.max_tokens
        )
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if request.json_schema is not None:
            schema = {"name": "reply", "schema": dict(request.json_schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        continues = bool(messages) and messages[-1].role == "assistant"
        if continues and (
            options.continue_final_message or (options.continue_final_message is None and not own)
        ):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    else:
        body["prompt"] = (request.prompt or "") + (request.continuation or "")
        body["max_tokens"] = request.max_tokens
        if request.top_logprobs:
            body["logprobs"] = request.top_logprobs
    if request.continuation is not None or request.prompt_top_logprobs:
        body |= {"echo": True, "max_tokens": echo_max_tokens, "temperature": 0.0}
        body["logprobs"] = max(1, request.prompt_top_logprobs)
    else:
        body["temperature"] = request.temperature
        if request.temperature > 0:
            body["top_p"] = request.top_p
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
    body |= options.extra_body
    return {name: value for name, value in body.items() if name not in options.omit}


def parse_reply(
    request: Request, body: Any, options: OpenAIOptions, seconds: float | None, echo_max_tokens: int = 0
) -> Reply:
    """The reply in a server's JSON body; `echo_max_tokens` is what its request was made with.

    Raises `MalformedReplyError` if the body lacks what the protocol promises and
    `UnsupportedRequestError` if the server has left out the echo. A choice that was
    filtered becomes an error reply.
    """
    if not isinstance(body, Mapping):
        raise MalformedReplyError("the body is not a JSON object")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise MalformedReplyError(f"the body has no choices: {_short(body)}")
    choice = choices[0]
    usage = _usage(body.get("usage"), options, seconds)
    model = body.get("model") if isinstance(body.get("model"), str) else options.model
    finish = choice.get("finish_reason")
    if request.continuation is not None or request.prompt_top_logprobs:
        n_generated = usage.completion_tokens if usage.completion_tokens is not None else 0
        whole = (request.prompt or "") + (request.continuation or "")
        if echo_max_tokens == 0 and choice.get("text") == whole:
            n_generated = 0  # vLLM counts a token that it generates all the same and leaves out
        tokens = _echoed(request, choice, n_generated)
        return Reply(tokens=tokens, usage=usage, model=model)
    if request.messages is not None:
        message = choice.get("message")
        if not isinstance(message, Mapping):
            raise MalformedReplyError(f"the choice has no message: {_short(choice)}")
        text = message.get("content")
        if text is None and isinstance(message.get("refusal"), str):
            text = message["refusal"]
    else:
        text = choice.get("text")
    if finish == "content_filter":
        return Reply(
            error=ErrorKind.CONTENT_FILTER,
            error_message="the server's content filter withheld the reply",
            finish_reason="content_filter",
            usage=usage,
            model=model,
        )
    if text is None and finish == "length":
        text = ""  # everything was spent on reasoning the server keeps apart
    if not isinstance(text, str):
        raise MalformedReplyError(f"the choice has no text: {_short(choice)}")
    begun = request.messages[-1] if request.messages else None
    if begun is not None and begun.role == "assistant" and begun.content:
        text = text.removeprefix(begun.content)  # llama.cpp repeats the beginning it continues
    tokens = _generated(request, choice)
    whole = text
    text, tokens = _without_thought(text, tokens)
    if usage.reasoning_tokens is None:
        apart = _thought_apart(choice) if request.messages is not None else 0
        usage = _with_thought(usage, apart + len(whole) - len(text), apart + len(whole))
    return Reply(
        text=text,
        finish_reason=finish if isinstance(finish, str) else None,
        tokens=tokens,
        usage=usage,
        model=model,
    )


def _usage(value: Any, options: OpenAIOptions, seconds: float | None) -> Usage:
    usage = value if isinstance(value, Mapping) else {}
    details = usage.get("prompt_tokens_details")
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(details, "cached_tokens") if isinstance(details, Mapping) else None
    details = usage.get("completion_tokens_details")
    reasoning = _count(details, "reasoning_tokens") if isinstance(details, Mapping) else None
    prices = options.price_prompt_usd_per_million, options.price_completion_usd_per_million
    cost = None
    if prices[0] is not None and prices[1] is not None and prompt is not None and completion is not None:
        cost = (prompt * prices[0] + completion * prices[1]) / 1e6
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        cost_usd=cost,
        seconds=seconds,
        reasoning_tokens=reasoning or None,
    )


def _thought_apart(choice: Mapping[str, Any]) -> int:
    """Characters of thinking that the server gives beside the text (vLLM, DeepSeek, OpenRouter)."""
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return 0
    texts = [message.get(name) for name in ("reasoning_content", "reasoning")]
    return max((len(text) for text in texts if isinstance(text, str)), default=0)


def _with_thought(usage: Usage, n_thought: int, n_all: int) -> Usage:
    """Usage with the share of its completion tokens that went into thinking, by characters."""
    if not n_thought or usage.completion_tokens is None:
        return usage
    return replace(usage, reasoning_tokens=round(usage.completion_tokens * n_thought / n_all))


def _count(table: Mapping[str, Any], name: str) -> int | None:
    value = table.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _generated(request: Request, choice: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    logprobs = choice.get("logprobs")
    if not request.top_logprobs or not isinstance(logprobs, Mapping):
        return ()
    content = logprobs.get("content")
    if isinstance(content, list):
        return tuple(_chat_token(item) for item in content)
    return tuple(_completion_tokens(logprobs))


def _chat_token(item: Any) -> TokenLogprob:
    try:
        top: dict[str, float] = {}
        for other in item.get("top_logprobs") or ():
            top.setdefault(str(other["token"]), float(other["logprob"]))
        return TokenLogprob(text=str(item["token"]), logprob=float(item["logprob"]), top=top)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MalformedReplyError(f"a token without log-probability: {_short(item)}") from None


def _completion_tokens(logprobs: Mapping[str, Any]) -> list[TokenLogprob]:
    texts, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(texts, list) or not isinstance(values, list) or len(texts) != len(values):
        raise MalformedReplyError(f"log-probabilities without tokens: {_short(logprobs)}")
    tops = logprobs.get("top_logprobs")
    tops = tops if isinstance(tops, list) and len(tops) == len(texts) else [None] * len(texts)
    return [
        TokenLogprob(
            text=str(text),
            logprob=None if value is None else float(value),
            top={str(k): float(v) for k, v in top.items()} if isinstance(top, Mapping) else {},
        )
        for text, value, top in zip(texts, values, tops, strict=True)
    ]


def _echoed(request: Request, choice: Mapping[str, Any], n_generated: int) -> tuple[TokenLogprob, ...]:
    """The prompt's or continuation's tokens out of an echoed prompt."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping) or "tokens" not in logprobs:
        raise UnsupportedRequestError(
            "the server does not echo log-probabilities of the prompt, so it has no likelihood "
            "and no prompt_logprobs; leave them out of the model's `supports`"
        )
    tokens = _completion_tokens(logprobs)
    offsets = logprobs.get("text_offset")
    offsets = offsets if isinstance(offsets, list) and len(offsets) == len(tokens) else None
    prompt, continuation = request.prompt or "", request.continuation or ""
    if n_generated:
        tokens, offsets = tokens[:-n_generated], offsets[:-n_generated] if offsets else None
    if request.continuation is None:
        return tuple(tokens)
    if not continuation:
        return ()
    length, first = 0, len(tokens)
    while first and length < len(continuation):
        first -= 1
        length += len(tokens[first].text)
    if "".join(token.text for token in tokens[first:]) != continuation:
        # Tokens of partial characters do not spell the text; the offsets still tell where it begins.
        if offsets is None or len(prompt) not in offsets:
            raise MalformedReplyError("the continuation does not begin where a token of the server begins")
        first = offsets.index(len(prompt))
    if any(token.logprob is None for token in tokens[first:]):
        raise MalformedReplyError("a token of the continuation has no log-probability")
    return tuple(tokens[first:])


def _without_thought(text: str, tokens: tuple[TokenLogprob, ...]) -> tuple[str, tuple[TokenLogprob, ...]]:
    """Text and tokens without the reasoning a model wrote before its answer."""
    match = _THOUGHT.match(text) or _UNOPENED_THOUGHT.match(text) or _UNCLOSED_THOUGHT.match(text)
    if match is None:
        return text, tokens
    rest, length, kept = match.end(), 0, list[TokenLogprob]()
    for token in tokens:
        length += len(token.text)
        if length > rest:
            kept.append(token)
    return text[rest:], tuple(kept)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:200] + "..."
