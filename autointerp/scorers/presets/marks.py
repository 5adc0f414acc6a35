"""Marks as the published fuzzing scorers place them, their flaws included.

Sources: `delphi/scorers/classifier/{fuzz,sample}.py` and the same files of Neuronpedia's fork,
`hijohnnylin/sae-auto-interp`. Both seed Python's generator with 22 before each window, so that windows of
one length have their false marks at the same places, whatever the latent or the text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from autointerp.sampling.windows import Window

PEER_SEED = 22
THRESHOLD = 0.3
"""Share of a window's largest activation from which on a token is marked."""


def peer_true_marks(window: Window) -> np.ndarray:
    """Tokens at or above 0.3 of the window's largest activation, [n_tokens] bool."""
    return np.asarray(window.activations >= THRESHOLD * window.max_activation)


def n_false_marks(positives: Sequence[Window]) -> int:
    """Marks of a negative: the mean number of tokens with any activation in the positives, rounded up.

    More than a positive has marks, since those stand on strong tokens only.
    """
    if not positives:
        return 0
    return math.ceil(sum(int(np.count_nonzero(w.activations)) for w in positives) / len(positives))


def delphi_false_marks(window: Window, n_marks: int) -> np.ndarray:
    """Delphi's false marks on a window, [n_tokens] bool: one a quarter from its end, the rest by seed 22.

    Only tokens at or below the threshold are marked, of a silent window all of them.
    """
    free = _free(window)
    place = len(window.tokens) - len(window.tokens) // 4
    n_marks = min(n_marks, len(free))
    if place in free and n_marks:
        rest = [i for i in free if i != place]
        return _flags([place, *random.Random(PEER_SEED).sample(rest, n_marks - 1)], window)
    return _flags(random.Random(PEER_SEED).sample(free, n_marks), window)


def neuronpedia_false_marks(window: Window, n_marks: int) -> np.ndarray:
    """Neuronpedia's false marks on a window, [n_tokens] bool: all places by seed 22."""
    free = _free(window)
    return _flags(random.Random(PEER_SEED).sample(free, min(n_marks, len(free))), window)


def _free(window: Window) -> list[int]:
    return [int(i) for i in np.flatnonzero(window.activations <= THRESHOLD * window.max_activation)]


def _flags(places: Sequence[int], window: Window) -> np.ndarray:
    flags = np.zeros(len(window.tokens), dtype=bool)
    flags[list(places)] = True
    return flags
