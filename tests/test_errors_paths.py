"""A relative path that leads nowhere says where it was looked for."""

from __future__ import annotations

import pytest

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError, looked_for
from autointerp.subject.corpus import corpus_files
from autointerp.subject.dictionary import open_dictionary


def test_where_a_relative_path_leads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looked_for("data/x") == (
        f"'data/x' (looked for {str(tmp_path / 'data/x')!r}: paths begin at the folder the command runs in)"
    )
    assert looked_for("/data/x") == "'/data/x'"


@pytest.mark.parametrize("source", ["sae_lens", "sparsify"])
def test_a_recipe_run_from_another_folder(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no file or folder") as caught:
        corpus_files("data/text.parquet")
    assert str(tmp_path / "data" / "text.parquet") in str(caught.value)
    config = DictionaryConfig(source=source, path="data/saes/mine", hook_point="blocks.0.hook_resid_post")
    with pytest.raises(UserError, match="folder") as caught:
        open_dictionary(config, SubjectConfig(model="none/at-all", device="cpu"))
    assert str(tmp_path / "data" / "saes" / "mine") in str(caught.value)
