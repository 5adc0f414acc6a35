"""The `local` backend: a model of transformers in this process, on the CPU or one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autointerp.config import digest
from autointerp.llm.local_generate import Generator, Ongoing, end_tokens, named
from autointerp.llm.local_likelihood import Given, Runner, Scored, score
from autointerp.llm.local_plain import PlainRunner
from autointerp.llm.local_schema import Schemas
from autointerp.llm.local_text import Texts
from autointerp.llm.local_tree import TreeRunner, packs_well
from autointerp.llm.options import LocalOptions
from autointerp.llm.types import (
    Capability,
    ErrorKind,
    OnReply,
    Reply,
    Request,
    TokenLogprob,
    Usage,
)
from autointerp.weights import fingerprint, load_causal_lm

_FORWARD_TOKENS_CPU = 512
_FORWARD_TOKENS_GPU = 4096
_REQUESTS_AT_ONCE = 4096


class LocalBackend:
    """Generation, likelihoods and prompt log-probabilities of one transformers model.

    Requests are grouped by what their tokens begin with, and each distinct beginning is computed
    once (`autointerp.llm.local_tree`). Costs are 0. `identity` holds the weights' fingerprint,
    the arithmetic and `max_context`. `json_schema` is left to the prompt, unless `hold_to_schema` is set.

    Raises `UserError` for a model or device that cannot be used.
    """

    def __init__(self, options: LocalOptions) -> None:
        import torch

        self.options = options
        device, dtype = _device(options.device), options.dtype
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "bfloat16"
        self.model: Any
        self.model, tokenizer = load_causal_lm(
            options.model,
            device=device,
            dtype=dtype,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )
        self.texts = Texts(tokenizer, options.model)
        self.capabilities: frozenset[Capability] = options.capabilities()
        weights = fingerprint(options.model, options.revision)
        self.max_context = _max_context(self.model, options.max_context)
        told = [weights, dtype, self.max_context]
        self.identity = f"local:{digest([*told, 'held'] if options.hold_to_schema else told)}"
        self.schemas: Schemas | None = None
        if options.hold_to_schema:
            vocabulary = int(self.model.config.get_text_config().vocab_size)
            self.schemas = Schemas(tokenizer, vocabulary, end_tokens(self.model, tokenizer))
        self.max_forward_tokens = options.max_forward_tokens or (
            _FORWARD_TOKENS_CPU if torch.device(device).type == "cpu" else _FORWARD_TOKENS_GPU
        )
        self.packs = packs_well(self.model)
        self._window = _attention_window(self.model)

    def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        """Answer every request; see `autointerp.llm.types.Backend.complete`."""
        for start in range(0, len(requests), _REQUESTS_AT_ONCE):
            part = requests[start : start + _REQUESTS_AT_ONCE]
            self._complete(part, lambda index, reply, at=start: on_reply(at + index, reply))  # type: ignore[misc]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special tokens not counted."""
        return self.texts.count(text)

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        generated: list[Ongoing] = []
        given: dict[int, Given] = {}
        prompts: dict[Any, list[int]] = {}
        for index, request in enumerate(requests):
            key = request.prompt if request.messages is None else request.messages
            if key not in prompts:
                prompts[key] = self.texts.prompt_ids(request)
            ids = prompts[key]
            if request.continuation is not None:
                item = Given(ids=ids + self.texts.continuation_ids(request.continuation), first=len(ids))
            elif request.prompt_top_logprobs:
                item = Given(ids=ids, first=1, n_top=request.prompt_top_logprobs)
            elif (unheld := self._unheld(request)) is not None:
                on_reply(index, unheld)
                continue
            elif len(ids) < self.max_context:
                room = min(request.max_tokens, self.max_context - len(ids))
                generated.append(Ongoing(index=index, request=request, ids=ids, max_new=max(room, 1)))
                continue
            else:
                item = Given(ids=[*ids, 0], first=1)
            if len(item.ids) > self.max_context:
                on_reply(index, self._too_long(len(item.ids)))
            else:
                given[index] = item
        self._score(given, on_reply)
        if generated:
            longest = max(len(s.ids) + s.max_new for s in generated)
            runner = (
                TreeRunner(self.model, self.max_forward_tokens)
                if self.packs and self._fits(longest)
                else None
            )
            Generator(
                self.model,
                self.texts,
                runner,
                self.options.max_batch_tokens,
                self.options.model,
                self.schemas,
            ).generate(generated, on_reply)

    def _score(self, given: dict[int, Given], on_reply: OnReply) -> None:
        if not given:
            return
        indices, items = list(given), list(given.values())
        share = self.options.prefix_cache and self.packs and self._fits(max(len(i.ids) for i in items))
        runner: Runner = (TreeRunner if share else PlainRunner)(self.model, self.max_forward_tokens)

        def on_scored(at: int, scored: Scored) -> None:
            on_reply(indices[at], self._scored_reply(items[at], scored))

        score(runner, items, on_scored, share)

    def _scored_reply(self, item: Given, scored: Scored) -> Reply:
        tokens = [
            TokenLogprob(
                text=self.texts.token_text(token),
                logprob=float(logprob),
                top=named(self.texts, ids.tolist(), values.tolist()),
            )
            for token, logprob, ids, values in zip(
                item.ids[item.first :], scored.logprobs, scored.top_ids, scored.top_logprobs, strict=True
            )
        ]
        if item.n_top:
            tokens.insert(0, TokenLogprob(text=self.texts.token_text(item.ids[0]), logprob=None))
        n_read = max(len(item.ids) - 1, 1)  # the last token is only predicted, never read
        usage = Usage(
            prompt_tokens=len(item.ids),
            completion_tokens=0,
            cached_tokens=n_read - scored.n_computed,
            cost_usd=0.0,
            seconds=scored.seconds,
        )
        return Reply(tokens=tuple(tokens), usage=usage, model=self.options.model)

    def _unheld(self, request: Request) -> Reply | None:
        """The error of a request whose JSON schema cannot be compiled."""
        if self.schemas is None or request.json_schema is None:
            return None
        try:
            self.schemas.held(request.json_schema)
        except ValueError as error:
            message = f"the JSON schema cannot be used: {error}"
            return Reply(error=ErrorKind.BAD_REQUEST, error_message=message, model=self.options.model)
        return None

    def _too_long(self, n: int) -> Reply:
        message = f"{n} tokens where the model takes {self.max_context}"
        return Reply(error=ErrorKind.TOO_LONG, error_message=message, model=self.options.model)

    def _fits(self, n_tokens: int) -> bool:
        """Whether attention sees all of a sequence, so that a plain mask says the truth."""
        return self._window is None or n_tokens <= self._window


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _max_context(model: Any, configured: int | None) -> int:
    config = model.config.get_text_config()
    limit = (
        getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20
    )
    return int(limit if configured is None else min(limit, configured))


def _attention_window(model: Any) -> int | None:
    """The narrowest window of the model's attention layers, in tokens; None if they see everything."""
    config = model.config.get_text_config()
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(config, "use_sliding_window", None) is False:
        sizes = sizes[1:]
    found = [int(size) for size in sizes if size]
    return min(found) if found else None
