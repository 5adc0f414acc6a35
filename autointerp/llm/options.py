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

    def capabilities(self) -> frozenset[Capability]:
        """All but `JSON_SCHEMA`."""
        return frozenset(Capability) - {Capability.JSON_SCHEMA}


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
    max_concurrency: Annotated[int, Field(ge=1, le=4096)] = not_a_result(32)
    """Most requests in flight. Halved when the server says 429, then grown again slowly."""
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

    @field_validator("timeout_seconds", "max_retry_wait_seconds", mode="before")
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
