"""Screenshots of a run's browser for the documentation: docs/images/browser-run.png and browser-latent.png.

    python pipelines/demo/browser_screenshots.py runs/demo [--latent 263] [--out docs/images]
    python pipelines/demo/browser_screenshots.py runs/demo-qwen --latent 263 --replies

Serves the run on loopback as `autointerp serve` does and lets a headless Chromium look at it. `--all FOLDER`
writes every page at a desktop's and a phone's width, light and dark, for looking at. `--replies` writes
browser-replies.png alone: what the judges answered about a latent's first windows.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from PIL import Image

from autointerp.report.selection import pick_latents
from autointerp.report.serve import Browser, serve
from autointerp.run import open_run
from tests.report.chromium import Chromium

SIZES = {"desktop": (1280, 1000), "phone": (390, 844)}
UNFOLD = (
    "document.querySelectorAll('.said').forEach((fold, i) => { fold.open = i < 4; }); "
    "document.getElementById('h-judged').scrollIntoView()"
)
READY = "document.readyState === 'complete'"


def small(path: Path) -> None:
    """The picture with 128 colours: a fifth of the size, and no difference to the eye."""
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def main() -> None:
    """Serve, look, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--latent", type=int, help="by default the first of the list")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--replies", action="store_true", help="only the replies under the judged windows")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page, size and colour scheme")
    arguments = parser.parse_args()
    run = open_run(arguments.run_dir)
    latent = pick_latents(run, 1)[0] if arguments.latent is None else arguments.latent
    browser = Browser(run)
    found: list[str] = []
    ready = threading.Event()

    def started(address: str) -> None:
        found.append(address)
        ready.set()

    threading.Thread(target=serve, args=(browser, 0, started), daemon=True).start()
    assert ready.wait(60)
    pages = {"run": "index.html", "list": "latents.html", "latent": f"latents/{latent}.html"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    with Chromium() as chromium:
        chromium.call("Emulation.setScrollbarsHidden", hidden=True)
        if arguments.replies:
            chromium.resize(1280, 860)
            chromium.open(found[0] + pages["latent"])
            chromium.evaluate(UNFOLD)
            path = arguments.out / "browser-replies.png"
            chromium.screenshot(path)
            small(path)
            print(f"{path}  {path.stat().st_size // 1000} kB")
        for page in () if arguments.replies else ("run", "latent"):
            chromium.resize(1280, 1120 if page == "run" else 1900)
            chromium.colours("light" if page == "run" else "dark")
            chromium.open(found[0] + pages[page])
            chromium.until(READY)
            path = arguments.out / f"browser-{page}.png"
            chromium.screenshot(path)
            small(path)
            print(f"{path}  {path.stat().st_size // 1000} kB")
        for size, (width, height) in SIZES.items() if arguments.all else ():
            arguments.all.mkdir(parents=True, exist_ok=True)
            for scheme in ("light", "dark"):
                for page, address in pages.items():
                    chromium.resize(width, height, phone=size == "phone")
                    chromium.colours(scheme)
                    chromium.open(found[0] + address)
                    tall = chromium.evaluate("document.documentElement.scrollHeight")
                    chromium.resize(width, min(tall, 6000), phone=size == "phone")
                    chromium.screenshot(arguments.all / f"{page}-{size}-{scheme}.png")
    browser.close()


if __name__ == "__main__":
    main()
