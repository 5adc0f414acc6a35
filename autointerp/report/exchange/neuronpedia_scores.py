"""Scores of labels as rows of Neuronpedia's ExplanationScore, which its public exports leave out."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePath
from typing import Any

from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.report.exchange.imported import FOLDER, origin_of
from autointerp.report.exchange.reading import read_rows
from autointerp.run import Run

_DETAILS = ("metric", "ci_low", "ci_high", "chance", "n_examples", "coverage")


class Scores:
    """The scores of a run's labels, of all explainers if none are named. Controls and undefined numbers are left out."""

    def __init__(self, run: Run, id_of: Callable[[int, str], str], explainers: Collection[str]) -> None:
        self._run, self._id_of, self._explainers = run, id_of, explainers
        model = run.config.models.judge.get("model")
        self._judge = None if model is None else str(model)
        if self._judge is not None and self._judge.startswith(("/", "~", ".")):
            self._judge = PurePath(self._judge).name
        self._imported = dict(_imported(run))
        self.known = bool(self._imported) or run.table("scores", columns=["latent"]).num_rows > 0

    def rows(self, latents: range) -> Iterator[dict[str, Any]]:
        """Scores of some latents' labels, those made here first, then those that an import brought."""
        for row in self._run.table("scores", latents=latents).to_pylist():
            if row["control"] is not None or row["status"] != "ok" or row["explanation"] == NO_EXPLAINER:
                continue
            if self._explainers and row["explainer"] not in self._explainers:
                continue
            yield {
                "explanationId": self._id_of(row["latent"], row["explanation"]),
                "value": row["value"],
                "explanationScoreTypeName": f"autointerp_{row['scorer']}",
                "explanationScoreModelName": self._judge,
                "jsonDetails": json.dumps({name: row[name] for name in _DETAILS}),
            }
        if not self._imported:
            return
        for row in self._run.table("explanations", latents=latents).to_pylist():
            if row["control"] is None and row["status"] == "ok":
                for score in self._imported.get((row["explainer"], row["latent"], row["text"]), ()):
                    yield {
                        "explanationId": self._id_of(row["latent"], row["explanation"]),
                        "value": score.get("value"),
                        "explanationScoreTypeName": score.get("type"),
                        "explanationScoreModelName": score.get("model"),
                        "jsonDetails": score.get("details"),
                    }


def _imported(run: Run) -> Iterator[tuple[tuple[str, int, str], list[dict[str, Any]]]]:
    """Scores that came with imported labels, by explainer, latent and text."""
    for name in origin_of(run.root).get("explainers") or {}:
        path = run.root / FOLDER / f"{name}.jsonl"
        for _, row in read_rows(path) if path.is_file() else ():
            if isinstance(row.get("scores"), list) and isinstance(row.get("text"), str):
                yield (name, row["latent"], " ".join(row["text"].split())), row["scores"]
