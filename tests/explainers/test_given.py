"""Labels read from a file become explanations, and what is wrong with the file is one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from autointerp.errors import UserError
from autointerp.explainers.base import ExplainContext
from autointerp.explainers.given import Given, GivenConfig
from autointerp.sampling.windows import LatentRecord, TokenTable

CONTEXT = ExplainContext(model=None, tokens=TokenTable([], []), token_counts=np.zeros(0, np.int64), seed=0)
ROWS = pd.DataFrame({"latent": [2, 0, 2], "text": ["sea  birds", "", "gulls\nand terns"]})


def explain(path, latents=(0, 1, 2), **options):
    records = [LatentRecord(latent=latent, statistics={"status": "ok"}) for latent in latents]
    return Given(GivenConfig(path=str(path), **options)).explain(records, CONTEXT)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_of_the_file_become_explanations(tmp_path, kind):
    path = tmp_path / f"labels.{kind}"
    if kind == "jsonl":
        ROWS.to_json(path, orient="records", lines=True)
    elif kind == "csv":
        ROWS.to_csv(path, index=False)
    else:
        ROWS.to_parquet(path)
    found = [(e.latent, e.text, e.status) for e in explain(path)]
    assert found == [
        (0, None, "undetermined"),
        (1, None, "failed"),
        (2, "sea birds", "ok"),
        (2, "gulls and terns", "ok"),
    ]


def test_results_follow_the_file(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("latent,text\n0,birds\n")
    before = Given(GivenConfig(path=str(path))).prompts()
    path.write_text("latent,text\n0,fish\n")
    assert Given(GivenConfig(path=str(path))).prompts() != before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("labels.csv", None, "cannot read"),
        ("labels.txt", "latent,text\n", "accepted: a file ending in"),
        ("labels.csv", "feature,text\n0,a\n", "has no column 'latent'; it has: feature, text"),
        ("labels.csv", "latent,text\n-1,a\n", "accepted: an index from 0"),
        ("labels.csv", "latent,text\n0.5,a\n", "accepted: an index from 0"),
        ("labels.csv", "latent,text\nx,a\n", "accepted: an index from 0"),
        ("labels.jsonl", "{broken", "cannot read"),
        ("labels.parquet", "no parquet", "cannot read"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        Given(GivenConfig(path=str(path))).check()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
