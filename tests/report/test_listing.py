from __future__ import annotations

import math
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autointerp.errors import UserError
from autointerp.report.entries import blocks_of_entries, scorers_of_run
from autointerp.report.listing import EVERY, PAGE, ListQuery, parse_query
from autointerp.report.served_run import ServedRun
from autointerp.report.store import Store
from autointerp.run import open_run
from tests.synthetic import ALL_SCORERS, EXPLAINERS, make_run

FIELDS = {
    "q": st.sampled_from(
        ["", "words", "LIKE red", "<script>", "'; DROP TABLE entries; --", "%", "3", "walked 7", "spread"]
    ),
    "sort": st.sampled_from(["judged", "latent", "density", "max_activation", *ALL_SCORERS]),
    "dir": st.sampled_from(["asc", "desc"]),
    "explainer": st.sampled_from(["", EVERY, *EXPLAINERS]),
    "status": st.sampled_from(["", "ok", "dead", "rare"]),
    "state": st.sampled_from(["", "ok", "undetermined", "failed", "none"]),
    "by": st.sampled_from(["", *ALL_SCORERS]),
    "low": st.sampled_from(["", "0.5", "-1", "0.75"]),
    "high": st.sampled_from(["", "0.9", "0.6"]),
    "sparse": st.sampled_from(["", "0", "0.01"]),
    "dense": st.sampled_from(["", "1", "0.1"]),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("runs") / "run", scorers=ALL_SCORERS))


@pytest.fixture(scope="module")
def entries(run):
    return [row for block in blocks_of_entries(run, list(ALL_SCORERS)) for row in block.to_pylist()]


@pytest.fixture(scope="module")
def store(run):
    store = Store(run, list(ALL_SCORERS))
    yield store
    store.close()


def fits(entry, query):
    """The same question asked of one entry, word for word of the guide."""
    words = all(w in entry["search"] or (w.isdigit() and int(w) == entry["latent"]) for w in query.words)
    shown = entry["first"] if query.explainer == "" else query.explainer in (EVERY, entry["explainer"])
    inside = query.sparse is None or entry["density"] >= query.sparse
    inside &= query.dense is None or entry["density"] <= query.dense
    if query.by and (query.low is not None or query.high is not None):
        value = entry[f"s{ALL_SCORERS.index(query.by)}"]
        low = -math.inf if query.low is None else query.low
        high = math.inf if query.high is None else query.high
        inside &= value is not None and low <= value <= high
    return (
        words
        and shown
        and inside
        and query.status in ("", entry["status"])
        and query.state in ("", entry["state"])
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.fixed_dictionaries({}, optional=FIELDS))
def test_the_store_answers_as_the_definition(store, entries, asked):
    query = parse_query(asked, ALL_SCORERS, EXPLAINERS)
    found = store.ask(query)
    expected = [entry for entry in entries if fits(entry, query)]
    names = [(row["latent"], row["explanation"]) for row in found.rows]
    assert found.n == len(expected)
    assert set(names) == {(entry["latent"], entry["explanation"]) for entry in expected}
    if query.sort in ALL_SCORERS:
        values = [row["scores"][ALL_SCORERS.index(query.sort)] for row in found.rows]
        known = [v for v in values if v is not None]
        assert values[: len(known)] == known == sorted(known, reverse=query.dir == "desc")


@given(asked=st.fixed_dictionaries({}, optional=FIELDS), page=st.integers(1, 999))
def test_an_address_says_its_question(asked, page):
    query = parse_query(asked, ALL_SCORERS, EXPLAINERS)
    again = parse_query(dict(parse_qsl(query.address(page=page)[1:])), ALL_SCORERS, EXPLAINERS)
    assert again == parse_query({**asked, "page": str(page)}, ALL_SCORERS, EXPLAINERS)


@pytest.mark.parametrize(
    "asked",
    [
        {"sort": "latent; DROP TABLE entries"},
        {"sort": "s0"},
        {"explainer": "nobody"},
        {"status": "fine"},
        {"low": "nan"},
        {"high": "inf"},
        {"low": "1e999"},
        {"page": "0"},
        {"page": "-1"},
        {"page": "٣"},
        {"page": "1e3"},
        {"unknown": "1"},
    ],
    ids=str,
)
def test_what_is_not_known_is_refused(asked):
    with pytest.raises(UserError) as caught:
        parse_query(asked, ALL_SCORERS, EXPLAINERS)
    assert "\n" not in str(caught.value)


def test_pages_follow_one_another(store, monkeypatch):
    import autointerp.report.store as module

    monkeypatch.setattr(module, "PAGE", 5)
    rows = [row for page in range(1, 7) for row in store.ask(ListQuery(explainer=EVERY, page=page)).rows]
    assert len(rows) == 24
    assert len({(row["latent"], row["explanation"]) for row in rows}) == 24
    assert PAGE == 100


def test_the_first_entry_of_a_latent_answers_for_all_its_labels(store, entries):
    first = next(e for e in entries if e["latent"] == 0 and e["first"])
    assert first["explainer"] == "default"
    only = [e["label"] for e in entries if e["latent"] == 0]
    assert all(label.lower() in first["search"] for label in only)
    assert [e["first"] for e in entries if e["latent"] == 0] == [True, False]


def test_the_databases_file_goes_with_it(run):
    from pathlib import Path

    store = Store(run, list(ALL_SCORERS))
    folder = Path(store._folder.name)
    assert folder.is_dir()
    store.close()
    assert not folder.exists()


def test_blocks_do_not_change_the_entries(run, entries):
    small = [row for block in blocks_of_entries(run, list(ALL_SCORERS), 5) for row in block.to_pylist()]
    assert small == entries
    assert scorers_of_run(run) == list(ALL_SCORERS)


def test_a_served_run_reads_the_same_rows(run):
    served = ServedRun(run.root)
    for dataset in ("latents", "examples", "explanations", "judgements", "scores", "activations"):
        for latents in ([3], [0, 11], [99], []):
            assert served.table(dataset, latents=latents).equals(run.table(dataset, latents=latents))
