"""The discriminator: a frozen language model that says how well labels and words fit each other.

Readout `likelihood` needs no skill in answering questions. *Forward*: how likely the model says a
label after a word, log p(label | word), for every label of one token at once. *Backward*: how much
likelier a label makes the word, log p(word | label) - mean over labels. Both directions make
different mistakes. What was asked of a word or a label once is kept, so that latents share it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from autointerp.errors import UserError
from autointerp.explainers.gradient.lm import FrozenLM
from autointerp.explainers.gradient.templates import Templates, load_templates

if TYPE_CHECKING:
    import torch

    from autointerp.explainers.gradient.capability import Capability
    from autointerp.explainers.gradient.config import GradientConfig

_WORDS_KEPT = 4000
_LABELS_KEPT = 2000
_NATURAL_KEPT = 1024
_LONGEST_WORD = 48


class Discriminator(Protocol):
    """What proposals and exact scoring ask of a model; tests put a planted one in its place."""

    identity: str
    readout: str
    labels: Sequence[str]
    """Labels of one token: the columns of `forward` and of mixtures."""

    def forward(self, aspect: str, words: Sequence[str]) -> np.ndarray:
        """log p(label | word), averaged over templates: [n_words, n_labels] float32."""
        ...

    def backward(self, aspect: str, labels: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """How much likelier a label makes a word's first token, in nats: [n_labels, n_words] float32."""
        ...

    def soft_backward(self, aspect: str, mixtures: torch.Tensor, words: Sequence[str]) -> torch.Tensor:
        """The same for mixtures of labels [n_rows, n_labels], differentiable: [n_rows, n_words].

        Up to a constant per row."""
        ...

    def listed(self, aspect: str, lists: Sequence[Sequence[str]]) -> np.ndarray:
        """log p(label | several words): [n_lists, n_labels] float32."""
        ...

    def word_vectors(self, words: Sequence[str]) -> np.ndarray:
        """Vectors whose direction says which words are alike, got without asking the model: [n_words, d]."""
        ...

    def finish(self, aspect: str, labels: Sequence[str], words: Sequence[str]) -> list[str]:
        """Each label carried on to where the model would end it after those words: past to past tense."""
        ...

    def holds(
        self, aspect: str, label: str, evidence: np.ndarray, columns: Sequence[int]
    ) -> np.ndarray | None:
        """Whether a label holds for words by the capability bank's own threshold, [n_words] bool.

        `evidence` is forward and backward together; None where it cannot be told."""
        ...


