"""Replies of a local model held to a JSON schema while they are generated, by the library llguidance.

Tokens that cannot go on as the schema wants are left out at each step; which ones may follow, llguidance
tells from the tokenizer's bytes (`pip install autointerp[structured]`). Between keys and values stands one
space, as models write JSON by themselves; no other white space is allowed, since a weak model may go on
with it for ever.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from autointerp.errors import UserError

_SPACING: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Schemas:
    """The JSON schemas one tokenizer's replies can be held to; each is compiled once.

    `vocabulary` is the length of the model's logits, `ends` the tokens that end a reply. Raises `UserError`
    if llguidance is missing or cannot read the tokenizer.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Collection[int]) -> None:
        if find_spec("llguidance") is None:
            raise UserError(
                "hold_to_schema needs the package llguidance: pip install 'autointerp[structured]', "
                "or leave hold_to_schema out"
            )
        from llguidance.hf import from_tokenizer

        try:
            self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=sorted(ends))
        except ValueError as error:
            raise UserError(f"hold_to_schema: this model's tokenizer cannot be used: {error}") from None
        self._vocabulary = vocabulary
        self._grammars: dict[str, str] = {}

    def held(self, schema: Mapping[str, Any]) -> Held:
        """A new reply that is held to a schema. Raises `ValueError` for a schema that cannot be compiled."""
        from llguidance import LLMatcher

        text = json.dumps(schema, sort_keys=True)
        if text not in self._grammars:
            self._grammars[text] = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_SPACING)
        matcher = LLMatcher(self._tokenizer, self._grammars[text])
        if matcher.is_error():
            raise ValueError(" ".join(matcher.get_error().split())[:500])
        return Held(matcher, self._vocabulary)


class Held:
    """One reply on its way: which tokens may come next, and whether it is whole."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._bits = np.empty((vocabulary + 31) // 32, dtype=np.int32)
        self._vocabulary = vocabulary

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [vocabulary] with -inf for the tokens that may not come next."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocabulary]
        return logits.masked_fill(torch.from_numpy(allowed == 0).to(logits.device), -torch.inf)

    def take(self, token: int) -> bool:
        """Go on with a token; whether the reply is whole with it."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())
