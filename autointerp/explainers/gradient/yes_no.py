"""The readout `yes_no`: the model is asked whether a word is an example of the label.

As published (Schulz & Fallows 2025, arXiv 2504.00754), in words of our own: the label stands after
word and text, so that everything before it is computed once per word, and the answer is read from
the logits of yes and no. Calibrated: minus what the model answers to labels that say nothing, so
that no label wins by making every yes likelier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autointerp.errors import UserError
from autointerp.explainers.gradient.discriminator import LikelihoodDiscriminator, shorten
from autointerp.explainers.gradient.lm import FrozenLM

if TYPE_CHECKING:
    import torch

_BEGINNINGS_KEPT = 256
_LONGEST_TEXT = 200
_MARK = "\u2063LABEL\u2063"


class YesNoDiscriminator(LikelihoodDiscriminator):
    """Forward evidence as of the `likelihood` readout; backward evidence is the calibrated log-odds of yes."""

    kind = "yes_no"

    def __init__(self, lm: FrozenLM, identity: str) -> None:
        super().__init__(lm, identity)
        self.question = self.templates.yes_no
        self._system, self._after = self._render()
        self.yes, self.no = self._answer("yes"), self._answer("no")
        self._kept: OrderedDict[str, list[tuple[Any, Any]]] = OrderedDict()
        self._odds: dict[tuple[str, str], float] = {}

    def backward(self, aspect: str, labels: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """log-odds of yes, minus those of empty labels: [n_labels, n_words]."""
        empty = list(self.question["empty"])
        usual = self.odds(empty, words).mean(0)
        return np.asarray(self.odds(labels, words) - usual, dtype=np.float32)

    def odds(self, labels: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """logit(yes) - logit(no): [n_labels, n_words]."""
        import torch

        missing = [(x, w) for w in words for x in labels if (x, w) not in self._odds]
        rows_at_once = max(1, self.lm.max_forward_tokens // (len(self._after) + 2))
        for begin in range(0, len(missing), rows_at_once):
            part = missing[begin : begin + rows_at_once]
            by_length: dict[int, list[tuple[str, str]]] = {}
            for label, word in part:
                by_length.setdefault(len(self.label_ids(label)), []).append((label, word))
            for pairs in by_length.values():
                ids = torch.as_tensor([self.label_ids(x) for x, _ in pairs], device=self.lm.device)
                with torch.no_grad():
                    logits = self.ask([(w, None) for _, w in pairs], self.lm.embeddings[ids])
                for pair, value in zip(
                    pairs, (logits[:, self.yes] - logits[:, self.no]).tolist(), strict=True
                ):
                    self._odds[pair] = value
        return np.array([[self._odds[x, w] for w in words] for x in labels])

    def soft_backward(self, aspect: str, mixtures: torch.Tensor, words: Sequence[str]) -> torch.Tensor:
        """log-odds of yes for mixtures [n_rows, n_labels], differentiable: [n_rows, n_words]."""
        import torch

        slots = self.mixed(mixtures)
        columns = []
        for word in words:
            logits = self.ask([(word, None)] * len(slots), slots[:, None])
            columns.append(logits[:, self.yes] - logits[:, self.no])
        return torch.stack(columns, 1)

    def ask(self, asked: Sequence[tuple[str, str | None]], slots: torch.Tensor) -> torch.Tensor:
        """Logits of the answer [n_rows, n_vocabulary] to (word, text) pairs; labels as embeddings [n_rows, n, d]."""
        return self.lm.soft_logits_after([self._keys(w, t) for w, t in asked], slots, self._after)

    def before_label(self, asked: Sequence[tuple[str, str | None]]) -> np.ndarray:
        """The model's own log-probabilities at the label's place: [n_asked, n_vocabulary]."""

        def compute(missing: Sequence[str]) -> np.ndarray:
            return self.lm.next_logprobs(self._system, [self.lm.ids(question) for question in missing])

        return self._remembered_natural("asked", [self._asked(w, t) for w, t in asked], compute)

    def _keys(self, word: str, text: str | None) -> list[tuple[Any, Any]]:
        asked = self._asked(word, text)
        if asked not in self._kept:
            self._kept[asked] = self.lm.kept(self.lm.ids(asked), start=self._system)
            while len(self._kept) > _BEGINNINGS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(asked)
        return self._kept[asked]

    def _asked(self, word: str, text: str | None) -> str:
        """The question up to the label."""
        values = {"word": shorten(word), "text": " ".join((text or "").split())[:_LONGEST_TEXT]}
        form = self.question["user_with_text" if text else "user"]
        form = form[: form.index("{label}")]
        return "".join(values.get(part[1:-1], part) for part in _split(form))

    def _render(self) -> tuple[str, list[int]]:
        """What stands before every question, and the tokens after the label, in the model's chat template."""
        tokenizer = self.lm.tokenizer
        messages = [
            {"role": "system", "content": self.question["system"]},
            {"role": "user", "content": _MARK + self.question["user"].split("{label}")[1]},
        ]
        if getattr(tokenizer, "chat_template", None):
            whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            whole = f"{messages[0]['content']}\n\n{messages[1]['content']}\nAnswer: "
        system, after = whole.split(_MARK)
        bos = tokenizer.bos_token
        if bos and system.startswith(bos) and self.lm.ids("", start=True):
            system = system.removeprefix(bos)  # the tokenizer adds it again
        return system, self.lm.ids(after)

    def _answer(self, name: str) -> int:
        ids = self.lm.ids(self.question[name])
        if len(ids) != 1:
            raise UserError(f"readout 'yes_no': {self.question[name]!r} is not one token of this model")
        return ids[0]


def _split(form: str) -> list[str]:
    import re

    return [part for part in re.split(r"(\{[a-z]+\})", form) if part]
