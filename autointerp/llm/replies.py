"""A reply store opened to be looked at: counts, hits, pace and export; nothing is written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm import store_rows
from autointerp.llm.store import find_replies, has_table
from autointerp.llm.types import Reply

_NEW = (
    "SELECT key, models.model, prompts.prompt, request, created, prompt_tokens, completion_tokens, cost_usd FROM "
    "main.answers JOIN main.models ON answers.model = models.id JOIN main.prompts ON answers.prompt = prompts.id"
)
_OLD = (
    "SELECT key, model, NULL AS prompt, request, created, prompt_tokens, completion_tokens, cost_usd "
    f"FROM main.{store_rows.FIRST_LAYOUT}"
)
_ANSWERS = (
    "SELECT key, models.model, created, prompts.prompt, request, reply, reply_model, prompt_tokens, "
    "completion_tokens, cost_usd FROM answers JOIN models ON answers.model = models.id "
    "JOIN prompts ON answers.prompt = prompts.id"
)
_KEYS_PER_QUERY = 500
_HABIT_ROWS = 2_000
_PACE_ROWS = 200_000
_LONGEST_PAUSE_SECONDS = 60.0
_FEWEST_REPLIES = 20


@dataclass(frozen=True, kw_only=True)
class ModelReplies:
    """What a store holds of one model."""

    model: str
    """Identity of the model: name and a hash of what its answers depend on."""
    n_replies: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    """Sum of the known costs; None if none is known."""
    n_unpriced: int
    """Replies whose cost is not known."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """What one process asked of one model, as it wrote down when it ended."""

    ended: float
    """Seconds since 1970."""
    model: str
    requests: int
    stored: int
    """Of them, those answered from the store."""
    duplicates: int
    sent: int
    errors: int
    cost_usd: float | None


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What the stored replies of a model tell of those to come. None where too few are stored."""

    n_replies: int = 0
    characters_per_token: float | None = None
    """Of prompts."""
    completion_tokens: Mapping[int, float] = field(default_factory=dict)
    """Mean length of generated replies by `max_tokens` of their requests."""
    tokens_per_second: float | None = None
    """Prompt and generated tokens over the time replies came in, pauses of a minute left out."""


