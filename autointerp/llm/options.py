"""Options of each language-model backend: the tables `[models.explainer]` and `[models.judge]`.

Importing this module imports no backend. A field marked `not_a_result` changes speed, cost or
comfort but not the answers, and stays out of fingerprints.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from autointerp.config import Section, not_a_result
from autointerp.llm.types import Capability

OPENAI_URL = "https://api.openai.com/v1"
"""Where the `openai` backend goes when neither `base_url` nor `OPENAI_BASE_URL` is set."""

_CHAT = frozenset({Capability.GENERATE, Capability.TOP_LOGPROBS, Capability.JSON_SCHEMA})
_COMPLETIONS = frozenset(
    {Capability.GENERATE, Capability.TOP_LOGPROBS, Capability.LIKELIHOOD, Capability.PROMPT_LOGPROBS}
)


class BackendOptions(Section):
    """Options every backend has."""

    backend: str
    """Name of the backend, as in `autointerp.llm.registry.BACKENDS`."""
    model: str
    """Name of the model, as the backend understands it."""

    def capabilities(self) -> frozenset[Capability]:
        """What the model will be able to do, told without loading or asking it."""
        return frozenset()


class LocalOptions(BackendOptions):
    """`backend = "local"`: transformers in this process, on the CPU or one GPU."""

    backend: Literal["local"] = "local"
    model: str
    """Hub name, local folder, `.gguf` file, or `package:NAME/FILE` inside an installed package."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    device: str = not_a_result("auto")
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the model; `auto`: float32 on a CPU, bfloat16 on a GPU."""
    trust_remote_code: bool = False
    """Run the Python code of a hub repository. Off unless you trust its author."""
    max_batch_tokens: Annotated[int, Field(ge=64)] = not_a_result(8192)
    """Generation: tokens, prompts and replies together, whose keys and values are held at once."""
    max_forward_tokens: Annotated[int, Field(ge=16)] | None = not_a_result(None)
    """Prompt tokens per forward pass; by default 512 on a CPU and 4096 on a GPU."""
    max_context: Annotated[int, Field(ge=8)] | None = None
    """Longest prompt with its continuation or reply, in tokens; by default the model's own limit."""
    prefix_cache: bool = not_a_result(True)
    """Compute tokens that several requests begin with once."""
    hold_to_schema: bool = False
    """Hold replies to the JSON schema a scorer asks for, token by token, so that those of weak models can be
    read. Needs the package llguidance: `pip install 'autointerp[structured]'`."""

    def capabilities(self) -> frozenset[Capability]:
        """All; `JSON_SCHEMA` only with `hold_to_schema`."""
        return frozenset(Capability) - (set() if self.hold_to_schema else {Capability.JSON_SCHEMA})


