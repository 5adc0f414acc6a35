from __future__ import annotations

import pytest

from autointerp.analyze.control import compare_with_control
from autointerp.analyze.statistics import statistics_of
from autointerp.errors import UserError
from autointerp.run import open_run
from tests.synthetic import ALL_SCORERS, make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run = make_run(folder / "run", n_latents=20, scorers=ALL_SCORERS)
    control = make_run(folder / "random", n_latents=16, seed=1, skill=0.6, scorers=("detection", "intruder"))
    return open_run(run), open_run(control)


def test_difference_of_the_means(runs):
    rows = compare_with_control(*runs)
    assert [(r.scorer, r.explainer) for r in rows] == [
        ("detection", "default"), ("detection", "statistics"), ("intruder", "none"),
    ]  # fmt: skip
    row = rows[0]
    for run, n, mean in ((runs[0], row.n, row.mean), (runs[1], row.control_n, row.control_mean)):
        frame = run.scores()
        values = frame[
            (frame.scorer == "detection") & (frame.explainer == "default") & frame.control.isna()
        ].value
        assert (n, mean) == (values.count(), pytest.approx(values.mean()))
    assert row.difference == pytest.approx(row.mean - row.control_mean)
    assert 0 < row.difference_low < row.difference < row.difference_high
    assert row.chance == 0.5
    assert row.same_settings is None


def test_unlike_settings_are_told(runs, tmp_path):
    from dataclasses import replace

    from autointerp.artifacts.manifest import read_manifest, write_manifest

    roots = [make_run(tmp_path / name, scorers=("detection",)) for name in ("a", "b")]
    for root, explainer, version in (
        (roots[0], "default", 1),
        (roots[1], "default", 2),
        (roots[0], "statistics", 1),
        (roots[1], "statistics", 1),
    ):
        manifest = read_manifest(root, f"score/detection/{explainer}")
        config = {"seed": 0, "scorer": {"kind": "detection", "version": version}, "model": None}
        write_manifest(root, replace(manifest, config=config))
    rows = compare_with_control(*map(open_run, roots))
    assert [row.same_settings for row in rows] == [False, True]


def test_another_metric_is_not_compared(runs, tmp_path):
    other = make_run(tmp_path / "other", scorers=("detection",))
    shard = other / "scores" / "detection" / "default" / "part-00000.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(shard)
    place = table.schema.get_field_index("metric")
    pq.write_table(
        table.set_column(place, table.schema.field("metric"), pa.array(["auroc"] * table.num_rows)), shard
    )
    first, second = compare_with_control(runs[0], open_run(other))
    assert first.mean is not None
    assert first.control_mean is not None
    assert (first.difference, first.difference_low) == (None, None)
    assert second.difference is not None


def test_mistakes_are_one_line(runs, tmp_path):
    run, _ = runs
    nothing = open_run(make_run(tmp_path / "nothing", scored=False))
    unlike = open_run(make_run(tmp_path / "unlike", scorers=("other",)))
    for control, word in ((run, "itself"), (nothing, "none"), (unlike, "other/default")):
        with pytest.raises(UserError, match=word) as caught:
            compare_with_control(run, control)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="holds no scores"):
        statistics_of(nothing.root)
