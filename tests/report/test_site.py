from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from autointerp.analyze.correlations import correlations
from autointerp.artifacts import DATASETS, write_shard
from autointerp.artifacts.manifest import read_manifest, write_manifest
from autointerp.config import ReportConfig
from autointerp.errors import UserError
from autointerp.report import numbers, site
from autointerp.report.finish import finish
from autointerp.report.latent_page import part_of_character
from autointerp.report.site import write_site
from autointerp.run import open_run, printable
from autointerp.sampling.windows import TokenTable
from tests.report.pages import assert_harmless, parse
from tests.synthetic import ALL_SCORERS, HOSTILE, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("runs") / "synthetic", scorers=ALL_SCORERS))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return write_site(run, tmp_path_factory.mktemp("site") / "report").parent


def read(path):
    return path.read_text(encoding="utf-8")


def entries_of(folder):
    """What the scripts of a site hand to the page."""
    found = []
    for i, path in enumerate(sorted((folder / "data").iterdir())):
        text = path.read_text(encoding="ascii")
        match = re.fullmatch(r"autointerpEntries\((\d+),(.*)\);\n", text, re.DOTALL)
        assert int(match[1]) == i
        found += json.loads(match[2])
    return found


def test_every_page_of_a_hostile_corpus_is_harmless(folder):
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) == 14
    for path in pages:
        text = read(path)
        page = parse(text)
        assert_harmless(page, text)
        policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "http" not in policy
        for element in [*page.all("script"), *page.all("link"), *page.all("a")]:
            address = element.attributes.get("src") or element.attributes.get("href")
            if not address.startswith("#"):
                assert (path.parent / address.split("?")[0]).resolve().is_file(), (path.name, address)


def test_hostile_labels_are_shown_as_they_are(folder):
    shown = printable(" ".join(HOSTILE))
    page = parse(read(folder / "latents" / "0.html"))
    assert page.one("h1").text == " ".join(shown.split())
    listed = parse(read(folder / "latents.html"))
    assert " ".join(shown.split()) in [a.text for a in listed.one("tbody", id="rows").all("a")]
    assert shown in [entry[8] for entry in entries_of(folder)]
    scripts = "".join(p.read_text() for p in (folder / "data").iterdir())
    assert scripts.isascii()


def test_the_list_holds_every_label_and_its_scores(folder, run):
    entries = entries_of(folder)
    real = run.table("explanations").filter(pc.field("control").is_null())
    assert len(entries) == real.num_rows == 24
    assert sorted(e[0] for e in entries if e[6]) == list(range(12))
    scores = {
        (r["latent"], r["explainer"], r["scorer"]): r["value"]
        for r in run.table("scores").to_pylist()
        if r["control"] is None and r["status"] == "ok"
    }
    for entry in entries:
        for scorer, value in zip(ALL_SCORERS, entry[11], strict=True):
            name = "none" if scorer == "intruder" else entry[5]
            expected = scores.get((entry[0], name, scorer))
            assert (value is None) == (expected is None)
            assert value is None or f"{value:z.3f}" == f"{expected:z.3f}"
    assert {e[7] for e in entries if e[0] == 3} == {"undetermined"}
    assert {e[8] for e in entries if e[0] == 1} == {"dead latent: never active on the cached tokens"}


def test_the_list_the_page_and_the_terminal_show_the_same_digits(tmp_path):
    root = make_run(tmp_path / "run")
    # Rounded twice these would be .032, .003 and .828; the last two are ties.
    values = {5: 0.031478, 6: 0.002451, 7: 0.8275, 8: 0.0625, 9: -0.0004}
    (path,) = (root / "scores" / "detection" / "default").glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        if row["control"] is None and row["latent"] in values:
            row |= {"value": values[row["latent"]], "status": "ok"}
    write_shard(path, pa.Table.from_pylist(rows, schema=table.schema), DATASETS["scores"])
    run = open_run(root)
    folder = write_site(run, tmp_path / "report").parent
    place = site.scorers_of_run(run).index("detection")
    for latent, shown in {5: "0.031", 6: "0.002", 7: "0.827", 8: "0.062", 9: "0.000"}.items():
        (entry,) = [e for e in entries_of(folder) if e[0] == latent and e[5] == "default"]
        assert f"{entry[11][place]:z.3f}" == shown
        page = parse(read(folder / "latents" / f"{latent}.html"))
        row = next(
            r for r in page.one("table", class_="labels").all("tr") if r.all("th")[0].text == "detection"
        )
        assert row.all("b")[0].text == shown
    densities = dict(
        zip(*(run.table("latents").column(x).to_pylist() for x in ("latent", "density")), strict=True)
    )
    for entry in entries_of(folder):
        assert numbers.measure(entry[2]) == numbers.measure(densities[entry[0]])


