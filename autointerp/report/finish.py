"""The end of a run: the statistics as files, the table in the terminal, the HTML page."""

from __future__ import annotations

from pathlib import Path

from autointerp.analyze.statistics import statistics
from autointerp.report.export import write_statistics
from autointerp.report.html import write_report
from autointerp.report.terminal import print_summary
from autointerp.run import open_run


def finish(root: str | Path) -> Path:
    """Write `summary/` and `report/index.html` of a run directory, print its table, return the page's path."""
    run = open_run(root)
    found = statistics(run)
    write_statistics(run.root, found)
    page = write_report(run, run.root / "report" / "index.html", run.config.report, found=found)
    print_summary(run, found=found, report=page)
    return page
