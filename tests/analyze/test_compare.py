"""Comparing run directories: what is read, and whether runs may be paired is checked, not assumed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.analyze.compare import compare, pareto
from autointerp.analyze.compare_windows import Shown, read_shown, same_windows
from autointerp.artifacts.manifest import read_manifest, write_manifest
from autointerp.errors import UserError
from autointerp.run import open_run
from tests.synthetic import ALL_SCORERS, FREE, make_run

FAST = {"n_resamples": 100, "n_flips": 200}


def make(path, dictionary: str | None = "sae:1", scorers=ALL_SCORERS, **options):
    """A made-up run that says of which dictionary it is."""
    root = make_run(path, scorers=scorers, **options)
    if dictionary:
        manifest = read_manifest(root, "cache")
        counts = {"dictionary": dictionary, "hook_point": "blocks.3.mlp.hook_post", "n_tokens": 768}
        write_manifest(root, replace(manifest, counts=counts, config={"subject": {"weights": "w"}}))
    return root


def change(path, column: str, values) -> None:
    """Replace a column of a shard."""
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    new = pa.array(values(table.column(column).to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), new), path)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A run, the same run with its windows numbered otherwise, and one whose judges are better."""
    folder = tmp_path_factory.mktemp("runs")
    first, renumbered = (make(folder / name, n_latents=20) for name in ("first", "renumbered"))
    shards = [renumbered / "examples" / "part-00000.parquet", *renumbered.glob("judgements/*/*/*.parquet")]
    for shard in shards:
        change(shard, "example", lambda column: [1_000 - x for x in column])
    return first, renumbered


@pytest.fixture(scope="module")
def found(roots):
    return compare(roots[:1], **FAST)


def test_numbers_are_those_of_the_scores(roots, found):
    frame = open_run(roots[0]).scores()
    real = frame[frame.control.isna() & (frame.scorer == "detection")]
    values = {
        name: real[real.explainer == name].set_index("latent").value for name in ("default", "statistics")
    }
    both = (values["default"] - values["statistics"]).dropna()
    row = found.pairs[0]
    assert (row.question, row.scorer, row.a_explainer, row.b_explainer) == (
        "explainers", "detection", "default", "statistics",
    )  # fmt: skip
    assert (row.n, row.pairing, row.n_same_windows) == (len(both), "windows", len(both))
    assert row.difference == pytest.approx(both.mean())
    assert row.wins == (both > 0.01).sum()
    board = found.board[0]
    assert (board.n_asked, board.n_scored, board.n_unexplained) == (20, values["default"].count(), 2)
    assert board.mean == pytest.approx(values["default"].mean())
    assert board.shared_mean == pytest.approx(values["default"][both.index].mean())
    assert board.coverage == pytest.approx(values["default"].count() / 20)
    assert board.read == pytest.approx(
        1 - (real[real.explainer == "default"][["n_unparsed", "n_error"]].sum().sum())
        / real[real.explainer == "default"].n_examples.sum()
    )  # fmt: skip


def test_labels_and_their_cost(found):
    default, statistics = found.explainers
    assert (default.n_latents, default.n_labelled, default.n_undetermined, default.n_failed) == (20, 18, 1, 1)
    assert (default.coverage, default.common_coverage) == (0.9, 0.9)
    assert default.tokens_per_latent == pytest.approx(129)
    assert default.cost_usd_per_latent == pytest.approx(0.00125)
    assert (default.seconds_per_latent, default.seconds_of) == (pytest.approx(0.5), "requests")
    assert (statistics.tokens_per_latent, statistics.cost_usd_per_latent) == (0.0, 0.0)
    assert (statistics.seconds_per_latent, statistics.seconds_of) == (pytest.approx(1.5 / 20), "step")
    assert found.axis() == "cost_usd"
    assert default.words > 3


def test_an_explainer_with_a_model_of_its_own_asks_for_no_tokens(tmp_path):
    root = make(tmp_path / "run")
    for name, model in (("statistics", "own.gguf"), ("default", "served")):
        folder = root / "explanations" / name
        change(folder / "part-00000.parquet", "model", lambda column, model=model: [model] * len(column))
        for column in ("prompt_tokens", "completion_tokens", "cost_usd"):
            change(folder / "part-00000.parquet", column, lambda values: [None] * len(values))
        manifest = read_manifest(root, f"explain/{name}")
        asked = None if name == "statistics" else {"model": model}
        write_manifest(root, replace(manifest, config={"explainer": {"kind": name}, "model": asked}))
    rows = {row.explainer: row for row in compare([root], **FAST).explainers}
    assert (rows["statistics"].tokens_per_latent, rows["statistics"].cost_usd_per_latent) == (0.0, 0.0)
    assert (rows["default"].tokens_per_latent, rows["default"].cost_usd_per_latent) == (None, None)