class LikelihoodDiscriminator:
    """The `likelihood` readout of one frozen model."""

    kind: ClassVar[str] = "likelihood"

    def __init__(self, lm: FrozenLM, identity: str) -> None:
        self.lm = lm
        self.identity = identity
        self.readout: str = self.kind
        self.templates: Templates = load_templates()
        self.columns: np.ndarray
        self.labels: Sequence[str]
        self.columns, self.labels = vocabulary(lm, self.templates.generic)
        self._index = {label: i for i, label in enumerate(self.labels)}
        self._capability: Capability | None = None
        self._usual_rows: dict[str, np.ndarray] = {}
        self._forward: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._backward: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._natural: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def forward(self, aspect: str, words: Sequence[str]) -> np.ndarray:
        """See `Discriminator.forward`."""
        shown = [shorten(word) for word in words]

        def compute(missing: Sequence[str]) -> np.ndarray:
            templates = self.templates.aspects[aspect].forward
            total = np.zeros((len(missing), len(self.columns)), dtype=np.float32)
            for template in templates:
                endings = [template.ending(word) for word in missing]
                total += self.lm.next_logprobs(template.beginning, endings, self.columns)
            return total / len(templates)

        return _remembered(self._forward, aspect, shown, compute, _WORDS_KEPT)

    def label_logprobs(self, aspect: str, words: Sequence[str]) -> np.ndarray:
        """log p(token | word) over the whole vocabulary, of the first template: [n_words, n_vocabulary]."""
        template = self.templates.aspects[aspect].forward[0]

        def compute(missing: Sequence[str]) -> np.ndarray:
            return self.lm.next_logprobs(template.beginning, [template.ending(word) for word in missing])

        return self._remembered_natural(aspect, [shorten(word) for word in words], compute)

    def _remembered_natural(
        self, kind: str, keys: Sequence[str], compute: Callable[[Sequence[str]], np.ndarray]
    ) -> np.ndarray:
        return _remembered(self._natural, kind, keys, compute, _NATURAL_KEPT, np.float32)

    def backward(self, aspect: str, labels: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """See `Discriminator.backward`."""
        template = self.templates.aspects[aspect].backward

        def compute(missing: Sequence[str]) -> np.ndarray:
            return self.lm.next_logprobs(template.beginning, [template.ending(x) for x in missing])

        rows = _remembered(self._backward, aspect, list(labels), compute, _LABELS_KEPT)
        return np.asarray(rows[:, self.first_tokens(words)] - self.usual(aspect, words))

    def usual(self, aspect: str, words: Sequence[str]) -> np.ndarray:
        """log p(word | label) averaged over the reference labels, [n_words]."""
        if aspect not in self._usual_rows:
            template = self.templates.aspects[aspect].backward
            endings = [template.ending(label) for label in self.templates.reference]
            self._usual_rows[aspect] = self.lm.next_logprobs(template.beginning, endings).mean(0)
        return np.asarray(self._usual_rows[aspect][self.first_tokens(words)])

    def soft_backward(self, aspect: str, mixtures: torch.Tensor, words: Sequence[str]) -> torch.Tensor:
        """See `Discriminator.soft_backward`."""
        import torch

        template = self.templates.aspects[aspect].backward
        slots = self.mixed(mixtures)
        firsts = self.first_tokens(words)
        logits = self.lm.soft_logits(template.beginning, "", slots[:, None], template.after, firsts)
        return logits - torch.as_tensor(self.usual(aspect, words), device=logits.device)

    def mixed(self, mixtures: torch.Tensor) -> torch.Tensor:
        """Embeddings of mixtures [n_rows, n_labels], with the norm of a usual label's: [n_rows, d]."""
        embedded = self.label_embeddings
        slots = mixtures.to(embedded.dtype) @ embedded
        scaled: torch.Tensor = slots * (self.label_norm / slots.norm(dim=-1, keepdim=True).clamp_min(1e-6))
        return scaled

    @property
    def label_embeddings(self) -> torch.Tensor:
        """[n_labels, d]."""
        if not hasattr(self, "_label_embeddings"):
            import torch

            self._label_embeddings = self.lm.embeddings[torch.as_tensor(self.columns, device=self.lm.device)]
            self.label_norm = float(self._label_embeddings.norm(dim=-1).median())
        return self._label_embeddings

    def listed(self, aspect: str, lists: Sequence[Sequence[str]]) -> np.ndarray:
        """See `Discriminator.listed`."""
        template = self.templates.aspects[aspect].listed
        if template is None:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        endings = [template.ending(", ".join(map(shorten, words))) for words in lists]
        return self.lm.next_logprobs(template.beginning, endings, self.columns)

    def finish(self, aspect: str, labels: Sequence[str], words: Sequence[str]) -> list[str]:
        """See `Discriminator.finish`: greedy by the mean over words, at most three tokens more."""
        template = self.templates.aspects[aspect].forward[0]
        starts = [self.lm.ids(template.ending(shorten(word))) for word in words]
        out = [self.label_ids(label) for label in labels]
        going = list(range(len(labels)))
        for _ in range(3):
            if not going:
                break
            rows = [[*start, *out[i]] for i in going for start in starts]
            mean = (
                self.lm.next_logprobs(template.beginning, rows).reshape(len(going), len(starts), -1).mean(1)
            )
            carried = []
            for i, token in zip(going, mean.argmax(1).tolist(), strict=True):
                if self.lm.piece(token).strip().isalpha():
                    out[i] = [*out[i], token]
                    carried.append(i)
            going = carried
        return [self.lm.tokenizer.decode(ids).strip() for ids in out]

    def holds(
        self, aspect: str, label: str, evidence: np.ndarray, columns: Sequence[int]
    ) -> np.ndarray | None:
        """See `Discriminator.holds`."""
        from autointerp.explainers.gradient.capability import capability

        if aspect != "category" or not len(columns):
            return None
        if self._capability is None:
            self._capability = capability(self)
        usual = self._capability.usual
        if not len(usual):
            return None
        part = usual[list(columns)]
        return np.asarray(evidence - np.logaddexp.reduce(part) > self._capability.threshold)

    def word_vectors(self, words: Sequence[str]) -> np.ndarray:
        """See `Discriminator.word_vectors`: the mean of the tokens' embeddings."""
        rows = [self.lm.embeddings[self.lm.ids(f" {shorten(word)}")].float().mean(0) for word in words]
        return np.stack([row.cpu().numpy() for row in rows])

    def first_tokens(self, words: Sequence[str]) -> np.ndarray:
        """The first token of each word after a space."""
        return np.array([self.lm.ids(f" {shorten(word)}")[0] for word in words], dtype=np.int64)

    def label_ids(self, label: str) -> list[int]:
        """A label's tokens, as they stand after a space."""
        index = self._index.get(label)
        return [int(self.columns[index])] if index is not None else self.lm.ids(f" {label}")


def open_discriminator(config: GradientConfig) -> LikelihoodDiscriminator:
    """Loads the discriminator that a configuration names. Raises `UserError` for what cannot be loaded."""
    import torch

    from autointerp.weights import fingerprint, load_causal_lm

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    model, tokenizer = load_causal_lm(config.model, device=device, dtype=dtype, revision=config.revision)
    tokens = config.max_forward_tokens or (512 if device == "cpu" else 8192)
    lm = FrozenLM(model, tokenizer, max_forward_tokens=tokens)
    identity = hashlib.sha256(f"{fingerprint(config.model, config.revision)} {dtype}".encode()).hexdigest()
    if config.readout == "likelihood":
        return LikelihoodDiscriminator(lm, identity[:24])
    from autointerp.explainers.gradient.yes_no import YesNoDiscriminator

    if config.readout == "yes_no":
        return YesNoDiscriminator(lm, identity[:24])
    return better_readout(lm, identity[:24])


def better_readout(lm: FrozenLM, identity: str) -> LikelihoodDiscriminator:
    """The readout that the capability bank found better for this model; `likelihood` where equal.

    `likelihood` costs far less, so where it is very good the other is not measured. A model without a chat template, or whose yes and no are several tokens, is not asked.
    """
    from autointerp.explainers.gradient.capability import VERY_GOOD, capability
    from autointerp.explainers.gradient.yes_no import YesNoDiscriminator

    likelihood = LikelihoodDiscriminator(lm, identity)
    measured = capability(likelihood)
    if measured.mean >= VERY_GOOD or not getattr(lm.tokenizer, "chat_template", None):
        return likelihood
    try:
        asked = YesNoDiscriminator(lm, identity)
    except UserError:
        return likelihood
    return asked if capability(asked).mean > measured.mean + 0.01 else likelihood


def vocabulary(lm: FrozenLM, generic: frozenset[str]) -> tuple[np.ndarray, list[str]]:
    """Tokens that may begin a label: ids and texts without the space.

    A space and at least three letters; or, of scripts written without spaces, letters alone.
    """
    anchor = lm.ids(" a")[-1]
    base = lm.piece(anchor)
    special = set(lm.tokenizer.all_special_ids)
    texts = lm.tokenizer.batch_decode([[anchor, token] for token in range(lm.n_vocabulary)])
    columns, labels = [], []
    for token, text in enumerate(texts):
        piece = text.removeprefix(base)
        body = piece.strip()
        if token in special or not body.isalpha() or body.casefold() in generic:
            continue
        starts_word = piece[0] == " " and len(body) >= 3
        unspaced = all("\u3040" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff" for c in body)
        if starts_word or unspaced:
            columns.append(token)
            labels.append(body)
    return np.array(columns, dtype=np.int64), labels


def shorten(word: str) -> str:
    """A word as prompts show it: one line, no white space around it, not endless."""
    text = " ".join(word.split())
    return text[:_LONGEST_WORD] or '" "'


def _remembered(
    store: OrderedDict[tuple[str, str], np.ndarray],
    aspect: str,
    keys: Sequence[str],
    compute: Callable[[Sequence[str]], np.ndarray],
    most: int,
    kind: type[np.floating[Any]] = np.float16,
) -> np.ndarray:
    """Rows of `keys`, those not in the store computed and put there in the arithmetic `kind`."""
    missing = list(dict.fromkeys(key for key in keys if (aspect, key) not in store))
    if missing:
        for key, row in zip(missing, compute(missing), strict=True):
            store[aspect, key] = row.astype(kind)
    rows: list[Any] = []
    for key in keys:
        store.move_to_end((aspect, key))
        rows.append(store[aspect, key])
    out = np.array(rows, dtype=np.float32)
    while len(store) > most:
        store.popitem(last=False)
    return out