class OpenAIOptions(BackendOptions):
    """`backend = "openai"`: any server that speaks OpenAI's HTTP protocol."""

    backend: Literal["openai"] = "openai"
    model: str
    """Name of the model on the server."""
    api: Literal["chat", "completions", "both"] = "chat"
    """Which endpoints are used: `/chat/completions` for chat messages, `/completions` for raw prompts
    and log-probabilities of given text, or both, each for its kind of request."""
    base_url: str | None = not_a_result(None)
    """URL up to and including `/v1`; by default `OPENAI_BASE_URL`, else OpenAI's own."""
    api_key_env: str = not_a_result("OPENAI_API_KEY")
    """Environment variable that holds the key. Servers on this machine need none."""
    revision: str | None = None
    """Any text that tells apart two models served under one name: stored replies are kept apart by it,
    and not by `base_url`, so that a server may move."""
    supports: (
        list[Literal["generate", "top_logprobs", "likelihood", "prompt_logprobs", "json_schema"]] | None
    ) = None
    """What the server can do, where it is not what `api` promises: `chat` is taken to generate, with
    top_logprobs and json_schema; `completions` with top_logprobs, likelihood and prompt_logprobs."""
    system_role: bool | None = None
    """false for models without system messages: they are put before the first user message instead."""
    max_concurrency: Annotated[int, Field(ge=1, le=4096)] = not_a_result(64)
    """Most requests in flight. Their number begins at 16, doubles while the server keeps up, is halved when it
    says 429 or 503 or does not answer in time, then grows again slowly."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = not_a_result(None)
    """Most requests started in a minute, as your account allows; unset: as many as the server takes."""
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = not_a_result(None)
    """Most tokens in a minute, prompts and replies; a reply counts as `max_tokens` until its length is known."""
    transport: Literal["http", "openai"] = not_a_result("http")
    """What carries the requests: `http` (aiohttp), or `openai`, the official client, which takes several times the
    processor time per request and sees the same servers."""
    timeout_seconds: Annotated[float, Field(gt=0)] = not_a_result(120.0)
    """Longest wait for one attempt."""
    max_retries: Annotated[int, Field(ge=0)] = not_a_result(6)
    """Attempts after the first, with exponential back-off and jitter."""
    max_retry_wait_seconds: Annotated[float, Field(gt=0)] = not_a_result(60.0)
    """Longest wait between two attempts, unless the server's Retry-After asks for more."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More fields of each request's JSON body, as the server documents them."""
    omit: list[str] = Field(default_factory=list)
    """Fields never sent, as in `["temperature"]` for models that refuse it."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = not_a_result(None)
    """Name of the limit in chat requests; by default the newer one for OpenAI itself, else the older."""
    continue_final_message: bool | None = not_a_result(None)
    """Send `continue_final_message` and `add_generation_prompt` (vLLM, SGLang) when the last message is
    the assistant's; by default for every server but OpenAI's own."""
    price_prompt_usd_per_million: Annotated[float, Field(ge=0)] | None = not_a_result(None)
    """Price of a million prompt tokens; unset: that of a table of prices, else unknown, never 0."""
    price_completion_usd_per_million: Annotated[float, Field(ge=0)] | None = not_a_result(None)
    """Price of a million generated tokens; unset: that of a table of prices, else unknown, never 0."""

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("base_url must be like 'http://localhost:8000/v1'")
            if parts.username or parts.password:
                raise ValueError("base_url must hold no user name or password; use api_key_env")
        return value

    @field_validator(
        "timeout_seconds",
        "max_retry_wait_seconds",
        "requests_per_minute",
        "tokens_per_minute",
        "poll_seconds",
        mode="before",
        check_fields=False,
    )
    @classmethod
    def _whole_seconds(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value

    @property
    def url(self) -> str:
        """The server's URL, with the environment's default applied."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL

    def capabilities(self) -> frozenset[Capability]:
        """`supports`, else what the endpoints of `api` usually offer."""
        if self.supports is not None:
            return frozenset(Capability(name) for name in self.supports)
        return {"chat": _CHAT, "completions": _COMPLETIONS, "both": _CHAT | _COMPLETIONS}[self.api]


class OpenAIBatchOptions(OpenAIOptions):
    """`backend = "openai_batch"`: OpenAI's Batch API, at half the price and within 24 hours.

    Options that concern single requests in flight (`max_concurrency`, `requests_per_minute`,
    `tokens_per_minute`, `transport`) have no effect. Prices given here are those of batches.
    """

    backend: Literal["openai_batch"] = "openai_batch"  # type: ignore[assignment]
    poll_seconds: Annotated[float, Field(gt=0)] = not_a_result(30.0)
    """How often a batch under way is looked at."""
    max_batch_requests: Annotated[int, Field(ge=1, le=50_000)] = not_a_result(50_000)
    """Most requests of one batch."""
    max_batch_bytes: Annotated[int, Field(ge=1_000, le=200_000_000)] = not_a_result(190_000_000)
    """Largest input file of one batch."""
    resubmit: Annotated[int, Field(ge=0)] = not_a_result(1)
    """How often requests that expired or failed in passing are sent in a new batch before they become error
    rows; they are sent again too when the same command is repeated."""


class VllmOptions(BackendOptions):
    """`backend = "vllm"`: vLLM's engine in this process, on one or several GPUs or a CPU.

    Options carry vLLM's own names where it has them. A server of `vllm serve` is reached with
    `backend = "openai"`.
    """

    backend: Literal["vllm"] = "vllm"
    model: str
    """Hub name, local folder, `.gguf` file (converted once), or `package:NAME/FILE` inside an installed
    package."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the model; `auto`: float32 on a CPU, bfloat16 on a GPU."""
    quantization: str | None = None
    """How the weights are quantised, by vLLM's names (`fp8`, `awq`, ...); by default as the model says."""
    trust_remote_code: bool = False
    """Run the Python code of a hub repository. Off unless you trust its author."""
    max_model_len: Annotated[int, Field(ge=8)] | None = None
    """Longest prompt with its reply, in tokens; by default the model's own limit. Memory grows with it."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = not_a_result(1)
    """GPUs over which each layer is split."""
    pipeline_parallel_size: Annotated[int, Field(ge=1)] = not_a_result(1)
    """Groups of GPUs over which the layers are dealt out."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = not_a_result(None)
    """Share of each GPU's memory for weights, keys and values; by default vLLM's."""
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = not_a_result(None)
    """GiB for keys and values, in place of what `gpu_memory_utilization` leaves. Wanted on a CPU."""
    block_size: Annotated[int, Field(ge=1)] | None = not_a_result(None)
    """Tokens per block of the prefix cache: beginnings are shared in whole blocks. By default vLLM's,
    usually 16, on a CPU 128."""
    max_num_seqs: Annotated[int, Field(ge=1)] | None = not_a_result(None)
    """Most requests computed at once; by default vLLM's."""
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = not_a_result(None)
    """Most tokens of one forward pass; by default vLLM's."""
    enforce_eager: bool = not_a_result(False)
    """Start without compiling the model and without CUDA graphs: sooner, and slower from then on."""
    prefix_cache: bool = not_a_result(True)
    """Compute what several requests begin with once, likelihoods included."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """More arguments of vLLM's `EngineArgs`. They are part of the key of stored replies."""

    @field_validator("engine")
    @classmethod
    def _only_others(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "data_parallel_size" in value:
            raise ValueError("data_parallel_size: not in one process; use `vllm serve` and backend 'openai'")
        own = {*cls.model_fields, "enable_prefix_caching", "kv_cache_memory_bytes"}
        if taken := sorted(own & set(value)):
            raise ValueError(f"{', '.join(taken)}: an option of its own, beside `engine`")
        return value

    def capabilities(self) -> frozenset[Capability]:
        """Everything."""
        return frozenset(Capability)


class CannedOptions(BackendOptions):
    """`backend = "canned"`: fixed replies, for dry runs and tests; asks no model at all."""

    backend: Literal["canned"] = "canned"
    model: str = "canned"
    """Any name; part of the key of stored replies."""
    rules: str | None = None
    """JSONL file of `{"contains": ..., "text": ...}`: the first whose `contains` is in the prompt."""
    default_text: str = "canned reply"
    """Reply where no rule fits."""

    def capabilities(self) -> frozenset[Capability]:
        """Everything (log-probabilities are made up, the same for equal requests)."""
        return frozenset(Capability)
