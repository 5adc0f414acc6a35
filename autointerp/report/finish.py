"""The end of a run: the table in the terminal and the HTML page in the run directory."""

from __future__ import annotations

from pathlib import Path

from autointerp.report.html import write_report
from autointerp.report.terminal import print_summary
from autointerp.run import open_run


def finish(root: str | Path) -> Path:
    """Write `report/index.html` of a run directory, print its summary, and return the page's path."""
    run = open_run(root)
    page = write_report(run, run.directory.root / "report" / "index.html", run.config.report)
    print_summary(run, report=page)
    return page
