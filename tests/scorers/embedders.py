"""A text-embedding model small enough for a test: real files, read by the real library."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scorers import fakes

WIDTH = 8


def build(folder: Path) -> Path:
    """A sentence-transformers model of one vector per word: words of the concept lie together.

    A `StaticEmbedding` averages the vectors of a text's words, so cosines are known: that of
    "animals" with a text grows with the share of concept words in it.
    """
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", fakes.EXPLANATION, "music", *fakes.CONCEPT, *fakes.FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(words), WIDTH)).astype(np.float32) * 0.1
    vectors[:, 0] = 0
    for word in (fakes.EXPLANATION, *fakes.CONCEPT):
        vectors[words.index(word), 0] = 3
    vectors[words.index("music"), 1] = 3
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embedding.weight": vectors}, folder / "model.safetensors")
    module = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": module}]))
    (folder / "config.json").write_text("{}")
    return folder