def test_numbers_over_few_latents_have_no_interval_and_no_second_dash(tmp_path):
    folder = finish(make_run(tmp_path / "run", only=[5, 6, 7], scorers=("detection", "simulation"))).parent
    page = parse(read(folder / "index.html"))
    first = page.all("table", class_="summary")[0]
    assert "no interval" in first.text
    assert "[" not in first.text
    for cell in page.all("td", class_="num"):
        assert cell.text.count(numbers.DASH) <= 1, cell.text
    assert "published tool" not in page.text


def test_a_presets_published_number_has_its_column(tmp_path):
    root = make_run(tmp_path / "run", scorers=("detection", "fuzzing"))
    (path,) = (root / "scores" / "detection" / "default").glob("*.parquet")
    table = pq.read_table(path)
    rows = [row | {"peer_metric": "accuracy", "peer_value": 0.25} for row in table.to_pylist()]
    write_shard(path, pa.Table.from_pylist(rows, schema=table.schema), DATASETS["scores"])
    page = parse(read(write_site(open_run(root), tmp_path / "report")))
    assert "published tool" in [th.text for th in page.all("th")]
    assert any(td.text == "0.250accuracy" for td in page.all("td", class_="num"))


def test_tokens_read_say_what_they_leave_out(tmp_path):
    root = make_run(tmp_path / "run")
    assert "Tokens read" not in read(write_site(open_run(root), tmp_path / "report"))
    counts = {"n_tokens": 300_032, "n_contexts": 2_344, "mask_first": True, "mask_special": True}
    manifest = read_manifest(root, "cache")
    for masked, words in ((2_344, "(the first of each context)"), (2_400, "context and special tokens)")):
        write_manifest(root, replace(manifest, counts={**counts, "n_positions_masked": masked}))
        shown = parse(read(write_site(open_run(root), tmp_path / "report"))).text
        assert f"Of 300,032 tokens of the corpus {numbers.count(masked)} are masked" in shown
        assert words in shown


def test_parts_of_a_character_say_so():
    pieces = [b"word", "é".encode(), "é".encode()[:1], b" " + "ἀ".encode()[:2], None]
    tokens = TokenTable(pieces, ["word", "é", "\\xc3", "\\x20\\xe1\\xbc", "<s>"])
    assert [part_of_character(tokens, i) for i in range(5)] == [
        "", "", "part of a character: byte c3", "part of a character: bytes 20 e1 bc", "",
    ]  # fmt: skip


def test_a_latents_page_holds_all_that_is_known(folder, run):
    page = parse(read(folder / "latents" / "5.html"))
    table = page.one("table", class_="labels")
    assert [span.text for span in table.one("thead").all("span", class_="by")] == ["default", "statistics"]
    row = next(r for r in table.one("tbody").all("tr") if r.all("th")[0].text == "detection")
    score = next(
        r
        for r in run.table("scores", latents=[5]).to_pylist()
        if (r["explanation"], r["scorer"]) == ("default/0", "detection")
    )
    assert numbers.score(score["value"]) in [b.text for b in row.all("b")]
    assert (
        f"{score['tp'] + score['tn']} of {score['tp'] + score['fp'] + score['tn'] + score['fn']} right"
        in row.text
    )
    windows = run.table("examples", latents=[5]).to_pylist()
    over = page.one("p", class_="over")
    assert [code.text for code in over.all("code")] == ["default"]
    assert "By the sum of its activations" in page.one("section", aria_labelledby="h-what").text
    judged = page.one("table", class_="judged")
    rows = run.table("judgements", latents=[5]).to_pylist()
    items = {(r["example"], r["kind"]) for r in rows if r["predicted_activations"] is None}
    assert len(judged.one("tbody").all("tr")) == len(items) > sum(w["split"] == "test" for w in windows) / 2
    assert [th.text for th in judged.all("th", scope="colgroup")] == list(ALL_SCORERS)
    (failed,) = {
        s.text.split("!")[-1]
        for td in judged.all("td")
        if td.attributes.get("data-name", "").startswith("simulation")
        for s in td.all("span", class_="bad")
    }
    assert failed == "error"
    deciles = [th.text for th in page.all("th", scope="rowgroup") if th.text.startswith("decile")]
    assert deciles[0] == "decile 10, the strongest"
    marks = [m for m in page.all("mark") if "title" in m.attributes]
    assert {int(m.attributes["class"][1:]) for m in marks} <= set(range(1, 11))
    assert all(float(m.attributes["title"]) > 0 for m in marks)
    assert page.all("svg", class_="activations")
    assert page.one("section", aria_labelledby="h-simulated").all("mark")