def test_latents_say_which_are_shared_and_won(found):
    frame = found.latents.to_pandas()
    mine = frame[(frame.scorer == "detection")]
    wide = mine.pivot(index="latent", columns="explainer", values="value").dropna()
    shared = mine[mine.shared]
    assert set(shared.latent) == set(wide.index)
    assert mine[~mine.shared].best.isna().all()
    best = shared.pivot(index="latent", columns="explainer", values="best")
    for name, other in (("default", "statistics"), ("statistics", "default")):
        assert (best[name] == (wide[name] >= wide[other] - 0.01)).all()
    assert frame[frame.scorer == FREE].best.isna().all()


def test_windows_numbered_otherwise_are_the_same_windows(roots):
    found = compare(roots, **FAST)
    across = [row for row in found.pairs if row.question == "runs" and row.b_control is None]
    assert {row.pairing for row in across} == {"windows"}
    # Both runs were made with one seed, so every number is the same.
    assert {(row.difference, row.p, row.wins, row.losses) for row in across} == {(0.0, 1.0, 0, 0)}
    assert {row.verdict for row in across} == {"no difference shown"}
    assert {row.shares for row in found.runs} == {1}
    assert [row.run for row in found.runs] == ["first", "renumbered"]
    assert {row.layer for row in found.runs} == {3}
    shared = [row.n_shared for row in found.board if row.scorer == "detection"]
    assert len(set(shared)) == 1


def test_other_windows_are_told(roots, tmp_path):
    other = make(tmp_path / "other", n_latents=20)
    windows = other / "examples" / "part-00000.parquet"
    latents = pq.read_table(windows).column("latent").to_pylist()
    change(
        windows, "tokens",
        lambda column: [[1, *row[1:]] if latent == 5 else row for row, latent in zip(column, latents, strict=True)],
    )  # fmt: skip
    rows = [row for row in compare([roots[0], other], **FAST).pairs if row.question == "runs"]
    assert {row.pairing for row in rows} == {"latents"}
    assert all(row.n_same_windows == row.n - 1 for row in rows)


@pytest.mark.parametrize("dictionary", [None, "sae:2"])
def test_other_dictionaries_are_not_paired(roots, tmp_path, dictionary):
    other = make(tmp_path / "other", dictionary=dictionary, n_latents=20)
    found = compare([roots[0], other], **FAST)
    rows = [row for row in found.pairs if row.question == "runs"]
    assert {(row.pairing, row.why) for row in rows} == {
        ("none", "other dictionaries, or a run that does not say which")
    }
    assert {row.wins for row in rows} == {None}
    assert sorted(row.shares for row in found.runs) == [1, 2]


def test_unlike_settings_are_told(roots, tmp_path):
    other = make(tmp_path / "other", n_latents=20)
    step = "score/detection/default"
    for root, judge in ((roots[1], "a"), (other, "b")):
        manifest = read_manifest(root, step)
        write_manifest(root, replace(manifest, config={"scorer": {"kind": "detection"}, "model": judge}))
    try:
        rows = compare([roots[1], other], scorers=["detection"], explainers=["default"], **FAST).pairs
    finally:
        write_manifest(roots[1], replace(read_manifest(roots[1], step), config={}))
    (row,) = [row for row in rows if row.question == "runs"]
    assert row.same_settings is False


def test_the_choice_of_scorers_and_explainers(roots):
    found = compare(roots[:1], scorers=["fuzzing"], explainers=["statistics"], **FAST)
    assert {(row.scorer, row.explainer) for row in found.board} == {("fuzzing", "statistics")}
    assert [row.question for row in found.pairs] == ["control"]
    assert [row.explainer for row in found.explainers] == ["statistics"]


