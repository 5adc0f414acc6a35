"""A run served to a browser on this machine: pages made when they are asked for.

`Browser.answer` is the whole of it: a method, an address and a Host in, a page out. It opens no file by
an address: what it does not know by name is not found. `serve` puts it behind a socket on loopback.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from autointerp.errors import UserError
from autointerp.report.entries import scorers_of_run
from autointerp.report.kept import kept_statistics
from autointerp.report.latent_page import latent_pages
from autointerp.report.listing import parse_query
from autointerp.report.pages import ASSETS, Neighbours, Pages, asset
from autointerp.report.replies_view import SERVED
from autointerp.report.served_run import ServedRun
from autointerp.report.store import Store
from autointerp.run import Run

if TYPE_CHECKING:
    from aiohttp import web

HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "autointerp",
}
"""On every answer."""
N_WINDOWS = 60
"""Windows shown of a latent, if the run's configuration does not ask for more."""
_HTML = "text/html; charset=utf-8"
_LATENT = re.compile(r"/latents/([0-9]{1,10})\.html", re.ASCII)
_LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes back."""

    status: int = 200
    body: str = ""
    kind: str = _HTML
    headers: Mapping[str, str] = field(default_factory=dict)


class Browser:
    """One run, opened for browsing. Reads its list of latents when made, all else when asked.

    Raises `UserError` if DuckDB is not installed.
    """

    def __init__(self, run: Run) -> None:
        self.run = ServedRun(run.root)
        self.scorers = scorers_of_run(self.run)
        self.store = Store(self.run, self.scorers)
        self.pages = Pages(self.run, self.scorers, served=True)
        self._lock = threading.Lock()
        self._run_page: str | None = None

    def close(self) -> None:
        """Give back the list's temporary file."""
        self.store.close()

    def answer(self, method: str, target: str, host: str | None) -> Answer:
        """The answer to one request; never raises for what a client sends.

        Another Host than this machine's own names is refused, so that no foreign page whose name
        resolves to this address can read the run.
        """
        if not _is_local(host):
            return self._problem(421, "Wrong host", "This server answers to 127.0.0.1 and localhost only.")
        if method not in ("GET", "HEAD"):
            return self._problem(
                405, "Not allowed", "This server is for reading only.", {"Allow": "GET, HEAD"}
            )
        try:
            path, _, question = target.partition("?")
            path, asked = unquote(path, errors="strict"), parse_qsl(question, max_num_fields=40)
        except ValueError:
            return self._problem(400, "Bad request", "The address cannot be read.")
        if path in ("/", "/index.html"):
            return Answer(body=self._index())
        if path == "/latents.html":
            return self._list(dict(asked))
        if path.startswith("/assets/") and path.removeprefix("/assets/") in ASSETS:
            name = path.removeprefix("/assets/")
            return Answer(body=asset(name), kind=ASSETS[name])
        match = _LATENT.fullmatch(path)
        if match:
            return self._latent(int(match[1]))
        return self._problem(404, "Not found", "There is no such page.")

    def _index(self) -> str:
        with self._lock:
            if self._run_page is None:
                self._run_page = self.pages.run_page(kept_statistics(self.run))
            return self._run_page

    def _list(self, asked: Mapping[str, str]) -> Answer:
        try:
            query = parse_query(asked, self.scorers, self.store.explainers)
        except UserError as error:
            return self._problem(400, "Bad request", str(error))
        found = self.store.ask(query)
        text = self.pages.list_page(query, self.store.explainers, self.store.n_entries, found.n, found.rows)
        return Answer(body=text)

    def _latent(self, latent: int) -> Answer:
        n_windows = max(N_WINDOWS, self.run.config.report.n_windows)
        some = [latent] if latent < 2**32 else []
        page = next(iter(latent_pages(self.run, some, self.scorers, n_windows, SERVED)), None)
        if page is None:
            return self._problem(404, "Not found", f"This run has no latent {latent}.")
        before, after = self.store.near(latent)
        return Answer(body=self.pages.latent_page(page, Neighbours(before=before, after=after)))

    def _problem(
        self, status: int, title: str, reason: str, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return Answer(status=status, body=self.pages.error_page(title, reason), headers=headers or {})


def _is_local(host: str | None) -> bool:
    """Whether a Host header names this machine, with any port."""
    if not host:
        return False
    name, _, port = host.rpartition(":")
    if not name or host.endswith("]"):
        name, port = host, ""
    return name.lower() in _LOCAL_NAMES and (not port or port.isdigit())


def application(browser: Browser) -> web.Application:
    """The browser as an application of aiohttp; pages are made on threads of their own."""
    import asyncio

    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        try:
            answer = await asyncio.to_thread(
                browser.answer, request.method, request.raw_path, request.headers.get("Host")
            )
        except UserError as error:
            answer = browser._problem(500, "This run cannot be read", str(error))
        kind, _, charset = answer.kind.partition("; charset=")
        return web.Response(
            status=answer.status,
            text=answer.body,
            content_type=kind,
            charset=charset,
            headers={**HEADERS, **answer.headers},
        )

    app = web.Application(client_max_size=1)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def serve(browser: Browser, port: int, on_start: Callable[[str], object]) -> None:
    """Serve until interrupted or terminated. `on_start` is called with the address. Raises `UserError` if the port is taken."""
    import asyncio

    from aiohttp import web

    async def run() -> None:
        runner = web.AppRunner(application(browser), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, port)
            try:
                await site.start()
            except OSError as error:
                raise UserError(
                    f"--port: {port} cannot be used: {error.strerror}; 0 takes any free one"
                ) from None
            address = f"http://{HOST}:{runner.addresses[0][1]}/"
            on_start(address)
            ended = asyncio.Event()
            # A server on a thread of its own, or a system without signals, ends with its process.
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
            await ended.wait()
        finally:
            await runner.cleanup()

    asyncio.run(run())
