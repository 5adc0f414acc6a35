"""A step: the unit of work that has a manifest of its own and is resumed or rebuilt as a whole.

`cache` and `sample` are one step each; `explain` is a step per explainer and its control, `score` a
step per scorer and explainer, so that adding one leaves all others as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autointerp.artifacts import RunDirectory


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a finished step reports for its manifest."""

    n_shards: Mapping[str, int]
    """Shards per dataset folder (relative to the run directory)."""
    n_rows: Mapping[str, int]
    """Rows per dataset folder."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What was done, skipped and why, in numbers."""
    cost_usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a run, ready to be carried out."""

    name: str
    """As in `cache` or `score/detection/default`."""
    version: int
    """Raised when the code would give other results from the same configuration."""
    config: Mapping[str, Any]
    """Every value the results depend on, as JSON types."""
    inputs: tuple[str, ...]
    """Names of the steps it reads."""
    folders: tuple[str, ...]
    """Dataset folders it owns, relative to the run directory; removed when it is rebuilt."""
    work: Callable[[RunDirectory], StepResult]
    """Computes the shards that are missing. Interrupted anywhere, it may simply be called again."""
    prepare: Callable[[RunDirectory], object] | None = None
    """Writes what the shards of all workers depend on; called once before they are shared, if given."""
    share: Callable[[RunDirectory], object] | None = None
    """Computes the shards that a run directory opened as one worker's part takes, so that several workers
    do together what `work` then finds done; None: this step is not shared."""
    cleanup: Callable[[RunDirectory], None] | None = None
    """Removes intermediate files; called when the step is finished."""

    @property
    def stage(self) -> str:
        """The stage it belongs to, the first part of its name."""
        return self.name.split("/")[0]
