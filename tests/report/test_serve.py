from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autointerp.report.serve import HEADERS, Browser, serve
from autointerp.run import open_run, printable
from benchmarks.browser import make_large_run
from tests.report.pages import assert_harmless, parse
from tests.synthetic import ALL_SCORERS, HOSTILE, make_run


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    root = make_run(tmp_path_factory.mktemp("runs") / "run", scorers=ALL_SCORERS)
    browser = Browser(open_run(root))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address(browser):
    """Host and port of the browser behind a real socket."""
    found: list[str] = []
    ready = threading.Event()

    def started(where: str) -> None:
        found.append(where)
        ready.set()

    threading.Thread(target=serve, args=(browser, 0, started), daemon=True).start()
    assert ready.wait(20)
    match = re.fullmatch(r"http://(127\.0\.0\.1):(\d+)/", found[0])
    return match[1], int(match[2])


def get(browser, target, host="127.0.0.1:8765"):
    answer = browser.answer("GET", target, host)
    return answer, parse(answer.body) if answer.kind.startswith("text/html") else None


def test_every_page_is_harmless_and_says_what_the_run_holds(browser):
    targets = [
        "/",
        "/latents.html",
        "/latents.html?explainer=*&q=%3Cscript%3E",
        *[f"/latents/{i}.html" for i in range(12)],
    ]
    for target in targets:
        answer, page = get(browser, target)
        assert answer.status == 200
        assert_harmless(page, answer.body)
        assert not page.all("meta", http_equiv="Content-Security-Policy")
    _, listed = get(browser, "/latents.html?q=script")
    rows = listed.one("tbody", id="rows").all("tr")
    assert "0" in [row.one("td", class_="id").text for row in rows]
    shown = " ".join(printable(" ".join(HOSTILE)).split())
    assert shown in [a.text for a in listed.one("tbody", id="rows").all("a")]
    _, latent = get(browser, "/latents/0.html")
    assert latent.one("h1").text == shown
    assert [a.attributes["href"] for a in latent.one("nav", class_="around").all("a")[1:]] == ["1.html"]


def test_what_was_asked_stands_in_the_form_and_in_the_links(browser):
    answer, page = get(
        browser, "/latents.html?q=%22%3E%3Cb1%3E&sort=fuzzing&dir=asc&explainer=default&low=.25&by=fuzzing"
    )
    assert_harmless(page, answer.body)
    form = page.one("form", id="ask")
    assert form.one("input", name="q").attributes["value"] == '"><b1>'
    chosen = [o.attributes["value"] for o in form.all("option") if "selected" in o.attributes]
    assert chosen == ["default", "fuzzing", "asc", "", "", "fuzzing"]
    assert form.one("input", name="low").attributes["value"] == "0.25"
    sort = next(a for a in page.all("a") if a.attributes.get("data-sort") == "fuzzing")
    assert "dir" not in sort.attributes["href"]
    assert "%3Cb1%3E" in sort.attributes["href"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/latents/12.html", 404),
        ("/latents/4294967296.html", 404),
        ("/latents/99999999999.html", 404),
        ("/latents/٣.html", 404),
        ("/latents/-1.html", 404),
        ("/run.toml", 404),
        ("/../run.toml", 404),
        ("/assets/../../../run.toml", 404),
        ("/assets/..%2f..%2f..%2frun.toml", 404),
        ("/assets/%2e%2e/pages.py", 404),
        ("/assets//etc/passwd", 404),
        ("/latents/..%5c..%5crun.toml", 404),
        ("/latents/0.html%00", 404),
        ("//evil.example/", 404),
        ("/%ff", 400),
        ("/latents.html?sort=drop", 400),
        ("/latents.html?page=0", 400),
        ("/latents.html?nothing=1", 400),
        ("/latents.html?" + "&".join(f"a{i}=1" for i in range(99)), 400),
        ("/latents.html?page=9999999", 200),
    ],
)
def test_what_it_does_not_know_is_refused(browser, target, status):
    answer, page = get(browser, target)
    assert answer.status == status
    assert_harmless(page, answer.body)
    assert "corpus.dataset" not in answer.body
    assert "root:" not in answer.body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8765", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("[::1]:8765", 200),
        (None, 421),
        ("", 421),
        ("evil.example", 421),
        ("evil.example:8765", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("127.0.0.1:80:80", 421),
        ("127.0.0.1:x", 421),
    ],
)
def test_only_this_machines_names_are_answered(browser, host, status):
    answer, _ = get(browser, "/latents.html", host)
    assert answer.status == status
    assert ("<td" in answer.body) == (status == 200)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_is_for_reading_only(browser, method):
    answer = browser.answer(method, "/", "127.0.0.1")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def ask(address, method, target, **headers):
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request(method, target, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read().decode()


def test_over_the_wire(address):
    answer, body = ask(address, "GET", "/latents/5.html")
    assert answer.status == 200
    assert parse(body).one("body").attributes["data-served"] == "1"
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert ask(address, "HEAD", "/")[1] == ""
    assert ask(address, "POST", "/")[0].status == 405
    assert ask(address, "GET", "/", Host="evil.example")[0].status == 421
    assert ask(address, "GET", "/assets/../../run.toml")[0].status == 404
    for kind in ("browser.css", "browser.js"):
        answer, body = ask(address, "GET", f"/assets/{kind}")
        assert answer.headers["Content-Type"].split(";")[0] in ("text/css", "text/javascript")
        assert body


def test_only_loopback_is_listened_on(address):
    _, port = address
    others = {i[4][0] for i in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    table = Path("/proc/net/tcp").read_text().splitlines()[1:] if sys.platform == "linux" else []
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    mine = [a for a in listening if int(a.split(":")[1], 16) == port]
    assert mine == ["0100007F:" + f"{port:04X}"] or not listening
    for other in others:
        with pytest.raises(OSError), socket.create_connection((other, port), timeout=2):
            pass


def test_many_ask_at_once(address):
    targets = ["/latents.html?q=words", "/latents/3.html", "/", "/latents.html?sort=fuzzing"] * 6
    found: dict[int, int] = {}

    def one(i: int) -> None:
        found[i] = ask(address, "GET", targets[i])[0].status

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(found.values()) == {200}
    assert len(found) == len(targets)


def test_a_taken_port_is_one_line(address, tmp_path):
    root = make_run(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-m", "autointerp.cli", "serve", str(root), "--port", str(address[1])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: --port: \d+ cannot be used: .*\n", done.stderr)


def test_a_run_of_a_hundred_thousand_latents(tmp_path):
    browser = Browser(open_run(make_large_run(tmp_path / "run", 100_000, n_scorers=2, n_detailed=3)))
    try:
        assert browser.store.n_latents == 100_000
        assert browser.store.n_entries == 200_000
        _, page = get(browser, "/latents.html?sort=detection&explainer=default")
        assert page.one("p", id="found").text == "100,000 entries, 1 to 100"
        values = [
            float(row.one("td", data_name="detection").text) for row in page.one("tbody", id="rows").all("tr")
        ]
        assert len(values) == 100
        assert values == sorted(values, reverse=True)
        _, last = get(browser, "/latents.html?sort=latent&dir=asc&page=1000")
        assert last.one("tbody", id="rows").all("tr")[-1].one("td", class_="id").text == "99999"
        _, latent = get(browser, "/latents/99999.html")
        assert [a.attributes["href"] for a in latent.one("nav", class_="around").all("a")[1:]] == [
            "99998.html"
        ]
        _, judged = get(browser, "/latents/2.html")
        assert len(judged.one("table", class_="judged").one("tbody").all("tr")) == 40
    finally:
        browser.close()
