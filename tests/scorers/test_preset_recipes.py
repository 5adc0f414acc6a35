"""The recipes of the presets, run through all stages on the planted dictionary with a judge over HTTP."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import tomli_w

from autointerp.artifacts import RunDirectory
from tests.oracle import Oracle
from tests.planted import WORD_SETS, build
from tests.test_planted import ROOT, carry_out

RECIPES = {
    "delphi": ["delphi-detection", "delphi-fuzz"],
    "saebench": ["saebench"],
    "neuronpedia": ["neuronpedia-recall", "neuronpedia-detection", "neuronpedia-fuzz"],
}


class PresetOracle(Oracle):
    """Judges every preset's form of request by the words that the explanation quotes."""

    def reply(self, body: dict) -> dict:
        query = body["messages"][-1]["content"]
        answer = super().reply(body)
        answer["choices"][0]["message"]["content"] = self.answer(query)
        return answer

    def answer(self, query: str) -> str:
        """What an honest judge who knows the words would say."""
        if query.startswith("{"):
            asked = json.loads(query)
            words = re.findall(r'"(\w+)"', asked["explanation"])
            active = [p["token"].strip() for p in asked["activations"] if p["activation"] > 0]
            return json.dumps({"match": bool(active) and set(active) <= set(words), "reason": "looked up"})
        words = re.findall(r'"(\w+)"', query.split("\n")[0])
        texts = [json.loads(t) for t in re.findall(r'^(?:Example \d+:|\d+\.) (".*")$', query, re.MULTILINE)]
        fits = [self.fits(text, words) for text in texts]
        if "Example 0:" in query:
            return str([int(f) for f in fits])
        return ", ".join(str(i) for i, f in enumerate(fits, start=1) if f) or "None"

    @staticmethod
    def fits(text: str, words: list[str]) -> bool:
        """Whether all that is marked, or, without marks, any word, is one of the words."""
        marked = [word for piece in re.findall(r"<<(.*?)>>", text) for word in piece.split()]
        return set(marked) <= set(words) if marked else not set(words).isdisjoint(text.split())


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_runs_to_scores(recipe: str, planted: Path, tmp_path: Path) -> None:
    """The recipe's windows and scorers on the planted subject, whose contexts are 32 tokens long."""
    published = tomllib.loads((ROOT / "pipelines" / f"preset-{recipe}.toml").read_text())
    table = tomllib.loads(planted.read_text())
    table["sample"] = published["sample"] | {
        "window_tokens": min(published["sample"]["window_tokens"], 16),
        "n_train": 12,
    }
    table["score"] = {"scorers": published["score"]["scorers"], "latents": 4, "latents_per_shard": 2}
    assert table["score"]["scorers"] == RECIPES[recipe]
    run_file = planted.parent / f"{recipe}.toml"
    run_file.write_text(tomli_w.dumps(table))
    with PresetOracle() as oracle:
        judge = f'{{backend="openai", model="oracle", base_url="{oracle.url}", max_concurrency=4}}'
        done = carry_out("run", run_file, tmp_path / "run", "--set", f"models.judge={judge}")
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "run")
    if recipe == "delphi":
        check_the_guide(tmp_path / "run")
    for name in RECIPES[recipe]:
        rows = run.dataset("scores", name).read().to_pylist()
        real = [row for row in rows if row["control"] is None]
        control = [row for row in rows if row["control"] == "shuffled"]
        assert len(real) == len(control) == 4
        for row in real:
            assert row["latent"] < len(WORD_SETS)
            assert (row["status"], row["coverage"]) == ("ok", 1.0)
            assert row["value"] == 1.0
            peer = json.loads(row["details"])["peer"]
            assert row["peer_metric"]
            assert peer["n_dropped"] == 0
            unseen = json.loads(row["details"]).get("n_unread_active", 0)
            n = sum(peer[k] for k in ("tp", "fp", "tn", "fn"))
            assert row["peer_value"] == pytest.approx(1 - unseen / n)
        assert sum(row["value"] for row in control) < 4 * 0.8
        assert {row["label"] for row in run.dataset("judgements", name).read().to_pylist()} == {True, False}


def check_the_guide(run: Path) -> None:
    """The page's own lines sum up a run as Delphi does: over the rows of all latents."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scorers/presets.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code.replace("runs/preset-delphi", str(run)), names)
    assert len(names["counts"]) == 4
    total = names["pooled"](names["counts"])
    assert total.tp == sum(c.tp for c in names["counts"]) > 40
    assert names["delphi_metrics"](total) == {
        "accuracy": 1.0,
        "precision": 1.0,
        "recall": 1.0,
        "f1_score": 1.0,
    }
