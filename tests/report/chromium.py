"""A headless Chromium driven over its debugging protocol, for tests and screenshots of pages.

with Chromium() as browser:
    browser.open(path.as_uri())
    browser.evaluate("document.title")
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {
    "/": 191,
    "Enter": 13,
    "Escape": 27,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Tab": 9,
}


def find_chromium() -> str | None:
    """The program, or None if it is not installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One page of a browser whose requests and console messages are kept."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        program = find_chromium()
        assert program is not None, "no Chromium"
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._folder.name}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        """What the page said: requests, console messages, violations of its policy."""
        self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    async def _connect(self) -> None:
        file = Path(self._folder.name) / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert self._process.poll() is None, "Chromium ended at once"
            assert time.monotonic() < end, "Chromium did not start"
            await asyncio.sleep(0.05)
        port = file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [page for page in await answer.json() if page["type"] == "page"]
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            await self._socket.close()
            await self._session.close()

        self._loop.run_until_complete(close())
        self._loop.close()
        self._process.terminate()
        self._process.wait(20)
        self._folder.cleanup()

    async def _receive(self, seconds: float) -> dict[str, Any]:
        message = await self._socket.receive_json(timeout=seconds)
        if "method" in message:
            self.events.append(message)
        return dict(message)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; returns its result."""

        async def ask() -> dict[str, Any]:
            number = next(self._ids)
            await self._socket.send_json({"id": number, "method": method, "params": parameters})
            while True:
                message = await self._receive(60)
                if message.get("id") == number:
                    assert "error" not in message, (method, message.get("error"))
                    return dict(message["result"])

        return self._loop.run_until_complete(ask())

    def open(self, address: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.loaded()

    def loaded(self) -> None:
        """Wait until a page that was begun has loaded."""

        async def wait() -> None:
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                await self._receive(60)

        self._loop.run_until_complete(wait())

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression (a promise is awaited)."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> Any:
        """Wait until an expression is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.03)
        return value

    def press(self, key: str) -> None:
        """One key, as typed."""
        text = key if len(key) == 1 else "\r" if key == "Enter" else None
        code = {"windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
        down = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **code, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def write(self, text: str) -> None:
        """Text into the focused field."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size of the window in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def colours(self, scheme: str) -> None:
        """What the page is told of `prefers-color-scheme`: `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """The window as a PNG file, or the whole page however long."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        data = self.call("Page.captureScreenshot", **options)["data"]
        path.write_bytes(base64.b64decode(data))

    @property
    def requests(self) -> list[str]:
        """Addresses the page asked for since it was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[str]:
        """Errors of scripts and of the page's policy."""
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
        return found
