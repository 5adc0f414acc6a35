"""The `vllm` backend: vLLM's engine in this process, given as much work at once as there is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autointerp.errors import ModelUnavailableError, UserError
from autointerp.llm.local_text import Texts
from autointerp.llm.options import VllmOptions
from autointerp.llm.types import Capability, ErrorKind, OnReply, Reply, Request
from autointerp.llm.vllm_wire import (
    Asked,
    engine_fields,
    generated_reply,
    sampling_fields,
    scored_reply,
    unasked_reply,
    vllm_identity,
)
from autointerp.weights import load_tokenizer, resolve

log = logging.getLogger(__name__)

MOST_LOGPROBS = 100
"""Most alternatives a request may ask for at one position."""

_ORDERED_AT_ONCE = 4096
_RUNNING_AT_ONCE = 2048
_QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True, kw_only=True)
class _Running:
    asked: Asked
    cached: bool
    """Whether the engine may use what it holds of the prompt."""


class VllmBackend:
    """Generation, likelihoods and prompt log-probabilities of one model under vLLM.

    Prompts are tokenised as the `local` backend does, in particular prompt and continuation apart, and
    given to the engine as tokens, in the order of their tokens, so that requests which begin alike
    follow one another and find each other's beginning in vLLM's prefix cache. A reply is handed on as
    soon as the engine has finished it. A request the engine refuses becomes an error reply. Costs are 0.

    Raises `UserError` for a model that cannot be found, and `ModelUnavailableError` if the engine does
    not start or has died.
    """

    def __init__(self, options: VllmOptions) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import vllm

        self.options = options
        self.capabilities: frozenset[Capability] = options.capabilities()
        source = resolve(options.model)
        tokenizer = load_tokenizer(
            options.model, options.revision, trust_remote_code=options.trust_remote_code
        )
        self.texts = Texts(tokenizer, options.model)
        self.identity = vllm_identity(options)
        self._engine = _start(vllm, options, source)
        self.max_model_len = int(self._engine.model_config.max_model_len)
        self._n_added = 0
        self._seconds = 0.0
        self._cache_scores = options.prefix_cache

    def __repr__(self) -> str:
        return f"VllmBackend({self.options.model!r})"

    def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        """Answer every request; see `autointerp.llm.types.Backend.complete`."""
        todo = self._todo(requests, on_reply)
        running: dict[str, _Running] = {}
        try:
            while True:
                while len(running) < _RUNNING_AT_ONCE and (asked := next(todo, None)) is not None:
                    self._add(asked, running, on_reply, cached=self._cache_scores)
                if not running:
                    return
                self._step(running, on_reply)
        finally:
            if running and self._engine is not None:
                with suppress(Exception):  # an engine that has died with the interruption
                    self._engine.abort_request(list(running))

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special tokens not counted."""
        return self.texts.count(text)

    def close(self) -> None:
        """Stop the engine and free its memory."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.engine_core.shutdown()

    def _todo(self, requests: Sequence[Request], on_reply: OnReply) -> Iterator[Asked]:
        """The requests for the engine, ordered by their tokens; those that need none are answered."""
        for start in range(0, len(requests), _ORDERED_AT_ONCE):
            prompts: dict[Any, list[int]] = {}
            group = []
            for index in range(start, min(start + _ORDERED_AT_ONCE, len(requests))):
                asked = self._asked(index, requests[index], prompts)
                reply = self._without_engine(asked)
                if reply is None:
                    group.append(asked)
                else:
                    on_reply(index, reply)
            yield from sorted(group, key=lambda asked: asked.ids)

    def _asked(self, index: int, request: Request, prompts: dict[Any, list[int]]) -> Asked:
        key = request.prompt if request.messages is None else request.messages
        if key not in prompts:
            prompts[key] = self.texts.prompt_ids(request)
        ids = prompts[key]
        room = max(1, min(request.max_tokens, self.max_model_len - len(ids)))
        if request.continuation is not None:
            continuation = self.texts.continuation_ids(request.continuation)
            return Asked(index=index, request=request, ids=ids + continuation, first=len(ids), max_new=1)
        first = 1 if request.prompt_top_logprobs else None
        return Asked(index=index, request=request, ids=ids, first=first, max_new=room)

    def _without_engine(self, asked: Asked) -> Reply | None:
        if len(asked.ids) >= self.max_model_len:  # the engine always generates one token
            message = f"{len(asked.ids)} tokens where the engine takes {self.max_model_len - 1}"
            return self._error(ErrorKind.TOO_LONG, message)
        if asked.first is not None and not asked.n_scored:
            return unasked_reply(asked, self.texts, self.options.model)
        return None

    def _add(self, asked: Asked, running: dict[str, _Running], on_reply: OnReply, *, cached: bool) -> None:
        """Give the engine one request; what it refuses at once is an error reply."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        self._n_added += 1
        name = str(self._n_added)
        fields = sampling_fields(asked, prefix_cache=cached)
        schema = asked.request.json_schema
        try:
            if schema is not None and asked.first is None:
                fields["structured_outputs"] = StructuredOutputsParams(json=dict(schema))
            params = SamplingParams(**fields, output_kind=RequestOutputKind.FINAL_ONLY)
            (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": asked.ids}])
            self._engine.add_request(name, prompt, params)
        except Exception as error:
            if _is_dead(error):
                raise self._dead(error) from error
            on_reply(
                asked.index, self._error(ErrorKind.BAD_REQUEST, f"vLLM refuses it: {_first_line(error)}")
            )
            return
        running[name] = _Running(asked=asked, cached=cached)

    def _step(self, running: dict[str, _Running], on_reply: OnReply) -> None:
        """One step of the engine: a forward pass of what it has chosen to run."""
        begun = time.perf_counter()
        try:
            outputs = [output for output in self._engine.step() if output.finished]
        except Exception as error:
            raise self._dead(error) from error
        seconds = time.perf_counter() - begun
        self._seconds += seconds
        if not outputs:
            return
        share, self._seconds = self._seconds / len(outputs), 0.0
        for output in outputs:
            entry = running.pop(output.request_id, None)
            if entry is not None:
                self._finish(entry, output, share, running, on_reply)

    def _finish(
        self, entry: _Running, output: Any, seconds: float, running: dict[str, _Running], on_reply: OnReply
    ) -> None:
        asked, model = entry.asked, self.options.model
        if asked.first is None:
            on_reply(asked.index, generated_reply(asked, output, self.texts, model, seconds))
            return
        reply = scored_reply(asked, output, self.texts, model, seconds)
        if reply is None and entry.cached and asked.request.continuation is not None:
            self._add(asked, running, on_reply, cached=False)
            return
        if reply is None:
            reply = self._error(ErrorKind.MALFORMED, "vLLM gave no log-probabilities of the tokens asked")
        on_reply(asked.index, reply)

    def _error(self, kind: ErrorKind, message: str) -> Reply:
        return Reply(error=kind, error_message=message, model=self.options.model)

    def _dead(self, error: Exception) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"model {self.options.model!r}: vLLM's engine stopped ({_first_line(error)}); its own lines above say "
            "why; every reply received until then is stored"
        )


def _start(vllm: Any, options: VllmOptions, source: str) -> Any:
    """The engine. Raises `UserError` for arguments it does not have, `ModelUnavailableError` for the rest."""
    fields = engine_fields(options, source, MOST_LOGPROBS)
    try:
        arguments = vllm.EngineArgs(**fields)
    except TypeError as error:
        raise UserError(f"engine: vLLM {vllm.__version__} does not take these arguments: {error}") from None
    try:
        return vllm.LLMEngine.from_engine_args(arguments)
    except Exception as error:  # every kind of error can come out of a start
        raise ModelUnavailableError(
            f"model {options.model!r}: vLLM {vllm.__version__} does not start: {_first_line(error)} "
            "(its own lines above may say more)"
        ) from error


def _is_dead(error: Exception) -> bool:
    return type(error).__name__ == "EngineDeadError"


def _first_line(error: BaseException) -> str:
    """What an exception says, on one line; of pydantic's, the first mistake it lists."""
    text = str(error)
    listed = getattr(error, "errors", None)
    if callable(listed) and (mistakes := listed()):
        text = str(mistakes[0].get("msg", text)).removeprefix("Value error, ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
