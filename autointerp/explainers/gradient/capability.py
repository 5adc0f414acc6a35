"""The capability bank: what a discriminator can judge, measured once and kept in the cache folder.

For each family of words, how well the evidence for its right label ranks its words above words of
other families. The mean over families chooses the readout; words of the bank say how likely each
label is after words in general, and where evidence begins to mean yes.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from autointerp.explainers.gradient.scoring import auc, best_threshold

if TYPE_CHECKING:
    from autointerp.explainers.gradient.discriminator import LikelihoodDiscriminator

VERSION = 1
VERY_GOOD = 0.95
"""Mean AUC of a readout above which no other is tried: the question by yes and no costs a pass per pair."""
_WORDS_PER_FAMILY = 6
_YES_NO_FAMILIES, _YES_NO_WORDS = 8, 4


@dataclass(frozen=True)
class Family:
    """Words of one kind and labels that are right for them, the usual one first."""

    name: str
    gold: tuple[str, ...]
    words: tuple[str, ...]
    orthographic: bool


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What was measured for one discriminator and readout."""

    areas: dict[str, float]
    """Family to AUC of its right label."""
    mean: float
    """Over the families that are not about spelling."""
    threshold: float
    """Evidence (forward, against what is usual, and backward; nats) above which a label holds for a word."""
    usual: np.ndarray
    """log p(label | word) averaged over the bank's words, [n_labels]; empty for readout `yes_no`."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, without `usual`."""
        areas = {name: round(area, 3) for name, area in self.areas.items()}
        return {"mean": round(self.mean, 4), "threshold": round(self.threshold, 3), "areas": areas}


@lru_cache(maxsize=1)
def families() -> tuple[Family, ...]:
    """The bank."""
    source = files(__package__).joinpath("capability.toml").read_text(encoding="utf-8")
    return tuple(
        Family(
            name=row["name"],
            gold=tuple(row["gold"]),
            words=tuple(row["words"]),
            orthographic=row.get("orthographic", False),
        )
        for row in tomllib.loads(source)["family"]
    )


def measure(discriminator: LikelihoodDiscriminator) -> Capability:
    """The measurement itself, for the discriminator's own readout."""
    yes_no = discriminator.readout == "yes_no"
    bank = [family for family in families() if family.gold]
    per_family = _YES_NO_WORDS if yes_no else _WORDS_PER_FAMILY
    if yes_no:
        bank = bank[:_YES_NO_FAMILIES]
    words = [word for family in bank for word in family.words[:per_family]]
    owners = [family.name for family in bank for _ in family.words[:per_family]]
    forward = None if yes_no else discriminator.forward("category", words)
    usual = np.zeros(0) if forward is None else forward.mean(0)
    place = {label: i for i, label in enumerate(discriminator.labels)}
    areas: dict[str, float] = {}
    evidence, truth = [], []
    for family in bank:
        positive = np.array([owner == family.name for owner in owners])
        row = discriminator.backward("category", [family.gold[0]], words)[0].astype(np.float64)
        column = place.get(family.gold[0])
        if forward is not None and column is not None:
            row = row + forward[:, column] - usual[column]
        areas[family.name] = float(auc(row[:, None], positive, np.ones(len(words)))[0])
        if not family.orthographic:
            evidence.append(row)
            truth.append(positive)
    judged = [areas[family.name] for family in bank if not family.orthographic]
    pooled, right = np.concatenate(evidence), np.concatenate(truth)
    shares = np.where(right, 0.5 / right.sum(), 0.5 / (~right).sum())
    return Capability(
        areas=areas,
        mean=float(np.mean(judged)),
        threshold=float(best_threshold(pooled[:, None], right, shares)[0]),
        usual=usual.astype(np.float32),
    )


def capability(discriminator: LikelihoodDiscriminator) -> Capability:
    """The measurement, from the cache folder if it was made before."""
    from autointerp.weights import cache_folder

    name = f"{discriminator.identity}-{discriminator.readout}-v{VERSION}.{discriminator.templates.version}"
    path = cache_folder() / "gradient" / f"{name}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as kept:
                told = json.loads(str(kept["told"]))
                usual = kept["usual"].astype(np.float32)
            if len(usual) in (0, len(discriminator.labels)):
                return Capability(usual=usual, **told)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # damaged: measured again
    found = measure(discriminator)
    told = {"areas": found.areas, "mean": found.mean, "threshold": found.threshold}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    with os.fdopen(handle, "wb") as stream:
        np.savez(stream, told=json.dumps(told), usual=found.usual.astype(np.float16))
    os.replace(temporary, path)
    return found
