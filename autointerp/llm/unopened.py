"""What is known of a model without loading or asking it: identity, tokenizer, how long its replies are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autointerp.config import digest
from autointerp.llm.canned import open_canned, prompt_text
from autointerp.llm.openai_wire import openai_identity
from autointerp.llm.options import BackendOptions, CannedOptions, LocalOptions, OpenAIOptions, VllmOptions
from autointerp.llm.replies import Habits, StoredReplies
from autointerp.llm.types import Capability, Request
from autointerp.llm.vllm_wire import vllm_identity

CHARACTERS_PER_TOKEN = 4.0
"""Of English text in the tokenizers of large models, where nothing better is known."""
_TOKENS_PER_MESSAGE = 4
_PIECE = re.compile(r"\s?\w+|\s?[^\w\s]|\s")


@dataclass(frozen=True, kw_only=True)
class UnopenedModel:
    """A model as far as it can be known beforehand."""

    identity: str
    """As the opened model's, so that stored replies are found."""
    capabilities: frozenset[Capability]
    prompt_tokens: Callable[[Request], int]
    """Tokens of a request's prompt and continuation."""
    count_tokens: Callable[[str], int | None]
    """As the opened model's: None where its tokenizer is not known."""
    counted: str
    """How tokens are counted, in words."""
    habits: Habits
    """What its stored replies tell."""


def unopened(
    options: BackendOptions, *, tokenizer: str | None = None, stored: StoredReplies | None = None
) -> UnopenedModel:
    """Look at a model without opening it.

    `tokenizer` names the one to count with (hub name, folder, `package:NAME/FILE`) where the model is
    a server's. Raises `UserError` if a tokenizer cannot be loaded.
    """
    if isinstance(options, LocalOptions | VllmOptions):
        identity = local_identity(options) if isinstance(options, LocalOptions) else vllm_identity(options)
        texts = _texts(options.model, options.revision, options.trust_remote_code)
        return UnopenedModel(
            identity=identity,
            capabilities=options.capabilities(),
            prompt_tokens=lambda request: _exact(texts, request),
            count_tokens=texts.count,
            counted="by the model's own tokenizer",
            habits=_habits(stored, identity),
        )
    if isinstance(options, CannedOptions):
        backend = open_canned(options)
        return UnopenedModel(
            identity=backend.identity,
            capabilities=options.capabilities(),
            prompt_tokens=lambda request: backend.count_tokens(prompt_text(request)),
            count_tokens=backend.count_tokens,
            counted="as words",
            habits=_habits(stored, backend.identity),
        )
    identity = openai_identity(options) if isinstance(options, OpenAIOptions) else f"{options.backend}:?"
    habits = _habits(stored, identity)
    if tokenizer is not None:
        texts = _texts(tokenizer, None, False)
        count: Callable[[Request], int] = lambda request: _named(texts, request)  # noqa: E731
        counted = f"by the tokenizer of {tokenizer}"
    else:
        per_token = habits.characters_per_token or CHARACTERS_PER_TOKEN
        count = lambda request: round(_length(request) / per_token)  # noqa: E731
        counted = f"estimated at {per_token:.2f} characters per token, " + (
            f"as in {habits.n_replies:,} of its stored replies"
            if habits.characters_per_token
            else "usual in English"
        )
    return UnopenedModel(
        identity=identity,
        capabilities=options.capabilities(),
        prompt_tokens=count,
        count_tokens=lambda text: None,
        counted=counted,
        habits=habits,
    )


def local_identity(options: LocalOptions) -> str:
    """The identity `LocalBackend` gives itself; reads the model's configuration, not its weights."""
    from autointerp.llm.local import _device, _max_context
    from autointerp.weights import fingerprint, load_model_config

    dtype = options.dtype
    if dtype == "auto":
        dtype = "float32" if _device(options.device) == "cpu" else "bfloat16"
    config = load_model_config(options.model, options.revision, trust_remote_code=options.trust_remote_code)
    longest = _max_context(SimpleNamespace(config=config), options.max_context)
    return f"local:{digest([fingerprint(options.model, options.revision), dtype, longest])}"


def pieces(text: str) -> list[str]:
    """A text cut into words and signs that join to it again: stands in for tokens."""
    return _PIECE.findall(text)


def _habits(stored: StoredReplies | None, identity: str) -> Habits:
    return Habits() if stored is None else stored.habits(identity)


@lru_cache(maxsize=4)
def _texts(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    from autointerp.llm.local_text import Texts
    from autointerp.weights import load_tokenizer

    return Texts(load_tokenizer(name, revision, trust_remote_code=trust_remote_code), str(Path(name)))


def _exact(texts: Any, request: Request) -> int:
    """Tokens as the `local` backend counts them."""
    n = len(texts.prompt_ids(request))
    return n if request.continuation is None else n + len(texts.continuation_ids(request.continuation))


def _named(texts: Any, request: Request) -> int:
    """Tokens by another model's tokenizer: its chat template may not be the server's."""
    n_messages = len(request.messages or ())
    text = prompt_text(request) + (request.continuation or "")
    return int(texts.count(text)) + _TOKENS_PER_MESSAGE * n_messages


def _length(request: Request) -> int:
    texts = [m.content for m in request.messages or ()]
    return sum(map(len, texts)) + len(request.prompt or "") + len(request.continuation or "")
