"""The readouts of the intruder scorer: from trials to requests, and from replies to judgements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autointerp.llm.types import Reply, Request, TokenLogprob
from autointerp.sampling.windows import TokenTable, Window
from autointerp.scorers.answers import TOP_LOGPROBS
from autointerp.scorers.asking import Plan, error_reason
from autointerp.scorers.base import Judgement
from autointerp.scorers.embedder import Embedder
from autointerp.scorers.intruder_replies import option_logprobs, parse_intruder
from autointerp.scorers.intruder_trials import Trial
from autointerp.scorers.prompting import Prompt, quoted

_NO_TEXT = {"status": "error", "reason": "a window holds no text"}


def intruder_schema(n_options: int) -> dict[str, Any]:
    """JSON schema of `{"intruder": 1 to n}`, in the subset strict servers take."""
    return {
        "type": "object",
        "properties": {"intruder": {"type": "integer", "enum": list(range(1, n_options + 1))}},
        "required": ["intruder"],
        "additionalProperties": False,
    }


def json_plan(trials: Sequence[Trial], prompt: Prompt, max_tokens: int) -> Plan:
    """One request per trial; the reply names the intruder by its number."""
    requests = [
        Request(
            messages=prompt.messages({"texts": _numbered(trial)}),
            max_tokens=max_tokens,
            json_schema=intruder_schema(len(trial.windows)),
        )
        for trial in trials
    ]

    def chosen(trial: Trial, reply: Reply) -> dict[str, Any]:
        answer, reason = parse_intruder(reply.text or "", len(trial.windows))
        if answer is not None:
            return {"prediction": answer == trial.intruder + 1}
        cut = " (the reply was cut off)" if reply.finish_reason == "length" else ""
        return {"status": "unparsed", "reason": f"{reason}{cut}"}

    return Plan(requests=requests, read=_reader(trials, chosen))


def logprob_plan(trials: Sequence[Trial], prompt: Prompt) -> Plan:
    """One request per trial; the numbers' log-probabilities as first word of the reply."""
    requests = [
        Request(
            messages=prompt.messages({"texts": _numbered(trial)}),
            max_tokens=1,
            top_logprobs=TOP_LOGPROBS,
        )
        for trial in trials
    ]

    return Plan(requests=requests, read=_reader(trials, lambda trial, reply: _chosen(reply.tokens, trial)))


def _reader(
    trials: Sequence[Trial], chosen: Callable[[Trial, Reply], dict[str, Any]]
) -> Callable[[Sequence[Reply], Sequence[str]], list[Judgement]]:
    """Reads one reply per trial; `chosen` gives the judgement's columns where there is a reply."""

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for trial, reply, key in zip(trials, replies, keys, strict=True):
            failed = {"status": "error", "reason": error_reason(reply)} if not reply.ok else None
            judgements.append(trial.judgement(request=key, **(failed or chosen(trial, reply))))
        return judgements

    return read


def _chosen(tokens: Sequence[TokenLogprob], trial: Trial) -> dict[str, Any]:
    """The columns of one trial from the log-probabilities of its numbers, renormalised over them."""
    logprobs = option_logprobs(tokens, len(trial.windows))
    if logprobs is None:
        seen = repr(tokens[0].text[:20]) if tokens else "nothing"
        return {
            "status": "unparsed",
            "reason": f"no number of a text among the alternatives of the first token ({seen} came)",
        }
    own = float(logprobs[trial.intruder])
    others = np.delete(logprobs, trial.intruder)
    log_odds = own - float(np.logaddexp.reduce(others))
    return {
        "log_odds": log_odds,
        "probability": float(np.exp(own - np.logaddexp.reduce(logprobs))),
        "prediction": bool(own > others.max()),
    }


def likelihood_plan(trials: Sequence[Trial], prompt: Prompt, table: TokenTable) -> Plan:
    """The intruder is the window to whose log-likelihood the others of its trial add least.

    a(w) = [log p(w | prompt with the other windows) - log p(w | prompt without)] / tokens of w, in
    nats; the others stand in the order of the trial. Nothing has to be answered.
    """
    texts = [[_one_line(table.text(window.tokens)) for window in trial.windows] for trial in trials]
    requests: list[Request] = []
    for shown in texts:
        if not all(shown):
            continue
        for place, text in enumerate(shown):
            others = "\n".join(other for i, other in enumerate(shown) if i != place)
            requests += [
                Request(prompt=prompt.part("others", {"texts": others}), continuation=text),
                Request(prompt=prompt.part("alone"), continuation=text),
            ]

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements, start = [], 0
        for trial, shown in zip(trials, texts, strict=True):
            if not all(shown):
                judgements.append(trial.judgement(**_NO_TEXT))
                continue
            end = start + 2 * len(shown)
            columns = _least_helped(replies[start:end], trial)
            judgements.append(trial.judgement(request=keys[start + 2 * trial.intruder], **columns))
            start = end
        return judgements

    return Plan(requests=requests, read=read)


def _least_helped(replies: Sequence[Reply], trial: Trial) -> dict[str, Any]:
    """The columns of one trial from its windows' replies, with and without the others in turn."""
    for reply in replies:
        if not reply.ok:
            return {"status": "error", "reason": error_reason(reply)}
        if not reply.tokens or any(token.logprob is None for token in reply.tokens):
            return {"status": "unparsed", "reason": "the reply has no log-probabilities"}
    added = np.array(
        [
            (told.logprob - alone.logprob) / len(alone.tokens)
            for told, alone in zip(replies[::2], replies[1::2], strict=True)
        ]
    )
    if not bool(np.isfinite(added).all()):
        return {"status": "unparsed", "reason": "a log-probability of the reply is not finite"}
    return {"prediction": _is_least(added, trial.intruder)}


def embedding_judgements(trials: Sequence[Trial], embedder: Embedder, table: TokenTable) -> list[Judgement]:
    """The intruder is the window with the lowest mean cosine to the others of its trial."""
    windows = {window.example: window for trial in trials for window in trial.windows}
    texts = {example: table.text(window.tokens) for example, window in windows.items()}
    readable = [example for example in sorted(texts) if texts[example].strip()]
    vectors = embedder.embed([texts[example] for example in readable])
    row = {example: i for i, example in enumerate(readable)}
    judgements = [
        trial.judgement(**_farthest(trial.windows, vectors, row, trial.intruder)) for trial in trials
    ]
    return sorted(judgements, key=lambda j: (j.example, j.kind))


def _farthest(
    windows: Sequence[Window], vectors: np.ndarray, row: dict[int, int], intruder: int
) -> dict[str, Any]:
    if not all(window.example in row for window in windows):
        return _NO_TEXT
    shown = vectors[[row[window.example] for window in windows]].astype(np.float64)
    cosines = shown @ shown.T
    if not bool(np.isfinite(cosines).all()):
        return {"status": "error", "reason": "a cosine is not a number"}
    np.fill_diagonal(cosines, 0.0)
    return {"prediction": _is_least(cosines.sum(axis=1) / (len(windows) - 1), intruder)}


def _is_least(values: np.ndarray, place: int) -> bool:
    """Whether the value of a place is the least; of equal ones the first counts, and order is random."""
    return int(np.argmin(values)) == place


def _numbered(trial: Trial) -> str:
    return "\n".join(f"{i}: {quoted(text)}" for i, text in enumerate(trial.texts, start=1))


def _one_line(text: str) -> str:
    """A window as a line of a list, its own leading space kept."""
    return " ".join(text.split("\n"))
