"""Models are checked, and told apart, before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm.registry import BACKENDS, capabilities_of, open_backend, parse_model, require
from autointerp.llm.types import Backend, Capability, Request


def test_import_is_light() -> None:
    code = (
        "import sys, autointerp.llm.registry as r; "
        "r.capabilities_of(r.parse_model({'backend': 'local', 'model': 'x'})); "
        "print([m for m in ('torch', 'openai', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "models.judge: missing.*canned, local, openai"),
        ({"model": "x"}, "models.judge.backend: missing"),
        ({"backend": "opnai", "model": "x"}, "models.judge.backend: seen 'opnai'.*'openai'"),
        ({"backend": "openai"}, "models.judge.model: missing"),
        ({"backend": "local", "model": "x", "devise": "cpu"}, "models.judge.devise: unknown key.*'device'"),
        ({"backend": "local", "model": "x", "dtype": "int8"}, "models.judge.dtype: seen 'int8'"),
        ({"backend": "openai", "model": "x", "base_url": "localhost:8000"}, "base_url must be like"),
        ({"backend": "openai", "model": "x", "base_url": "http://a:b@c/v1"}, "no user name or password"),
        ({"backend": "openai", "model": "x", "supports": ["likelyhood"]}, "models.judge.supports: seen"),
        ({"backend": "openai", "model": "x", "timeout_seconds": 0}, "models.judge.timeout_seconds"),
    ],
)
def test_mistakes_are_told(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_model(table)


def test_capabilities_without_loading() -> None:
    def of(**table: Any) -> frozenset[Capability]:
        return capabilities_of(parse_model({"model": "x", **table}))

    assert Capability.LIKELIHOOD in of(backend="local")
    assert Capability.JSON_SCHEMA not in of(backend="local")
    assert Capability.LIKELIHOOD not in of(backend="openai")
    assert Capability.LIKELIHOOD in of(backend="openai", api="completions")
    assert of(backend="openai", api="both") == frozenset(Capability)
    assert of(backend="openai", supports=["generate"]) == {Capability.GENERATE}


def test_what_a_scorer_needs() -> None:
    chat = {"backend": "openai", "model": "x"}
    require(chat, {Capability.GENERATE}, "scorer 'detection'", "models.judge")
    require({}, frozenset(), "scorer 'random'", "models.judge")
    require(frozenset(Capability), {Capability.LIKELIHOOD}, "scorer 's'", "models.judge")
    with pytest.raises(
        UserError, match=r"scorer 'simulation' needs prompt_logprobs.*backends.*canned, local"
    ):
        require(chat, {Capability.PROMPT_LOGPROBS}, "scorer 'simulation'", "models.judge")
    with pytest.raises(UserError, match=r"models.judge: missing, and scorer 's' needs .* generate"):
        require({}, {Capability.GENERATE}, "scorer 's'", "models.judge")


def test_fingerprints_follow_results_only() -> None:
    def of(**table: Any) -> str:
        return parse_model({"backend": "openai", "model": "x", **table}).fingerprint()

    assert of() == of(max_concurrency=2, base_url="http://localhost:1/v1", api_key_env="OTHER")
    assert of() != of(extra_body={"top_k": 2})


def test_canned_through_the_registry(tmp_path: Path) -> None:
    rules = tmp_path / "rules.jsonl"
    rules.write_text('{"contains": "cat", "text": "animal"}\n\n{"contains": "red", "text": "color"}\n')
    table = {"backend": "canned", "model": "any", "rules": str(rules), "default_text": "none"}
    backend = open_backend(parse_model(table))
    assert isinstance(backend, Backend)
    texts: list[str | None] = []
    prompts = ["a red cat", "red", "tree"]
    backend.complete([Request(prompt=p) for p in prompts], lambda _, reply: texts.append(reply.text))
    assert texts == ["animal", "color", "none"]
    rules.write_text("{")
    with pytest.raises(UserError, match="line 1"):
        open_backend(parse_model(table))
    with pytest.raises(UserError, match="cannot read"):
        open_backend(parse_model({**table, "rules": str(tmp_path / "missing")}))


def test_canned_log_probabilities_are_the_same_each_time() -> None:
    backend = open_backend(parse_model({"backend": "canned"}))
    asked = Request(prompt="one two", continuation=" three four")
    replies: list[float] = []
    backend.complete([asked, asked], lambda _, reply: replies.append(reply.logprob))
    assert replies[0] == replies[1] < 0


def test_every_backend_is_described() -> None:
    for name, spec in BACKENDS.items():
        assert spec.options.model_fields["backend"].default == name


def test_batches_cannot_do_what_needs_the_prompts_log_probabilities() -> None:
    table = {"backend": "openai_batch", "model": "gpt-5.4-mini"}
    require(
        table,
        {Capability.GENERATE, Capability.JSON_SCHEMA, Capability.TOP_LOGPROBS},
        "scorer 'x'",
        "models.judge",
    )
    with pytest.raises(
        UserError, match=r"needs likelihood, which models.judge \(backend 'openai_batch'\) lacks"
    ) as caught:
        require(table, {Capability.LIKELIHOOD}, "scorer 'x'", "models.judge")
    assert "openai_batch" not in str(caught.value).split("backends that have it")[1].split(";")[0]
