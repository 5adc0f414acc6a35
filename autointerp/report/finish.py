"""The end of a run: the statistics as files, the table in the terminal, the browser's pages."""

from __future__ import annotations

from pathlib import Path

from autointerp.analyze.statistics import statistics
from autointerp.report.export import write_statistics
from autointerp.report.site import write_site
from autointerp.report.terminal import print_summary
from autointerp.run import open_run


def finish(root: str | Path, *, n_latents: int | None = None) -> Path:
    """Write `summary/` and the pages under `report/` of a run directory, print its table.

    `n_latents` get a page of their own, by default as many as the run's configuration says. Returns
    the path of `report/index.html`.
    """
    run = open_run(root)
    found = statistics(run)
    write_statistics(run.root, found)
    config = run.config.report
    if n_latents is not None:
        config = config.model_copy(update={"n_latents": n_latents})
    page = write_site(run, run.root / "report", config, found=found)
    print_summary(run, found=found, report=page)
    return page
