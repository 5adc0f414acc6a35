"""Between `Request`/`Reply` and vLLM's sampling parameters and outputs.

Nothing of vLLM is imported: its objects are read by their documented attributes, so that the same
functions are tried with stand-ins where it is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autointerp.config import digest
from autointerp.llm.local_text import Texts
from autointerp.llm.openai_wire import _without_thought
from autointerp.llm.options import VllmOptions
from autointerp.llm.types import ErrorKind, Reply, Request, TokenLogprob, Usage


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as the engine sees it."""

    index: int
    """Of the request in its call."""
    request: Request
    ids: list[int]
    """Tokens of the prompt, and of the continuation if there is one."""
    first: int | None
    """Where the tokens to be scored begin, at least 1; None to generate."""
    max_new: int
    """Most tokens to generate; 1 where tokens are scored, since the engine always generates."""

    @property
    def n_scored(self) -> int:
        """How many tokens of `ids` are to be scored."""
        return 0 if self.first is None else len(self.ids) - self.first


def vllm_dtype(options: VllmOptions) -> str:
    """The arithmetic: as configured, else float32 on a CPU and bfloat16 on a GPU."""
    if options.dtype != "auto":
        return options.dtype
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


def vllm_identity(options: VllmOptions) -> str:
    """The identity `VllmBackend` gives itself; no weights are read."""
    from autointerp.weights import fingerprint

    weights = fingerprint(options.model, options.revision)
    told = [weights, vllm_dtype(options), options.quantization, options.max_model_len, options.engine]
    return f"vllm:{digest(told)}"


def engine_fields(options: VllmOptions, source: str, max_logprobs: int) -> dict[str, Any]:
    """Arguments of vLLM's `EngineArgs`; what is not set is left to vLLM.

    `source` is the folder or hub name of the weights.
    """
    gib = options.kv_cache_gib
    fields: dict[str, Any] = {
        "model": source,
        "revision": options.revision,
        "trust_remote_code": options.trust_remote_code,
        "dtype": vllm_dtype(options),
        "quantization": options.quantization,
        "max_model_len": options.max_model_len,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "kv_cache_memory_bytes": None if gib is None else int(gib * 2**30),
        "block_size": options.block_size,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "enforce_eager": options.enforce_eager,
        "enable_prefix_caching": options.prefix_cache,
        "max_logprobs": max_logprobs,
        "disable_log_stats": True,
    }
    return {name: value for name, value in fields.items() if value is not None} | dict(options.engine)


def sampling_fields(asked: Asked, *, prefix_cache: bool) -> dict[str, Any]:
    """Arguments of vLLM's `SamplingParams`, but for `json_schema`.

    With `prefix_cache`, a continuation is scored on top of keys and values that are held already:
    vLLM then has no log-probabilities of the tokens before it, and none are asked.
    """
    request = asked.request
    if asked.first is not None:
        fields: dict[str, Any] = {
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": request.prompt_top_logprobs,
            "flat_logprobs": True,
            "detokenize": False,
        }
        if prefix_cache and request.continuation is not None:
            fields["skip_reading_prefix_cache"] = False
        return fields
    fields = {"max_tokens": asked.max_new, "temperature": request.temperature}
    if request.temperature > 0:
        fields["top_p"] = request.top_p
        fields["seed"] = int(request.key("")[:15], 16) if request.seed is None else request.seed
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.top_logprobs:
        fields["logprobs"] = request.top_logprobs
    return fields


