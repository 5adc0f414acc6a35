"""Every plot of one run."""

from __future__ import annotations

from pathlib import Path

from autointerp.analyze.compare import compare
from autointerp.analyze.statistics import statistics_of
from autointerp.report.calibration import calibrations
from autointerp.report.plots import look
from autointerp.report.plots.calibration import calibration_plot
from autointerp.report.plots.compare import comparison_plots
from autointerp.report.plots.correlations import matrix_plot, published_plot
from autointerp.report.plots.distributions import distributions_plot
from autointerp.run import open_run


def run_plots(root: str | Path, folder: Path) -> list[Path]:
    """Draw the plots of a run: spread of scores, agreement of scorers, calibration, and its explainers compared.

    Returns the files, PNG and SVG of each. Raises `UserError` if the run has no scores.
    """
    found = statistics_of(root)
    run = open_run(root)
    scores = run.table("scores", columns=["explainer", "control", "scorer", "value", "status"])
    drawn = {
        "distributions": distributions_plot(scores, found.scores),
        "correlations": matrix_plot(found.correlations),
        "correlations-published": published_plot(found.correlations),
        "calibration": calibration_plot(calibrations(run, run.config.score.scorers)),
    }
    paths = [
        path for name, made in drawn.items() if made is not None for path in look.save(made, folder / name)
    ]
    return paths + comparison_plots(compare([root]), folder)
