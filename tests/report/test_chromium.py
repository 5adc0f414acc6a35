"""The pages in a real browser: opened from disk and served, with keys, colours and a phone's width."""

from __future__ import annotations

import threading

import pytest

from autointerp.report import numbers
from autointerp.report.serve import Browser, serve
from autointerp.report.site import write_site
from autointerp.run import open_run, printable
from tests.report.chromium import Chromium, find_chromium
from tests.synthetic import ALL_SCORERS, HOSTILE, make_run

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium, as from `apt-get install chromium`"
)
LATENTS = "Array.from(document.querySelectorAll('#rows .id'), (e) => Number(e.textContent))"
READY = "document.querySelectorAll('#rows tr').length > 0 && !document.getElementById('found').textContent.includes('loading')"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("runs") / "run", scorers=ALL_SCORERS))


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module", params=["disk", "served"])
def root(request, run, tmp_path_factory):
    """Where the pages begin."""
    if request.param == "disk":
        yield write_site(run, tmp_path_factory.mktemp("site") / "report").parent.as_uri() + "/"
        return
    browser = Browser(run)
    found: list[str] = []
    ready = threading.Event()

    def started(where: str) -> None:
        found.append(where)
        ready.set()

    threading.Thread(target=serve, args=(browser, 0, started), daemon=True).start()
    assert ready.wait(20)
    yield found[0]


def assert_quiet(chromium, root):
    """No error, no violation of the policy, nothing asked of another place."""
    assert chromium.complaints == []
    assert [
        url for url in chromium.requests if not url.startswith(root) and not url.endswith("/favicon.ico")
    ] == []


def test_searching_filtering_and_sorting(chromium, root):
    chromium.resize(1280, 900)
    chromium.open(f"{root}latents.html")
    chromium.until(READY)
    assert sorted(chromium.evaluate(LATENTS)) == list(range(12))
    chromium.press("/")
    assert chromium.evaluate("document.activeElement.id") == "find"
    chromium.write("right TO left")
    chromium.until(f"String({LATENTS}) === '0' || ({LATENTS}).includes(0) && ({LATENTS}).length < 12")
    shown = " ".join(printable(" ".join(HOSTILE)).split())
    assert chromium.evaluate("document.querySelector('#rows a').textContent").split() == shown.split()
    chromium.press("Escape")
    chromium.until(f"({LATENTS}).length === 12")
    chromium.evaluate("document.querySelector('a[data-sort=detection]').click()")
    chromium.until("document.querySelector('th[aria-sort]')?.textContent === 'detection'")
    scores = "Array.from(document.querySelectorAll('#rows [data-name=detection]'), (e) => e.textContent)"
    known = [float(text) for text in chromium.evaluate(scores) if text != "–"]
    assert known == sorted(known, reverse=True)
    assert len(known) > 5
    chromium.evaluate(
        "(e => { e.value = 'failed'; e.dispatchEvent(new Event('input', {bubbles: true})); })(document.getElementById('ask').elements.state)"
    )
    chromium.until(f"String({LATENTS}) === '1'")
    assert_quiet(chromium, root)


def test_an_address_with_a_question_opens_its_answer(chromium, root):
    chromium.open(f"{root}latents.html?sort=latent&dir=asc&status=ok&explainer=statistics")
    chromium.until(READY)
    found = chromium.until(f"({LATENTS})[0] === 0 && {LATENTS}")
    assert found == sorted(found)
    assert 1 not in found
    assert chromium.evaluate("document.getElementById('ask').elements.status.value") == "ok"


def test_keys_lead_from_the_list_to_a_latent_and_on(chromium, root):
    chromium.open(f"{root}latents.html?sort=latent&dir=asc")
    chromium.until(READY)
    chromium.until(f"({LATENTS})[0] === 0")
    chromium.press("j")
    chromium.press("ArrowDown")
    chromium.press("k")
    chromium.press("j")
    assert chromium.evaluate("document.activeElement.getAttribute('href')") == "latents/1.html"
    chromium.events.clear()
    chromium.press("Enter")
    chromium.loaded()
    assert chromium.evaluate("location.pathname").endswith("/latents/1.html")
    chromium.events.clear()
    chromium.press("ArrowRight")
    chromium.loaded()
    assert chromium.evaluate("location.pathname").endswith("/latents/2.html")
    back = chromium.evaluate("document.querySelector('.back').href")
    assert back.endswith("latents.html?sort=latent&dir=asc")
    assert_quiet(chromium, root)
    chromium.events.clear()
    chromium.press("/")
    chromium.loaded()
    chromium.until("document.activeElement.id === 'find'")


