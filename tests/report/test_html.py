from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from autointerp.analyze.correlations import correlations
from autointerp.config import ReportConfig
from autointerp.errors import UserError
from autointerp.report import numbers
from autointerp.report.finish import finish
from autointerp.report.html import render, write_report
from autointerp.run import open_run
from tests.synthetic import ALL_SCORERS, make_run

VOID = {"meta", "link", "input", "br", "img", "hr", "circle", "rect", "line", "polyline", "polygon"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            self.content.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.content[tag][-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("runs") / "synthetic", scorers=ALL_SCORERS))


@pytest.fixture(scope="module")
def text(run):
    return render(run)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_hostile_text_is_shown_and_never_markup(page, text):
    (script,) = page.content["script"]
    assert "alert" not in script
    assert not any(tag in ("img", "iframe", "object", "b1") for tag, _ in page.tags)
    titles = "".join(page.content["summary"])
    for shown in ("<script>alert(1)</script>", "{{ 7*7 }}", "{% raw %}", "\"quoted\" & 'single'"):
        assert shown in titles
    assert "49" not in re.findall(r"\{\{ 7\*7 \}\}|\b49\b", titles)
    assert "<img src=x onerror=alert(1)>" in titles
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", text)
    assert "<b>1</b>" in "".join(page.content["td"])


def test_nothing_is_loaded_and_no_code_stands_in_attributes(page):
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "style", "srcdoc", "action", "formaction", "srcset"), (tag, name)
            if name == "href":
                assert (value or "").startswith("#"), (tag, value)
    assert not any(tag in ("link", "base", "embed") for tag, _ in page.tags)
    assert "url(" not in page.content["style"][0]
    assert "@import" not in page.content["style"][0]


def test_policy_names_exactly_our_style_and_script(page):
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (content,) = page.content[tag]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_every_latent_has_its_section(page, run):
    sections = {a["id"] for t, a in page.tags if t == "details" and a.get("class") == "latent"}
    assert sections == {f"latent-{i}" for i in range(12)}
    assert page.content["title"][0].startswith("synthetic")
    tables = "".join(page.content["table"])
    assert "unparsed" in tables
    assert "undetermined: spread over <many> tokens" in tables


def test_marks_carry_their_activation(page):
    marks = [a for t, a in page.tags if t == "mark" and "title" in a]
    assert marks
    levels = {int((a["class"] or "")[1:]) for a in marks}
    assert levels <= set(range(1, 11))
    assert all(float(a["title"] or "") > 0 for a in marks)


def test_limits_of_the_configuration(run):
    page = Page(render(run, ReportConfig(n_latents=2, n_windows=3)))
    assert sum(a.get("class") == "latent" for _, a in page.tags) == 2


@pytest.mark.parametrize("options", [{"explained": False}, {"scored": False}])
def test_a_run_without_scores_or_explanations(tmp_path, options):
    run = open_run(make_run(tmp_path / "run", **options))
    text = render(run)
    assert "Nothing is scored yet" in text
    assert not re.search(r"\b(None|nan|NaN)\b", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    Page(text)


def test_undefined_numbers_are_dashes(text):
    body = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r">\s*(None|nan|null)\s*<", body)


def test_written_whole_and_returned(run, tmp_path):
    path = tmp_path / "deep" / "index.html"
    assert write_report(run, path, ReportConfig(n_latents=1)) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_report(run, tmp_path / "file" / "index.html")


def test_finish_writes_into_the_run(tmp_path, capsys):
    root = make_run(tmp_path / "run")
    assert finish(root) == root / "report" / "index.html"
    assert "shuffled control" in capsys.readouterr().out
    assert {path.name for path in (root / "summary").iterdir()} == {
        "scores.parquet",
        "rates.parquet",
        "correlations.parquet",
    }


SMALL = {
    "one latent": {"only": [5]},
    "nothing to judge": {"only": [1, 3]},
    "nothing readable": {"only": [4]},
    "one scorer": {"scorers": ("detection",)},
    "one scorer, no explanation": {"scorers": ("intruder",)},
    "one latent, one scorer": {"only": [5], "scorers": ("simulation",)},
}


@pytest.mark.parametrize("options", SMALL.values(), ids=SMALL)
def test_small_and_failed_runs(tmp_path, capsys, options):
    text = finish(make_run(tmp_path / "run", **options)).read_text(encoding="utf-8")
    Page(text)
    body = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    shown = capsys.readouterr().out
    for output in (body, shown):
        assert not re.search(r"\b(None|nan|inf)\b", output)
    assert "How far can these numbers be trusted" in body
    assert ("Correlation between scorers" in body) == (options in (SMALL["one latent"],))


def test_charts_say_their_numbers(page, run):
    labels = [a["aria-label"] or "" for tag, a in page.tags if tag == "svg"]
    for words in (
        "sensitivity of detection of default, 1: ",
        "specificity of fuzzing of statistics, random: ",
        "Spearman correlations, all explanations",
        "Spearman correlations, with shuffled controls",
    ):
        assert any(label.startswith(words) for label in labels), words
    pooled = next(r for r in correlations(run) if r.explainer is None and not r.with_controls)
    values = "".join(page.content["text"])
    assert numbers.rate(pooled.spearman) in values
    assert "the latent" in "".join(page.content["th"])


def test_a_score_without_explanation_belongs_to_the_latent(page, run):
    value = next(
        row["value"] for row in run.table("scores", latents=[6]).to_pylist() if row["scorer"] == "intruder"
    )
    facts = "".join(page.content["dl"])
    assert f"intruder{numbers.score(value)}" in facts
    section = next(a for t, a in page.tags if a.get("id") == "latent-6")
    assert float(section["data-score3"]) == pytest.approx(value)
