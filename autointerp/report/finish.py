"""The end of a run: the statistics as files, the table in the terminal, the browser's pages."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from autointerp import storage
from autointerp.analyze.statistics import Statistics, statistics
from autointerp.config import ReportConfig
from autointerp.errors import UserError
from autointerp.report.export import write_statistics
from autointerp.report.site import write_site
from autointerp.report.terminal import print_summary
from autointerp.run import Run, open_run


def finish(root: str | Path, *, n_latents: int | None = None) -> Path:
    """Write `summary/` and the pages under `report/` of a run directory, print its table.

    `n_latents` get a page of their own, by default as many as the run's configuration says. Returns
    the path of `report/index.html`. Raises `UserError` if the directory may not be written.
    """
    run = open_run(root)
    if not storage.is_remote(run.root) and not os.access(run.root, os.W_OK):
        raise UserError(
            f"report: {run.root} may not be written; `autointerp summary {run.root}` prints its tables and "
            f"`autointerp serve {run.root}` shows its pages without writing, or copy the run first"
        )
    found = statistics(run)
    write_statistics(run.root, found)
    config = run.config.report
    if n_latents is not None:
        config = config.model_copy(update={"n_latents": n_latents})
    page = _write_pages(run, config, found)
    print_summary(run, found=found, report=page)
    return page


def _write_pages(run: Run, config: ReportConfig, found: Statistics) -> Path:
    """The pages below `report/`; for a run on object storage made here and put there, the first page last."""
    folder = run.root / "report"
    if not storage.is_remote(folder):
        return write_site(run, folder, config, found=found)
    with tempfile.TemporaryDirectory(prefix="autointerp-") as made:
        write_site(run, Path(made), config, found=found)
        try:
            storage.upload_folder(Path(made), folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {storage.said(error)}") from None
    return folder / "index.html"
