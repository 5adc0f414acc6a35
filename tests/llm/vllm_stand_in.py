"""A stand-in for the few parts of vLLM that the backend calls, on top of a transformers model.

It keeps vLLM's habits that matter: whole blocks of tokens are found in a prefix cache, also those of a
request of the same step; a request that asks for log-probabilities of its prompt skips the cache unless told
otherwise, and if told, has none of the tokens found there: rows of nonsense (first model runner) or no rows
(second model runner).
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field, TypeAdapter

BLOCK = 8
END = 1


class EngineDeadError(Exception):
    """As vLLM calls it."""


@dataclass(kw_only=True)
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_reading_prefix_cache: bool | None = None
    structured_outputs: Any = None
    output_kind: Any = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be non-negative, got {self.temperature}.")
        if self.skip_reading_prefix_cache is None:
            self.skip_reading_prefix_cache = self.prompt_logprobs is not None


@dataclass(kw_only=True)
class StructuredOutputsParams:
    json: dict[str, Any]


class Engine:
    """`vllm.LLMEngine`; `per_step` requests are finished by each step, in order."""

    def __init__(self, model: Any, tokenizer: Any, arguments: dict[str, Any], second_runner: bool) -> None:
        self.model, self.tokenizer, self.arguments = model, tokenizer, arguments
        self.second_runner = second_runner
        self.model_config = SimpleNamespace(max_model_len=arguments.get("max_model_len", 256))
        self.renderer = SimpleNamespace(render_cmpl=list)
        self.engine_core = SimpleNamespace(shutdown=lambda: setattr(self, "closed", True))
        self.closed = False
        self.blocks: set[tuple[int, ...]] = set()
        self.waiting: list[tuple[str, list[int], SamplingParams]] = []
        self.added: list[tuple[list[int], SamplingParams]] = []
        self.aborted: list[str] = []
        self.per_step = 3
        self.steps_before_death: int | None = None
        self.most_waiting = 0

    def add_request(self, name: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        self.waiting.append((name, list(prompt["prompt_token_ids"]), params))
        self.added.append((list(prompt["prompt_token_ids"]), params))
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return name

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        self.waiting = [entry for entry in self.waiting if entry[0] not in names]

    def step(self) -> list[Any]:
        if self.steps_before_death == 0:
            raise EngineDeadError("EngineCore encountered an issue.\nSee stack trace (above).")
        if self.steps_before_death is not None:
            self.steps_before_death -= 1
        now, self.waiting = self.waiting[: self.per_step], self.waiting[self.per_step :]
        return [self._finish(*entry) for entry in now]

    def _finish(self, name: str, ids: list[int], params: SamplingParams) -> Any:
        n_cached = 0
        whole = [tuple(ids[:end]) for end in range(BLOCK, len(ids) + 1, BLOCK)]
        if self.arguments["enable_prefix_caching"]:
            if not params.skip_reading_prefix_cache:
                n_cached = max((len(b) for b in whole if b in self.blocks and len(b) < len(ids)), default=0)
            self.blocks |= set(whole)
        return SimpleNamespace(
            request_id=name,
            finished=True,
            num_cached_tokens=n_cached,
            prompt_logprobs=self._prompt_rows(ids, params, n_cached),
            outputs=[self._generate(ids, params)],
        )

    def _logprobs(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), dim=-1)

    def _prompt_rows(self, ids: list[int], params: SamplingParams, n_cached: int) -> Any:
        if params.prompt_logprobs is None:
            return None
        values = self._logprobs(ids)
        rows: list[Any] = [None]
        for at in range(len(ids) - 1):
            if at >= n_cached:
                rows.append(_row(values[at], ids[at + 1], params.prompt_logprobs))
            elif not self.second_runner:
                rows.append({random.getrandbits(62): SimpleNamespace(logprob=random.uniform(-9, 9))})
        return rows

    def _generate(self, ids: list[int], params: SamplingParams) -> Any:
        tokens: list[int] = []
        rows: list[Any] = []
        finish, stop_reason, text = "length", None, ""
        while len(tokens) < params.max_tokens:
            values = self._logprobs(ids + tokens)[-1]
            token = int(values.argmax())
            tokens.append(token)
            if params.logprobs is not None:
                rows.append(_row(values, token, params.logprobs))
            if token == END:
                finish = "stop"
                break
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            found = [stop for stop in params.stop or () if stop in text]
            if found:
                finish, stop_reason, text = "stop", found[0], text[: text.index(found[0])]
                break
        return SimpleNamespace(
            text=text, token_ids=tokens, logprobs=rows or None, finish_reason=finish, stop_reason=stop_reason
        )


def _row(values: torch.Tensor, token: int, n: int) -> dict[int, Any]:
    best = values.topk(n).indices.tolist() if n else []
    return {t: SimpleNamespace(logprob=float(values[t])) for t in [token, *best]}


def install(monkeypatch: pytest.MonkeyPatch, *, second_runner: bool = False) -> list[Engine]:
    """Puts the stand-in in place of vLLM; the engines that are started are in the list."""
    engines: list[Engine] = []
    accepted = {
        "model", "revision", "trust_remote_code", "dtype", "quantization", "max_model_len",
        "tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization", "kv_cache_memory_bytes",
        "block_size", "max_num_seqs", "max_num_batched_tokens", "enforce_eager", "enable_prefix_caching",
        "max_logprobs", "disable_log_stats", "swap_space",
    }  # fmt: skip

    def engine_args(**fields: Any) -> dict[str, Any]:
        unknown = sorted(set(fields) - accepted)
        if unknown:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {unknown[0]!r}")
        return fields

    def start(arguments: dict[str, Any]) -> Engine:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if arguments.get("max_model_len", 0) > 1_000_000:
            TypeAdapter(Annotated[int, Field(le=1_000_000)]).validate_python(arguments["max_model_len"])
        if arguments["tensor_parallel_size"] > 1:
            raise RuntimeError("\nEngine core initialization failed. See root cause above.")
        model = AutoModelForCausalLM.from_pretrained(arguments["model"])
        tokenizer = AutoTokenizer.from_pretrained(arguments["model"])
        engines.append(Engine(model, tokenizer, arguments, second_runner))
        return engines[-1]

    top, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    top.__dict__.update(
        __version__="0.0-stand-in",
        EngineArgs=engine_args,
        LLMEngine=SimpleNamespace(from_engine_args=start),
        SamplingParams=SamplingParams,
    )
    params.__dict__.update(
        StructuredOutputsParams=StructuredOutputsParams,
        RequestOutputKind=SimpleNamespace(FINAL_ONLY="final"),
    )
    monkeypatch.setitem(sys.modules, "vllm", top)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return engines
