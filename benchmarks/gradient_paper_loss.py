"""Does the published loss prefer the right label at all? Hard labels under it, without any search.

    python benchmarks/gradient_paper_loss.py [--features NAME ...] [--weights 0 0.05 0.2] [--others 700]
    python benchmarks/gradient_paper_loss.py --model qwen --others 4 --reference 4 --words 8 --also meat

For each set of benchmarks/concepts/paper/, with SmolLM2-135M and the likelihood readout, or with the 1.5B model of
gradient_paper.py asked yes or no: the prediction loss of single words as labels (both classes weighing the same) plus
`paper_weight_kl` times their mean -log q at the label's place. A hard label has no entropy, so this is the published total for it. Printed for each weight: the
best words among the right ones, the reference labels and so many drawn from the vocabulary, and the best right
one. Where another word wins, no search could have ended on the right one: the objective failed, not the optimiser.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.concept_bank import load, same
from benchmarks.gradient_paper import QWEN, SETTINGS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", nargs="+", default=list(SETTINGS))
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.05, 0.2])
    parser.add_argument("--others", type=int, default=700)
    parser.add_argument("--reference", type=int, help="reference labels tried; by default all")
    parser.add_argument("--also", nargs="+", default=[], metavar="WORD", help="more words to try as labels")
    parser.add_argument("--words", type=int, help="tokens of each class; by default all")
    parser.add_argument("--model", default="smollm2", choices=("smollm2", "qwen"))
    options = parser.parse_args()
    yes_no = options.model == "qwen"

    from autointerp.engine.labelling import gradient_config
    from autointerp.explainers.gradient.discriminator import open_discriminator
    from autointerp.explainers.gradient.items import gather
    from autointerp.weights import cache_folder

    readout = "yes_no" if yes_no else "likelihood"
    model = str(cache_folder() / QWEN) if yes_no else None
    asked: Any = open_discriminator(gradient_config([f"readout={readout}"], mode="paper", model=model))
    rng = np.random.default_rng(0)
    drawn = [asked.labels[i] for i in rng.choice(len(asked.labels), options.others, replace=False)]
    for concept in load("paper", options.features):
        words = some_of(gather(concept.items()), options.words, rng)
        right = [label for label in (*asked.labels, *options.also) if same(label, concept.labels)]
        labels = list(
            dict.fromkeys([*right, *options.also, *asked.templates.reference[: options.reference], *drawn])
        )
        odds = asked.odds(labels, words.words) if yes_no else asked.backward("category", labels, words.words)
        high, low = odds[:, words.positive], odds[:, ~words.positive]
        prediction = (np.logaddexp(0, -high).mean(1) + np.logaddexp(0, low).mean(1)) / 2
        some = rng.choice(len(words.words), min(40, len(words.words)), replace=False)
        shown = [words.words[i] for i in some]
        logprobs = (
            asked.before_label([(word, None) for word in shown])
            if yes_no
            else asked.label_logprobs("category", shown)
        )
        natural = -logprobs.mean(0)
        far = natural[[asked.label_ids(label)[0] for label in labels]]
        print(f"{concept.name}: {words.n_positive} words of the feature, {words.n_negative} others")
        for weight in options.weights:
            total = prediction + weight * far
            best = [labels[i] for i in np.argsort(total)[:5]]
            found = min(range(len(right)), key=lambda i: total[i]) if right else None
            said = "no single token is right" if found is None else f"{right[found]} {total[found]:.3f}"
            print(
                f"  weight {weight:<5} best {', '.join(best)} ({total.min():.3f}); right: {said}", flush=True
            )


def some_of(words: Any, n: int | None, rng: np.random.Generator) -> Any:
    """At most `n` words of each class, drawn at random."""
    if n is None:
        return words
    sides = [np.flatnonzero(words.positive), np.flatnonzero(~words.positive)]
    keep = [rng.choice(side, min(n, len(side)), replace=False) for side in sides]
    return words.taken(np.sort(np.concatenate(keep)))


if __name__ == "__main__":
    main()
