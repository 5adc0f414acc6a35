"""A planted dictionary and a language model that take their time, so that something can be lost in the middle."""

from __future__ import annotations

import json
import os
import re
import time

from tests.oracle import Oracle
from tests.planted import PlantedDictionary
from tests.planted import dictionary as planted

SECONDS_VARIABLE = "SLOW_DICTIONARY_SECONDS"


class SlowDictionary:
    """The planted dictionary; each batch takes a while. It notes in which process, and what that sees."""

    def __init__(self, inner: PlantedDictionary) -> None:
        self.inner, self.W_dec = inner, inner.W_dec
        if folder := os.environ.get("NOTES_FOLDER"):
            note = {"device": os.environ.get("CUDA_VISIBLE_DEVICES")}
            with open(f"{folder}/{os.getpid()}.json", "w") as handle:
                json.dump(note, handle)

    def encode(self, activations):
        time.sleep(float(os.environ.get(SECONDS_VARIABLE, "0")))
        return self.inner.encode(activations)


def dictionary() -> SlowDictionary:
    """What `[dictionary] path = "tests.engine.slow:dictionary"` calls."""
    return SlowDictionary(planted())


class Server(Oracle):
    """Explains with a text of its own for each request, and judges as the oracle does."""

    def reply(self, body: dict) -> dict:
        answer = super().reply(body)
        if "response_format" not in body:
            query = body["messages"][-1]["content"]
            longest = max(re.findall(r"[a-z]+", query), key=len)
            answer["choices"][0]["message"]["content"] = f'EXPLANATION: words like "{longest}"'
        return answer