def test_judges_are_right_and_wrong_as_the_judgements_say(folder, run):
    rows = [
        r
        for r in run.table("judgements", latents=[6]).to_pylist()
        if r["explanation"] in ("default/0", "statistics/0", "none") and r["predicted_activations"] is None
    ]
    page = parse(read(folder / "latents" / "6.html"))
    shown = page.one("table", class_="judged").all("span", class_="d")
    other = [s for d in page.all("details", class_="section") for s in d.all("span", class_="d")]
    for kind, fits in {
        "right": lambda r: r["status"] == "ok" and r["prediction"] == r["label"],
        "wrong": lambda r: r["status"] == "ok" and r["prediction"] != r["label"],
        "bad": lambda r: r["status"] != "ok",
    }.items():
        n = sum(kind in s.attributes["class"].split() for s in [*shown, *other])
        assert n == sum(map(fits, rows)), kind


def test_the_page_of_the_run(folder, run):
    page = parse(read(folder / "index.html"))
    assert page.one("head").one("title").text == "synthetic · autointerp"
    names = [h.text for h in [*page.all("h2"), *page.all("h3")]]
    for name in (
        "How far to trust the labels",
        "Calibration of the judges",
        "How often latents fire",
        "What the models were asked",
    ):
        assert name in names
    labels = [e.attributes["aria-label"] for e in page.all("svg")]
    for words in (
        "sensitivity of detection of default, 1: ",
        "specificity of fuzzing of statistics, random: ",
        "Spearman correlations, all explanations",
        "calibration of detection of default: error ",
        "latents by density: ",
    ):
        assert any(label.startswith(words) for label in labels), words
    pooled = next(r for r in correlations(run) if r.explainer is None and not r.with_controls)
    assert numbers.rate(pooled.spearman) in [e.text for e in page.all("text")]
    cost = next(
        r for r in page.one("table", class_="costs").all("tr") if "explain" in r.text and "default" in r.text
    )
    assert "$0.015" in cost.text
    assert "<b>1</b>" in page.text


def test_undefined_numbers_are_dashes(folder):
    for path in folder.rglob("*.html"):
        text = re.sub(r"<pre>.*?</pre>", "", read(path), flags=re.DOTALL)
        assert not re.search(r"\b(None|nan|NaN|inf)\b", text), path.name


def test_limits_and_earlier_pages(run, tmp_path):
    folder = tmp_path / "report"
    write_site(run, folder)
    (folder / "mine.txt").write_text("kept")
    write_site(run, folder, ReportConfig(n_latents=2, n_windows=3))
    assert len(list((folder / "latents").iterdir())) == 2
    assert (folder / "mine.txt").read_text() == "kept"
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    entries = entries_of(folder)
    assert len(entries) == 24
    linked = {e[0] for e in entries if e[10]}
    assert {p.stem for p in (folder / "latents").iterdir()} == {str(latent) for latent in linked}
    page = parse(read(folder / "latents" / f"{min(linked)}.html"))
    assert all(
        a.attributes["href"].split(".")[0] in map(str, linked)
        for a in page.all("a")
        if a.attributes["href"][0].isdigit()
    )
    shown = [
        r
        for t in page.all("table", class_="windows")
        if "judged" not in t.attributes["class"] and "simulated" not in t.attributes["class"]
        for r in t.all("tr")
        if r.all("mark")
    ]
    assert len(shown) == 3


