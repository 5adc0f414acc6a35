"""Several dictionaries of one subject, cached in one pass, leave what each would leave alone."""

from __future__ import annotations

import pytest

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.engine.local import run_step
from autointerp.engine.together import cache_together
from autointerp.errors import UserError
from autointerp.stages import cache
from autointerp.subject.model_hf import HuggingFaceSubject
from tests.planted import build


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    return build(tmp_path_factory.mktemp("planted") / "files", n_documents=40)


@pytest.fixture(autouse=True)
def _model(monkeypatch, run_file):
    monkeypatch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))


@pytest.fixture
def configs(run_file):
    random = load_config(run_file, [])
    random = random.model_copy(
        update={
            "name": "second",
            "dictionary": random.dictionary.model_copy(
                update={
                    "source": "random",
                    "path": None,
                    "hook_point": "blocks.1.hook_resid_post",
                    "n_latents": 24,
                    "top_k": 3,
                }
            ),
        }
    )
    return [load_config(run_file, []), random]


def test_each_run_has_the_files_it_would_have_alone(configs, tmp_path, monkeypatch):
    passes: list[list[str]] = []
    read = HuggingFaceSubject.activations

    def counted(self, tokens, hook_points):
        passes.append(list(hook_points))
        return read(self, tokens, hook_points)

    monkeypatch.setattr(HuggingFaceSubject, "activations", counted)
    alone = [RunDirectory(tmp_path / "alone" / config.name) for config in configs]
    for config, run in zip(configs, alone, strict=True):
        (step,) = cache.steps(config)
        run_step(step, run, {step.name: step})
    n_alone = len(passes)
    passes.clear()
    together = [RunDirectory(tmp_path / "together" / config.name) for config in configs]
    manifests = cache_together(configs, together)
    shared = [hooks for hooks in passes if len(hooks) == 2]
    # What is not shared is the measure of the random dictionary, one context at a time.
    assert 2 * len(shared) + len(passes) - len(shared) == n_alone
    assert len(shared) > 5
    for one, other, manifest in zip(alone, together, manifests, strict=True):
        assert manifest.status == "complete"
        assert manifest.fingerprint == one.manifest("cache").fingerprint
        for name in ("contexts", "activations", "latents", "vocabulary"):
            assert other.dataset(name).read().equals(one.dataset(name).read()), name
    passes.clear()
    cache_together(configs, together)
    assert passes == []


def test_runs_that_read_other_text_are_refused(configs, tmp_path):
    runs = [RunDirectory(tmp_path / config.name) for config in configs]
    other = configs[1].model_copy(update={"seed": 5})
    with pytest.raises(UserError, match=r"seed: differs between 'planted' and 'second'"):
        cache_together([configs[0], other], runs)
    with pytest.raises(UserError, match="two of the runs write to"):
        cache_together([configs[0], configs[0]], [runs[0], runs[0]])
