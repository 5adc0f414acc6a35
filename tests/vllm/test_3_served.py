"""`vllm serve` on this machine, reached through the `openai` backend."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from autointerp.llm.registry import open_backend, parse_model
from autointerp.llm.types import Backend, Message, Request
from tests.vllm.conftest import ENGINE, MODEL
from tests.vllm.test_1_engine import STORY, TOLERANCE_NATS, ask

START_SECONDS = 400


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def server(
    model_folder: Path, tmp_path_factory: pytest.TempPathFactory, measured: list[str]
) -> Iterator[str]:
    port = _free_port()
    script = str(Path(sys.executable).with_name("vllm"))
    words = [
        *(script, "serve", str(model_folder), "--served-model-name", "smollm2-135m-instruct"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", str(ENGINE["max_model_len"]), "--block-size", str(ENGINE["block_size"])),
        *("--kv-cache-memory-bytes", str(2**29)),
    ]
    path = tmp_path_factory.mktemp("serve") / "log.txt"
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    with path.open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while True:
                assert process.poll() is None, path.read_text()[-3_000:]
                assert time.perf_counter() - begun < START_SECONDS, path.read_text()[-3_000:]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                        break
                except OSError:
                    time.sleep(1.0)
            measured.append(f"vllm serve: ready in {time.perf_counter() - begun:.0f} s")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def backend(server: str) -> Iterator[Backend]:
    table = {"backend": "openai", "api": "both", "model": "smollm2-135m-instruct", "base_url": server}
    opened = open_backend(parse_model({**table, "timeout_seconds": 300}))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def local() -> Iterator[Backend]:
    backend = open_backend(parse_model({"backend": "local", "model": MODEL, "device": "cpu"}))
    yield backend
    backend.close()


def test_chat_with_log_probabilities(backend: Backend, local: Backend) -> None:
    asked = (Message(role="user", content="What is the capital of Italy?"),)
    request = Request(messages=asked, max_tokens=8, top_logprobs=5)
    (ours,), (theirs,) = ask(backend, [request])[0], ask(local, [request])[0]
    assert ours.text == theirs.text
    assert [t.text for t in ours.tokens[:8]] == [t.text for t in theirs.tokens]
    for mine, other in zip(ours.tokens, theirs.tokens, strict=False):
        assert len(mine.top) == 5
        assert mine.logprob == pytest.approx(other.logprob, abs=TOLERANCE_NATS)
        assert list(mine.top.values()) == pytest.approx(list(other.top.values()), abs=TOLERANCE_NATS)


def test_a_begun_reply_is_continued(backend: Backend, local: Backend) -> None:
    asked = (
        Message(role="user", content="What is the capital of Italy?"),
        Message(role="assistant", content="The capital of Italy is"),
    )
    request = Request(messages=asked, max_tokens=4)
    (ours,), (theirs,) = ask(backend, [request])[0], ask(local, [request])[0]
    assert ours.text == theirs.text


def test_echoed_likelihoods_are_those_of_local(backend: Backend, local: Backend, measured: list[str]) -> None:
    requests = [
        Request(prompt=f"{STORY}Word: {word}. It is a", continuation=continuation)
        for word in ("cat", "blue", "seven", "France")
        for continuation in (" kind of animal.", " color", " country in Europe")
    ]
    (ours, seconds), (theirs, _) = ask(backend, requests), ask(local, requests)
    differences = []
    for a, b in zip(ours, theirs, strict=True):
        assert a.ok, a.error_message
        assert [t.text for t in a.tokens] == [t.text for t in b.tokens]
        differences.append(abs(a.logprob - b.logprob))
    assert max(differences) < len(theirs[0].tokens) * TOLERANCE_NATS
    n_read = sum(reply.usage.prompt_tokens or 0 for reply in ours)
    measured.append(
        f"vllm serve: {len(requests)} echoed likelihoods, largest difference from local {max(differences):.1e} nats, "
        f"{n_read / seconds:,.0f} tokens/s read"
    )


def test_echoed_prompt_log_probabilities(backend: Backend, local: Backend) -> None:
    request = Request(prompt="The cat sat on the mat.", prompt_top_logprobs=5)
    (ours,), (theirs,) = ask(backend, [request])[0], ask(local, [request])[0]
    assert [t.text for t in ours.tokens] == [t.text for t in theirs.tokens]
    for mine, other in zip(ours.tokens[1:], theirs.tokens[1:], strict=True):
        assert mine.logprob == pytest.approx(other.logprob, abs=TOLERANCE_NATS)
        assert max(mine.top.values()) == pytest.approx(max(other.top.values()), abs=TOLERANCE_NATS)


def test_output_held_to_a_schema(backend: Backend) -> None:
    schema = {
        "type": "object",
        "properties": {"1": {"type": "integer", "enum": [0, 1]}, "2": {"type": "integer", "enum": [0, 1]}},
        "required": ["1", "2"],
        "additionalProperties": False,
    }
    asked = (Message(role="user", content="Tell a joke about cats."),)
    (reply,) = ask(backend, [Request(messages=asked, json_schema=schema, max_tokens=40)])[0]
    assert set(json.loads(reply.text or "")) == {"1", "2"}
