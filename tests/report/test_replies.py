"""What the judges said, word for word: on the page, escaped, bounded, and missed when the store is gone."""

from __future__ import annotations

import json

import pyarrow.compute as pc
import pytest

from autointerp.artifacts import DATASETS, write_shard
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import Message, Reply, Request, TokenLogprob, Usage
from autointerp.report import replies_view
from autointerp.report.replies_view import Asked, Limits, requests_in_order
from autointerp.report.serve import Browser
from autointerp.report.site import write_site
from autointerp.run import open_run, printable
from tests.report.chromium import Chromium, find_chromium
from tests.report.pages import assert_harmless, parse
from tests.synthetic import ALL_SCORERS, HOSTILE, make_run

HOSTILE_REPLY = " ".join(HOSTILE) + "\u2028<a href='//evil.example'>x</a>]]><!-- \u2066"
SYSTEM = "You are shown texts.\n" + "The rules are long. " * 10


def requests_of(run, latents=None):
    table = run.table("judgements", latents=latents, columns=["request", "status", "explanation"])
    return sorted({row["request"] for row in table.to_pylist() if row["request"]})


def fill(root, *, skip=(), reply=None):
    """A reply to every request of a run, named by its hash."""
    run = open_run(root)
    with ReplyStore(root / "replies.sqlite") as store:
        for key in requests_of(run):
            if key in skip:
                continue
            messages = (
                Message(role="system", content=SYSTEM),
                Message(role="user", content=f"Q {key}\nnext"),
            )
            text = f"answer {key} {HOSTILE_REPLY}" if reply is None else reply(key)
            answer = text if isinstance(text, Reply) else Reply(text=text, usage=Usage(prompt_tokens=7))
            store.put(key, Request(messages=messages, max_tokens=20), answer, "judge-<1>")
    return run


@pytest.fixture
def root(tmp_path):
    return make_run(tmp_path / "runs" / "synthetic", scorers=ALL_SCORERS)


def page_of(run, latent, tmp_path):
    folder = write_site(run, tmp_path / "report").parent
    text = (folder / "latents" / f"{latent}.html").read_text(encoding="utf-8")
    return parse(text), text


def test_every_judged_window_leads_to_its_request_and_reply(root, tmp_path):
    run = fill(root)
    page, text = page_of(run, 5, tmp_path)
    assert_harmless(page, text)
    rows = [
        row
        for row in run.table("judgements", latents=[5]).to_pylist()
        if row["explanation"] in ("default/0", "statistics/0", "none")
    ]
    articles = {a.attributes["id"]: a for a in page.one("details", class_="asked").all("article")}
    assert set(articles) == {f"asked-{row['request']}" for row in rows if row["request"]}
    for key in {row["request"] for row in rows}:
        article = articles[f"asked-{key}"]
        assert (
            printable(f"answer {key} {HOSTILE_REPLY}".replace("\n", " ")).split()[:6]
            == (article.all("pre", class_="reply")[0].text.split()[:6])
        )
        assert f"Q {key}" in article.text
        assert "judge-<1>" in article.text
    linked = {a.attributes["href"] for d in page.all("details", class_="said") for a in d.all("a")}
    windows = {row["request"] for row in rows if row["predicted_activations"] is None}
    shown = {f"#asked-{key}" for key in windows}
    others = {a.attributes["href"] for d in page.all("details", class_="section") for a in d.all("a")}
    assert linked | others == shown
    assert all(len(a.all("pre")) <= 3 for a in articles.values())


def test_what_every_request_begins_with_is_written_once(root, tmp_path):
    page, text = page_of(fill(root), 5, tmp_path)
    assert text.count("The rules are long. The rules are long.") == 5  # ten repeats, in pairs, on one place
    assert page.one("details", class_="asked").text.count("as in request") == len(page.all("article")) - 1


def test_a_run_whose_store_is_gone_says_so(root, tmp_path):
    run = fill(root)
    (root / "replies.sqlite").unlink()
    for extra in root.glob("replies.sqlite-*"):
        extra.unlink()
    page, _ = page_of(run, 5, tmp_path)
    said = page.one("section", aria_labelledby="h-asked").text
    assert "the reply store 'replies.sqlite' is not there any more" in said
    assert not page.all("article")
    (first, *_) = page.all("details", class_="said")
    assert "is not there any more" in first.text


def test_a_damaged_store_is_told_and_the_page_is_made(root, tmp_path):
    (root / "replies.sqlite").write_bytes(b"<script>no database</script>" * 99)
    page, text = page_of(open_run(root), 5, tmp_path)
    assert_harmless(page, text)
    assert "Cannot be shown" in page.one("section", aria_labelledby="h-asked").text


def test_a_reply_that_is_not_stored_is_missing_not_empty(root, tmp_path):
    run = open_run(root)
    gone = requests_of(run, [5])[0]
    page, _ = page_of(fill(root, skip={gone}), 5, tmp_path)
    assert "1 request has no stored reply" in page.one("section", aria_labelledby="h-asked").text
    assert f"asked-{gone}" not in {a.attributes["id"] for a in page.all("article")}


