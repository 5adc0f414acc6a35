"""The pages of a browser as text, the same for files on disk and for the server.

Every text of the corpus, the models and the configuration is escaped by the template engine; a
Content-Security-Policy allows the site's own style sheet and scripts and nothing else, so that even
an escaping defect could neither run code of its own nor load or send anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from autointerp.analyze.statistics import Statistics
from autointerp.report import numbers
from autointerp.report.entries import STATES
from autointerp.report.latent_page import LatentPage
from autointerp.report.listing import EVERY, LATENT_STATUS, PAGE, ListQuery
from autointerp.report.run_page import run_page
from autointerp.report.views import explainer_name
from autointerp.report.windows_view import N_LEVELS
from autointerp.run import Run

ASSETS = {"browser.css": "text/css; charset=utf-8", "browser.js": "text/javascript; charset=utf-8"}
"""Files the pages load, and their types."""
FILE_POLICY = (
    "default-src 'none'; style-src 'self' file:; script-src 'self' file:; base-uri 'none'; form-action 'none'"
)
"""Of pages opened from disk: `file:` because browsers differ in what they call the same origin there."""


def asset(name: str) -> str:
    """The text of one of `ASSETS`."""
    return files("autointerp.report").joinpath("templates", name).read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The latents before and after a page; None where there is none."""

    before: int | None = None
    after: int | None = None


class Pages:
    """Renders the pages of one run. `served` pages are asked again for each search; others search by script."""

    def __init__(self, run: Run, scorers: Sequence[str], *, served: bool) -> None:
        self.run = run
        self.scorers = list(scorers)
        self.served = served

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(
            loader=PackageLoader("autointerp.report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            n=numbers,
            name=self.run.config.name,
            scorers=self.scorers,
            served=self.served,
            policy=None if self.served else FILE_POLICY,
            explainer_name=explainer_name,
            levels=range(1, N_LEVELS + 1),
        )
        return environment

    def _render(self, template: str, root: str, **values: Any) -> str:
        return self._environment.get_template(template).render(root=root, **values)

    def run_page(self, found: Statistics) -> str:
        """`index.html`."""
        return self._render("run.html.j2", "", page=run_page(self.run, found, self.scorers))

    def list_page(
        self,
        query: ListQuery,
        explainers: Sequence[str],
        n_entries: int,
        n: int,
        rows: Sequence[Mapping[str, Any]],
        n_shards: int = 0,
        linked: Sequence[int] | None = None,
    ) -> str:
        """`latents.html`: the form and one page of entries.

        `n` entries fit, of `n_entries`; on disk `n_shards` files hold them all, and only the latents
        `linked` have a page (None: all).
        """
        return self._render(
            "latents.html.j2",
            "",
            query=query,
            explainers=explainers,
            states=STATES,
            statuses=LATENT_STATUS,
            every=EVERY,
            n_entries=n_entries,
            n_found=n,
            rows=rows,
            n_shards=n_shards,
            linked=None if linked is None else set(linked),
            page_size=PAGE,
            n_pages=max(1, -(-n // PAGE)),
        )

    def latent_page(
        self, page: LatentPage, neighbours: Neighbours, linked: Sequence[int] | None = None
    ) -> str:
        """`latents/N.html`; links to the latents `linked` only (None: to all)."""
        return self._render(
            "latent.html.j2",
            "../",
            l=page,
            neighbours=neighbours,
            linked=None if linked is None else set(linked),
        )

    def error_page(self, title: str, reason: str, root: str = "/") -> str:
        """A page that says what was wrong with an address."""
        return self._render("error.html.j2", root, title=title, reason=reason)