class StoredReplies:
    """Read-only view of a reply store; other processes may be writing it.

    Raises `UserError` if there is no such file and `CorruptArtifactError` if it is no reply store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"no reply store {str(self.path)!r}: nothing was asked yet, or it lies elsewhere")
        with self._explained():
            self._db = self._connect()
            self._old = has_table(self._db, store_rows.FIRST_LAYOUT)
            self._new = has_table(self._db, "answers")
            table = "answers" if self._new else store_rows.FIRST_LAYOUT
            self._db.execute(f"SELECT key, reply, model, request FROM {table} LIMIT 1").fetchone()
            # What may read either layout reads this.
            parts = [_NEW] * self._new + [_OLD] * self._old
            self._db.execute(f"CREATE TEMP VIEW both AS {' UNION ALL '.join(parts)}")

    @classmethod
    def at(cls, path: str | Path) -> StoredReplies | None:
        """The store at a path; None if there is none yet."""
        return cls(path) if Path(path).is_file() else None

    @property
    def n_bytes(self) -> int:
        """Size on disk, what is not yet merged into the file included."""
        files = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return sum(file.stat().st_size for file in files if file.is_file())

    def models(self) -> list[ModelReplies]:
        """What is stored of each model, most replies first."""
        with self._explained():
            rows = self._db.execute(
                "SELECT model, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
                "sum(cost_usd), count(*) - count(cost_usd) FROM both GROUP BY model ORDER BY 2 DESC, 1"
            ).fetchall()
        names = ("model", "n_replies", "prompt_tokens", "completion_tokens", "cost_usd", "n_unpriced")
        return [ModelReplies(**dict(zip(names, row, strict=True))) for row in rows]

    def uses(self, n: int = 10) -> list[Use]:
        """The last uses that were written down, latest first."""
        with self._explained():
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'uses'").fetchone():
                return []
            rows = self._db.execute(
                "SELECT ended, model, requests, stored, duplicates, sent, errors, cost_usd FROM uses "
                "ORDER BY ended DESC LIMIT ?",
                (n,),
            ).fetchall()
        names = ("ended", "model", "requests", "stored", "duplicates", "sent", "errors", "cost_usd")
        return [Use(**dict(zip(names, row, strict=True))) for row in rows]

    def get_many(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The stored replies among these keys."""
        with self._explained():
            found = find_replies(self._db, keys, new=self._new, old=self._old)
            return {key: read() for key, read in found}

    def exchanges(self, keys: Iterable[str]) -> dict[str, tuple[str, dict[str, Any], Reply]]:
        """Of the stored ones among these keys: the model's identity, the request as JSON values, the reply."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, tuple[str, dict[str, Any], Reply]] = {}
        with self._explained():
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                some = wanted[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                if self._old:
                    query = f"SELECT key, model, request, reply FROM {store_rows.FIRST_LAYOUT} WHERE key IN ({marks})"
                    for key, model, request, reply in self._db.execute(query, some):
                        found[key] = (model, json.loads(request), Reply.from_json(reply))
                if self._new:
                    query = f"{_ANSWERS} WHERE key IN ({marks})"
                    for key, model, _, prompt, request, *columns in self._db.execute(
                        query, [store_rows.key_bytes(key) for key in some]
                    ):
                        told = store_rows.unpack_request(prompt, request)
                        found[store_rows.key_text(key)] = (model, told, store_rows.unpack_reply(*columns))
        return found

    def export(self) -> Iterator[dict[str, Any]]:
        """Every reply as a table of JSON values: key, model, created, request and reply."""
        with self._explained():
            if self._old:
                columns = "key, model, created, request, reply"
                for key, model, created, request, reply in self._db.execute(
                    f"SELECT {columns} FROM {store_rows.FIRST_LAYOUT} ORDER BY key"
                ):
                    yield _exported(key, model, created, json.loads(request), Reply.from_json(reply))
            if self._new:
                for key, model, created, prompt, request, *columns in self._db.execute(
                    f"{_ANSWERS} ORDER BY key"
                ):
                    told = store_rows.unpack_request(prompt, request)
                    reply = store_rows.unpack_reply(*columns)
                    yield _exported(store_rows.key_text(key), model, created, told, reply)

    def habits(self, model: str) -> Habits:
        """Characters per token, length of replies and pace of one model, from some of its replies."""
        with self._explained():
            rows = self._db.execute(
                "SELECT prompt, request, prompt_tokens, completion_tokens FROM both "
                "WHERE model = ? AND prompt_tokens > 0 ORDER BY key LIMIT ?",
                (model, _HABIT_ROWS),
            ).fetchall()
            times = self._db.execute(
                "SELECT created, coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) FROM both "
                "WHERE model = ? ORDER BY created DESC LIMIT ?",
                (model, _PACE_ROWS),
            ).fetchall()
        if len(rows) < _FEWEST_REPLIES:
            return Habits(n_replies=len(rows))
        characters, tokens = 0, 0
        lengths: dict[int, list[int]] = {}
        for prompt, text, prompt_tokens, completion_tokens in rows:
            request = json.loads(text) if prompt is None else store_rows.unpack_request(prompt, text)
            characters += n_characters(request)
            tokens += prompt_tokens
            if request.get("continuation") is None and not request.get("prompt_top_logprobs"):
                lengths.setdefault(request["max_tokens"], []).append(completion_tokens or 0)
        return Habits(
            n_replies=len(rows),
            characters_per_token=characters / tokens if tokens else None,
            completion_tokens={
                most: sum(seen) / len(seen) for most, seen in lengths.items() if len(seen) >= _FEWEST_REPLIES
            },
            tokens_per_second=_pace(times),
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> StoredReplies:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        wal = self.path.with_name(f"{self.path.name}-wal")
        # Without a log beside it the file is whole, and reading it so creates no file.
        mode = "mode=ro" if wal.is_file() and wal.stat().st_size else "mode=ro&immutable=1"
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?{mode}", uri=True, timeout=60.0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
            raise CorruptArtifactError(
                f"reply store {self.path}: cannot be read, damaged or not a reply store ({error})"
            ) from error


def _exported(key: str, model: str, created: float, request: dict[str, Any], reply: Reply) -> dict[str, Any]:
    told = json.loads(reply.to_json())
    return {"key": key, "model": model, "created": created, "request": request, "reply": told}


def write_export(stored: StoredReplies, path: Path) -> int:
    """Write every reply as a line of JSON; returns how many. Raises `UserError` if the file cannot be written."""
    n = 0
    try:
        with path.open("w", encoding="utf-8") as file:
            for row in stored.export():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                n += 1
    except OSError as error:
        raise UserError(f"--export: {str(path)!r} cannot be written: {error.strerror}") from None
    return n


def n_characters(request: Mapping[str, Any]) -> int:
    """Characters of the prompt of a request given as a table of JSON values."""
    texts = [message["content"] for message in request.get("messages") or ()]
    texts += [request.get("prompt") or "", request.get("continuation") or ""]
    return sum(map(len, texts))


def _pace(times: list[tuple[float, int]]) -> float | None:
    """Tokens per second of replies given as (time, tokens), latest first."""
    seconds, tokens, n = 0.0, 0, 0
    for (later, n_tokens), (earlier, _) in pairwise(times):
        if later - earlier <= _LONGEST_PAUSE_SECONDS:
            seconds, tokens, n = seconds + later - earlier, tokens + n_tokens, n + 1
    return tokens / seconds if n >= _FEWEST_REPLIES and seconds > 0 else None
