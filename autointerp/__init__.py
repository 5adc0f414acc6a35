"""autointerp: labels for the latents of sparse autoencoders, and how far to trust them.

Importing this package is light: torch, pandas, Arrow and model backends are imported when they are
first needed.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autointerp.run import LatentView, Run, open_run

__all__ = ["LatentView", "Run", "__version__", "open_run"]

try:
    __version__ = _version("autointerp")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in ("LatentView", "Run", "open_run"):
        from autointerp import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