def generated_reply(asked: Asked, output: Any, texts: Texts, name: str, seconds: float) -> Reply:
    """The reply in a finished `RequestOutput` of a request that generates."""
    usage = Usage(
        prompt_tokens=len(asked.ids),
        completion_tokens=len(output.outputs[0].token_ids) if output.outputs else 0,
        cached_tokens=output.num_cached_tokens,
        cost_usd=0.0,
        seconds=seconds,
    )
    failed = failure(output)
    if failed is not None:
        return Reply(error=ErrorKind.SERVER, error_message=failed, usage=usage, model=name)
    answer = output.outputs[0]
    token_ids = list(answer.token_ids)
    if answer.finish_reason == "stop" and not isinstance(answer.stop_reason, str):
        token_ids = token_ids[:-1]  # the token that ends a reply is no part of it
    tokens: list[TokenLogprob] = []
    if asked.request.top_logprobs:
        tokens = [
            _token(texts, token, dict(row), asked.request.top_logprobs)
            for token, row in zip(token_ids, answer.logprobs or (), strict=False)
        ]
        if len(tokens) < len(token_ids):
            message = "vLLM gave no log-probabilities of the generated tokens"
            return Reply(error=ErrorKind.MALFORMED, error_message=message, usage=usage, model=name)
    if isinstance(answer.stop_reason, str):
        tokens = _before(tokens, answer.text)
    text, kept = _without_thought(answer.text, tuple(tokens))
    if len(text) < len(answer.text):
        thought = answer.text[: len(answer.text) - len(text)]
        usage = replace(usage, reasoning_tokens=texts.count(thought))
    return Reply(text=text, finish_reason=answer.finish_reason, tokens=kept, usage=usage, model=name)


def scored_reply(asked: Asked, output: Any, texts: Texts, name: str, seconds: float) -> Reply | None:
    """The reply in a finished `RequestOutput` of a request whose tokens are scored.

    None if its log-probabilities are not those of the tokens asked: vLLM had computed some of them
    before and kept only keys and values, so that it must be asked again without its cache.
    """
    failed = failure(output)
    n_cached = output.num_cached_tokens or 0
    usage = Usage(
        prompt_tokens=len(asked.ids),
        completion_tokens=0,
        cached_tokens=n_cached,
        cost_usd=0.0,
        seconds=seconds,
    )
    if failed is not None:
        return Reply(error=ErrorKind.SERVER, error_message=failed, usage=usage, model=name)
    assert asked.first is not None
    n, rows = asked.n_scored, output.prompt_logprobs
    # A token is predicted where the one before it is computed, so that one must not come from the cache.
    if rows is None or len(rows) < n or n_cached >= asked.first:
        return None
    scored: list[TokenLogprob] = []
    for at, token in zip(range(len(rows) - n, len(rows)), asked.ids[asked.first :], strict=True):
        row = rows[at]
        if not row or token not in row or not math.isfinite(row[token].logprob):
            return None
        scored.append(_token(texts, token, row, asked.request.prompt_top_logprobs))
    return Reply(tokens=first_token(asked, texts) + tuple(scored), usage=usage, model=name)


def unasked_reply(asked: Asked, texts: Texts, name: str) -> Reply:
    """The reply where there is nothing to score: an empty continuation, or a prompt of one token."""
    usage = Usage(prompt_tokens=len(asked.ids), completion_tokens=0, cost_usd=0.0, seconds=0.0)
    return Reply(tokens=first_token(asked, texts), usage=usage, model=name)


def first_token(asked: Asked, texts: Texts) -> tuple[TokenLogprob, ...]:
    """The prompt's first token, which nothing predicts, where all of the prompt is asked."""
    if asked.request.continuation is not None:
        return ()
    return (TokenLogprob(text=texts.token_text(asked.ids[0]), logprob=None),)


def failure(output: Any) -> str | None:
    """Why the engine gave up on a request; None if it did not."""
    answer = output.outputs[0] if output.outputs else None
    if answer is not None and answer.finish_reason not in ("error", "abort"):
        return None
    told = getattr(getattr(output, "error", None), "message", None)
    reason = "ended without output" if answer is None else f"ended with {answer.finish_reason!r}"
    return f"vLLM: {told or reason}"


def _token(texts: Texts, token: int, row: Mapping[int, Any], n_top: int) -> TokenLogprob:
    """One token of a position's log-probabilities, with the best `n_top` alternatives, best first."""
    best: Sequence[tuple[float, int]] = sorted(((-p.logprob, t) for t, p in row.items()))[:n_top]
    top: dict[str, float] = {}
    for negative, other in best:
        top.setdefault(texts.token_text(other), -negative)
    return TokenLogprob(text=texts.token_text(token), logprob=float(row[token].logprob), top=top)


def _before(tokens: list[TokenLogprob], text: str) -> list[TokenLogprob]:
    """The tokens that begin inside a text that was cut at a stop string."""
    kept, length = [], 0
    for token in tokens:
        if length >= len(text):
            break
        kept.append(token)
        length += len(token.text)
    return kept