def test_everything_can_be_reached_with_tab(chromium, root):
    chromium.open(f"{root}latents/5.html")
    seen = []
    for _ in range(12):
        chromium.press("Tab")
        seen.append(
            chromium.evaluate("document.activeElement.className || document.activeElement.textContent.trim()")
        )
    assert seen[0] == "skip"
    assert "back" in seen
    outline = chromium.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_a_value_is_shown_on_touch_and_mistakes_alone_on_wish(chromium, root):
    chromium.open(f"{root}latents/5.html")
    chromium.evaluate("document.querySelector('mark[title]').click()")
    assert float(chromium.evaluate("document.getElementById('tip').textContent")) > 0
    visible = "Array.from(document.querySelectorAll('.judged tbody tr')).filter((r) => r.offsetParent).length"
    before = chromium.evaluate(visible)
    chromium.evaluate("document.getElementById('mistakes').click()")
    wrong = chromium.evaluate("document.querySelectorAll('.judged tbody tr:not(.fine)').length")
    assert chromium.evaluate(visible) == wrong < before


@pytest.mark.parametrize("page", ["index.html", "latents.html", "latents/0.html", "latents/5.html"])
def test_a_phone_does_not_scroll_sideways(chromium, root, page):
    chromium.resize(390, 844, phone=True)
    chromium.open(root + page)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= 390
    assert_quiet(chromium, root)
    chromium.resize(1280, 900)


def test_a_desktop_is_used_to_its_edge_and_tables_scroll_in_their_box(chromium, root):
    chromium.resize(1400, 1000)
    chromium.open(root + "latents/5.html")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= 1400
    drawn, room = chromium.evaluate(
        "(() => { const drawing = document.querySelector('svg.activations'), box = drawing.parentElement;"
        " return [drawing.getBoundingClientRect().width, box.getBoundingClientRect().width]; })()"
    )
    assert drawn > 0.95 * room
    # A table wider than its box fades at the right edge until it is scrolled to the end.
    chromium.evaluate("document.querySelector('table.labels').style.minWidth = '3000px'")
    chromium.evaluate("dispatchEvent(new Event('resize'))")
    box = "document.querySelector('table.labels').parentElement"
    assert chromium.evaluate("document.documentElement.scrollWidth") <= 1400
    assert chromium.evaluate(f"{box}.classList.contains('cut')")
    chromium.evaluate(f"{box}.scrollLeft = 9999")
    chromium.until(f"!{box}.classList.contains('cut')")
    chromium.resize(1280, 900)


def test_the_list_shows_every_digit_as_the_other_pages_do(chromium, root, run):
    scores = {
        (row["latent"], row["scorer"]): numbers.score(row["value"])
        for row in run.table("scores").to_pylist()
        if row["explainer"] in ("default", "none") and row["control"] is None and row["status"] == "ok"
    }
    densities = {row["latent"]: numbers.measure(row["density"]) for row in run.table("latents").to_pylist()}
    chromium.open(root + "latents.html?explainer=default")
    chromium.until(READY)
    shown = chromium.evaluate(
        "Array.from(document.querySelectorAll('#rows tr'), (tr) => [tr.querySelector('.id').textContent,"
        " ...Array.from(tr.querySelectorAll('[data-name]'), (td) => [td.dataset.name, td.textContent])])"
    )
    assert len(shown) == 12
    for latent, *cells in shown:
        for name, text in cells:
            known = densities[int(latent)] if name == "density" else scores.get((int(latent), name), "–")
            assert text == known, (latent, name)


def test_colours_follow_the_system_and_the_button(chromium, root):
    def light() -> int:
        colour = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(c) for c in colour.strip("rgb()").split(","))

    chromium.colours("dark")
    chromium.open(f"{root}index.html")
    assert light() < 200
    chromium.colours("light")
    assert light() > 600
    chromium.evaluate("document.getElementById('theme').click()")
    assert light() < 200
    chromium.evaluate("document.getElementById('theme').click()")
    assert light() > 600