def test_tables_do_not_depend_on_anything_but_the_seed(roots):
    tables = [compare(roots[:1], seed=seed, **FAST).tables() for seed in (0, 0, 1)]
    assert all(tables[0][name].equals(tables[1][name]) for name in tables[0])
    assert not tables[0]["pairs"].equals(tables[2]["pairs"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scorers": ["detektion"]}, "--scorer.*detection"),
        ({"explainers": ["defualt"]}, "--explainer.*default"),
        ({"baseline": "statistic"}, "--baseline.*statistics"),
        ({"baseline": "none"}, "--baseline: seen 'none'"),
        ({"baseline": "run/none"}, "--baseline: seen 'run/none'"),
    ],
)
def test_mistakes_are_one_line(roots, options, word):
    with pytest.raises(UserError, match=word) as caught:
        compare(roots[:1], **options)
    assert "\n" not in str(caught.value)


def test_a_run_is_a_baseline_among_several_only(roots):
    name = open_run(roots[0]).root.name
    with pytest.raises(UserError, match="--baseline"):
        compare(roots[:1], baseline=name)
    with pytest.raises(UserError, match="--baseline") as caught:
        compare(roots[:1], baseline=f"{name}/none")
    assert "none" not in str(caught.value).split("accepted: ")[1]


def test_runs_that_cannot_be_compared(roots, tmp_path):
    with pytest.raises(UserError, match="named twice"):
        compare([roots[0], roots[0]])
    with pytest.raises(UserError, match="holds no scores"):
        compare([make_run(tmp_path / "unscored", scored=False)])
    with pytest.raises(UserError, match="no folder"):
        compare([tmp_path / "nowhere"])


def test_runs_of_one_name_are_told_apart(roots, tmp_path):
    other = make(tmp_path / "first", dictionary="sae:3")
    assert [row.run for row in compare([roots[0], other], **FAST).runs] == ["first", "first-2"]


def test_what_was_shown_is_read_by_content_or_number(roots):
    first, renumbered = map(open_run, roots)
    ids = ["default/0"]
    by_number = [read_shown(run, "detection", "default", ids, False) for run in (first, renumbered)]
    by_content = [read_shown(run, "detection", "default", ids, True) for run in (first, renumbered)]
    latents = by_number[0].latents
    assert len(latents) == len(set(latents.tolist())) == 18
    assert same_windows(*by_number, latents) == 0
    assert same_windows(*by_content, latents) == len(latents)
    control = read_shown(first, "detection", "default", ["default.shuffled/0"], False)
    assert same_windows(by_number[0], control, latents) == len(latents)
    assert len(read_shown(first, "detection", "default", ["nothing/0"], True).latents) == 0


def test_a_window_shown_twice_or_with_another_truth_is_not_the_same(roots, tmp_path):
    root = make(tmp_path / "run", n_latents=20)
    run = open_run(root)
    before = read_shown(run, "detection", "default", ["default/0"], True)
    shard = root / "judgements" / "detection" / "default" / "part-00000.parquet"
    first = pq.read_table(shard).column("explanation").to_pylist().index("default/0")
    change(shard, "label", lambda column: [x != (i == first) for i, x in enumerate(column)])
    table = pq.read_table(shard)
    last = table.filter(pc.field("explanation") == "default/0")
    pq.write_table(pa.concat_tables([table, last.slice(last.num_rows - 1)]), shard)
    after = read_shown(run, "detection", "default", ["default/0"], True)
    n = len(before.latents)
    assert same_windows(before, after, before.latents) == n - 2


@given(
    st.dictionaries(st.integers(0, 50), st.integers(0, 3)),
    st.dictionaries(st.integers(0, 50), st.integers(0, 3)),
)
def test_same_windows_counts_equal_hashes(first, second):
    def of(hashes):
        latents = sorted(hashes)
        return Shown(
            latents=np.array(latents, dtype=np.int64),
            hashes=np.array([hashes[i] for i in latents], dtype=np.uint64),
        )

    asked = np.arange(0, 60, 2)
    expected = sum(i in first and i in second and first[i] == second[i] for i in asked.tolist())
    assert same_windows(of(first), of(second), asked) == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_pareto_keeps_what_nothing_beats(points):
    kept = pareto(points)
    assert any(kept)
    for (cost, quality), keep in zip(points, kept, strict=True):
        better = [(c, q) for c, q in points if c <= cost and q >= quality and (c, q) != (cost, quality)]
        assert keep == (not better)
