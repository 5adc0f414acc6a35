"""Between text and tokens: prompts, chat templates, continuations, and the text of single tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autointerp.errors import ModelUnavailableError
from autointerp.llm.types import Message, Request


class Texts:
    """A tokenizer of transformers, with the rules this project needs.

    Prompt and continuation are tokenised apart and joined, so that the prompt's tokens are the same
    whatever follows; a continuation normally begins with a space. An empty prompt is one token:
    the tokenizer's BOS, else its EOS.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self._token_texts: dict[int, str] = {}
        self._anchor: list[int] = self._encode("a")[-1:]
        pieces = tokenizer.convert_ids_to_tokens(self._encode("a"))
        self._adds_space = bool(pieces) and str(pieces[0]).startswith("\u2581")

    def prompt_ids(self, request: Request) -> list[int]:
        """Tokens of a request's prompt or chat messages; at least one."""
        if request.messages is not None:
            return self._encode(self._chat(request.messages))
        text = request.prompt or ""
        plain = self._encode(text)
        ids = self._encode(text, special=True)
        end = self.tokenizer.eos_token_id
        if ids and ids[-1] == end and plain[-1:] != [end] and len(ids) > 1:
            ids = ids[:-1]
        if not ids:
            start = self.tokenizer.bos_token_id
            start = end if start is None else start
            ids = [0 if start is None else start]
        return ids

    def continuation_ids(self, text: str) -> list[int]:
        """Tokens of a text that follows a prompt."""
        if not self._adds_space or not text:
            return self._encode(text)
        if text.startswith(" "):
            return self._encode(text[1:]) if len(text) > 1 else self._encode(text)[:1]
        before, ids = self._encode("\n"), self._encode("\n" + text)
        return ids[len(before) :] if ids[: len(before)] == before else self._encode(text)

    def count(self, text: str) -> int:
        """Number of tokens of a text, without special tokens."""
        return len(self._encode(text))

    def token_text(self, token: int) -> str:
        """The text a token adds when it follows another, its leading space kept."""
        if token not in self._token_texts:
            self._token_texts[token] = self.added_text([token], skip_special=False)
        return self._token_texts[token]

    def token_texts(self, tokens: Iterable[int]) -> list[str]:
        """`token_text` of each."""
        return [self.token_text(int(token)) for token in tokens]

    def added_text(self, tokens: list[int], skip_special: bool = True) -> str:
        """The text that tokens add after others."""
        before = self._decode(self._anchor, skip_special)
        return self._decode(self._anchor + tokens, skip_special)[len(before) :]

    def reply_text(self, request: Request, tokens: list[int]) -> str:
        """Generated text: a reply of its own after chat messages, else what is added to the prompt."""
        if request.messages is not None and request.messages[-1].role != "assistant":
            return self._decode(tokens, True)
        return self.added_text(tokens)

    def _encode(self, text: str, special: bool = False) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=special)["input_ids"]]

    def _decode(self, tokens: list[int], skip_special: bool) -> str:
        return str(
            self.tokenizer.decode(
                tokens, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
            )
        )

    def _chat(self, messages: tuple[Message, ...]) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelUnavailableError(
                f"model {self.name!r} has no chat template, so it cannot answer chat messages; "
                "accepted: an instruction-tuned model, or scorers and explainers that use likelihoods"
            )
        from jinja2 import TemplateError

        try:
            return self._template([{"role": m.role, "content": m.content} for m in messages])
        except TemplateError:
            if messages[0].role != "system" or len(messages) < 2:
                raise
        joined = f"{messages[0].content}\n\n{messages[1].content}"  # templates without a system role
        rest = [{"role": m.role, "content": m.content} for m in messages[2:]]
        return self._template([{"role": messages[1].role, "content": joined}, *rest])

    def _template(self, chat: list[dict[str, str]]) -> str:
        continues = chat[-1]["role"] == "assistant"
        return str(
            self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=not continues, continue_final_message=continues
            )
        )