def test_log_probabilities_are_listed(root, tmp_path):
    tokens = (TokenLogprob(text=" <b>", logprob=-1.5), TokenLogprob(text="\n", logprob=-0.25))
    page, text = page_of(fill(root, reply=lambda key: Reply(tokens=tokens)), 5, tmp_path)
    assert_harmless(page, text)
    reply = page.all("pre", class_="reply")[0].text
    assert reply == "−1.75 nats: “ <b>” −1.5, “⏎” −0.25"
    assert "log-probabilities" in page.one("section", aria_labelledby="h-asked").text


def test_a_page_on_disk_is_bounded_and_the_server_shows_all(root, tmp_path, monkeypatch):
    run = fill(root, reply=lambda key: f"begins {key} " + "x" * 9_000 + " ends")
    monkeypatch.setattr("autointerp.report.latent_page.DISK", Limits(requests=3, characters=10**9))
    all_of_it = len(requests_of(run, [5]))
    with Asked(run, Limits(requests=3, characters=10**9)) as asked:
        some = asked.exchanges(requests_of(run, [5]))
    assert (len(some.found), some.n_left_out) == (3, all_of_it - 3)
    exchange = next(iter(some.found.values()))
    assert len(exchange.reply) < replies_view.TEXT_CHARACTERS + 100
    assert exchange.reply.startswith("begins ")
    assert exchange.reply.endswith(" ends")
    assert "characters left out" in exchange.reply
    with Asked(run, Limits(requests=99, characters=5_000)) as asked:
        assert len(asked.exchanges(requests_of(run, [5])).found) == 2
    browser = Browser(run)
    try:
        page = parse(browser.answer("GET", "/latents/5.html", "127.0.0.1").body)
    finally:
        browser.close()
    rows = run.table("judgements", latents=[5]).to_pylist()
    real = {r["request"] for r in rows if not r["explanation"].endswith(".shuffled/0") and r["request"]}
    assert len(page.all("article")) == len(real)


def test_mistakes_come_first():
    order = [(False, "a"), (True, "b"), (False, None), (True, "c"), (False, "b")]
    assert requests_in_order(order) == ["b", "c", "a"]


def _replace(run, dataset, part, change):
    """Rewrite one dataset with changed rows."""
    spec = DATASETS[dataset]
    for path in run.directory.dataset(dataset, *part).shards:
        from autointerp.artifacts.schemas import table_of

        rows = [change(row) for row in run.directory.dataset(dataset, *part).read().to_pylist()]
        path.unlink()
        write_shard(path, table_of(dataset, rows), spec)


@pytest.fixture
def hostile(tmp_path):
    """A run where whatever a model, a corpus or a user names is hostile, in a folder of an odd name."""
    root = make_run(tmp_path / "a#b?c=1 & <i>'d\" ü%2e" / "run", scorers=ALL_SCORERS)
    run = fill(root)
    text = HOSTILE_REPLY

    def latent(row):
        near = [{"latent": (row["latent"] + k) % 12, "cosine": 0.5 - 0.1 * k} for k in (1, 2)]
        return row | {"neighbours": near}

    _replace(run, "latents", (), latent)
    for explainer in ("default", "statistics"):
        _replace(
            run,
            "explanations",
            (explainer,),
            lambda row: (
                row
                | {
                    "text": None if row["text"] is None else text,
                    "model": text,
                    "details": json.dumps({text: [text]}),
                    "reason": None if row["reason"] is None else text,
                }
            ),
        )
    return open_run(root)


def test_hostile_names_replies_details_and_paths(hostile, tmp_path):
    folder = write_site(hostile, hostile.root / "report").parent
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert_harmless(parse(text), text)
    for path in (folder / "data").iterdir():
        script = path.read_text(encoding="ascii")
        entries = json.loads(script.split(",", 1)[1].removesuffix(");\n"))
        assert printable(HOSTILE_REPLY) in {entry[8] for entry in entries}
        assert script.count("\n") == 1
    similar = parse((folder / "latents" / "5.html").read_text(encoding="utf-8")).one("ol", class_="similar")
    assert [a.text for a in similar.all("a")] == ["6", "7"]
    assert printable("<a href='//evil.example'>x</a>") in similar.text


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")
def test_a_hostile_run_in_a_browser(hostile):
    folder = write_site(hostile, hostile.root / "report").parent
    with Chromium() as chromium:
        for page in ("index.html", "latents.html", "latents/5.html"):
            chromium.open((folder / page).as_uri())
            assert chromium.complaints == []
            assert all(url.startswith("file:") for url in chromium.requests)
            assert chromium.evaluate("document.querySelectorAll('img, b1, iframe, base').length") == 0
        chromium.open((folder / "latents.html").as_uri())
        chromium.until("document.querySelectorAll('#rows tr').length === 12")
        chromium.open((folder / "latents" / "5.html").as_uri())
        chromium.evaluate("document.querySelector('.said').open = true")
        chromium.evaluate("document.querySelector('.said a').focus()")
        chromium.press("Enter")
        chromium.until("location.hash.startsWith('#asked-') && document.querySelector('.asked').open")
        shown = chromium.evaluate("document.activeElement.id === location.hash.slice(1)")
        assert shown
        box = "document.activeElement.getBoundingClientRect()"
        assert chromium.evaluate(f"{box}.top >= -1 && {box}.top < innerHeight")
        assert chromium.complaints == []
    assert pc.all(pc.is_valid(hostile.table("explanations").column("details"))).as_py()