def test_entries_in_several_scripts_and_a_limit(run, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "SHARD", 7)
    monkeypatch.setattr(site, "MAX_ENTRIES", 20)
    folder = write_site(run, tmp_path / "report").parent
    assert [p.name for p in sorted((folder / "data").iterdir())] == ["0000.js", "0001.js", "0002.js"]
    entries = entries_of(folder)
    assert len(entries) == 20
    ranks = [sum(s is not None for s in e[11]) for e in entries]
    assert ranks == sorted(ranks, reverse=True)
    assert parse(read(folder / "latents.html")).one("div", id="list").attributes["data-shards"] == "3"


@pytest.mark.parametrize("options", [{"explained": False}, {"scored": False}])
def test_a_run_without_scores_or_explanations(tmp_path, options):
    folder = write_site(open_run(make_run(tmp_path / "run", **options)), tmp_path / "report").parent
    for path in folder.rglob("*.html"):
        text = read(path)
        assert_harmless(parse(text), text)
        assert not re.search(r"\b(None|nan|NaN)\b", text)
    assert "Nothing is scored yet" in parse(read(folder / "index.html")).text
    assert len(entries_of(folder)) == (24 if options.get("explained", True) else 12)


SMALL = {
    "one latent": {"only": [5]},
    "nothing to judge": {"only": [1, 3]},
    "nothing readable": {"only": [4]},
    "one scorer, no explanation": {"scorers": ("intruder",)},
    "one latent, one scorer": {"only": [5], "scorers": ("simulation",)},
}


@pytest.mark.parametrize("options", SMALL.values(), ids=SMALL)
def test_small_and_failed_runs(tmp_path, capsys, options):
    page = finish(make_run(tmp_path / "run", **options))
    shown = capsys.readouterr().out
    texts = [read(path) for path in page.parent.rglob("*.html")]
    for text in texts:
        parse(text)
    for output in [shown, *(re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL) for text in texts)]:
        assert not re.search(r"\b(None|nan|inf)\b", output)


def test_activations_that_are_not_all_kept_are_not_drawn(tmp_path):
    root = make_run(tmp_path / "run")
    dataset = open_run(root).directory.dataset("activations")
    table = dataset.read().sort_by([("activation", "descending")])
    strongest = table.slice(0, table.num_rows // 2).sort_by(
        [("latent", "ascending"), ("context", "ascending")]
    )
    (path,) = dataset.shards

    def labels() -> list[str]:
        folder = write_site(open_run(root), tmp_path / "report").parent
        page = parse(read(folder / "latents" / "5.html"))
        return [svg.attributes["aria-label"] for svg in page.all("svg", class_="activations")]

    assert re.fullmatch(r"activations of \d+ tokens, largest .*", labels()[0])
    write_shard(path, strongest, DATASETS["activations"])
    assert labels()[0].startswith("activations by decile")
    path.unlink()
    assert labels()[0].startswith("activations by decile")


def test_a_folder_that_cannot_be_written_is_a_users_mistake(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_site(run, tmp_path / "file" / "report")


def test_trajectories_are_drawn_and_broken_ones_said(tmp_path):
    root = make_run(tmp_path / "run")
    path = root / "explanations" / "default" / "part-00000.parquet"
    table = open_run(root).directory.dataset("explanations", "default").read()
    good = {
        "steps": [0, 1, 2],
        "tokens": ["<b>", " cat"],
        "probabilities": [[0.1, 0.2], [0.1, 0.5], [0.0, 0.9]],
        "losses": {},
    }
    details = table.column("details").to_pylist()
    details[5] = json.dumps({"trajectories": [good, {"steps": 1}, "no"], "note": "</script>\u202e"})
    table = table.set_column(table.column_names.index("details"), "details", pa.array(details))
    write_shard(path, table, DATASETS["explanations"])
    folder = write_site(open_run(root), tmp_path / "report").parent
    text = read(folder / "latents" / "5.html")
    page = parse(text)
    assert_harmless(page, text)
    assert len(page.all("figure", class_="trajectory")) == 1
    assert sum("cannot be drawn" in p.text for p in page.all("p")) == 2
    assert '"</script>' in page.one("table", class_="labels").all("pre")[0].text
    assert "trajectories" not in page.one("table", class_="labels").text


def test_what_killed_writers_left_is_removed(run, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    made = [tmp_path / f".new.{pid}" for pid in (gone.pid, os.getpid(), os.getppid())]
    for folder in made:
        (folder / "latents").mkdir(parents=True)
    write_site(run, tmp_path)
    assert [folder.exists() for folder in made] == [False, False, True]
