from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from autointerp.explainers import contrastive
from autointerp.explainers.contrastive import NO_SILENT
from autointerp.sampling.windows import LatentRecord
from tests.explainers.made_up import FakeModel, Vocabulary, context, record, window
from tests.explainers.test_asking import build, query


def banks(v: Vocabulary, kinds: dict[str, int]) -> LatentRecord:
    windows = [window(v, [(" river", 1.0), (" bank", 5.0 - i), (" x", 0)], i, 10 - i) for i in range(2)]
    for kind, n in kinds.items():
        for i in range(n):
            silent = window(v, [(f" {kind}{i}", 0), (" bank", 0)], len(windows))
            windows.append(replace(silent, kind=kind))
    return record(windows)


def test_marks_activations_and_silent_windows():
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: river banks")
    r = banks(v, {"similar": 1, "unread": 3})
    (got,) = build("contrastive").explain([r], context(model, v.table))
    assert query(model.requests[0]).startswith(
        'Responds 1: " river <<bank>> x"\n'
        'Activations: "bank" 10\n'
        'Responds 2: " river <<bank>> x"\n'
        'Activations: "bank" 8\n'
        "\n"
        'Silent 1: " similar0 bank"\n'
        "\n"
        'Marked words: ["bank"]\n'
    )
    assert query(model.requests[0]).splitlines()[-1] == "EXPLANATION: your phrase"
    assert got.details == {"n_windows": 2, "n_silent": {"similar": 1}}
    build("contrastive", show_activations=False).explain([r], context(model, v.table))
    assert all("Activations" not in m.content for m in model.requests[1].messages)
    assert "strength" not in model.requests[1].messages[0].content


def test_similar_windows_come_first_then_neighbours_then_random():
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    r = banks(v, {"random": 9, "neighbour": 3, "similar": 2})
    (got,) = build("contrastive", n_silent=7).explain([r], context(model, v.table))
    shown = [
        line.split('" ')[1] for line in query(model.requests[0]).splitlines() if line.startswith("Silent")
    ]
    assert [word.rstrip('0123456789 bank"')[:4] for word in shown] == ["simi"] * 2 + ["neig"] * 3 + [
        "rand"
    ] * 2
    assert got.details["n_silent"] == {"neighbour": 3, "random": 2, "similar": 2}
    assert len(set(shown)) == 7


def test_without_silent_windows_nothing_is_asked():
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    (got,) = build("contrastive").explain([banks(v, {"unread": 2})], context(model, v.table))
    assert (got.status, got.reason) == ("failed", NO_SILENT)
    assert not model.requests


def test_a_contrast_of_random_windows_only_is_told_once(monkeypatch):
    # Not by caplog: libraries of other tests may have silenced logging by then.
    said: list[str] = []
    monkeypatch.setattr(contrastive, "log", SimpleNamespace(warning=lambda text, *args: said.append(text)))
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    easy, close = banks(v, {"random": 2}), banks(v, {"random": 2, "neighbour": 1})
    for records, told in (([close, easy], 0), ([easy], 1)):
        said.clear()
        explainer = build("contrastive")
        for _ in range(2):
            explainer.explain(records, context(model, v.table))
        assert [text.count("n_train_similar") for text in said] == [1] * told
