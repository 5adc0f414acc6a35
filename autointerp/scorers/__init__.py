"""Explanations and windows to judgements and scores: one file per scorer, a registry by name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages


def load_all() -> None:
    """Import every file of this package, so that each scorer registers its name.

    Adding a file is all it takes to add a scorer. Scorer files import torch and other heavy
    libraries only inside the functions that need them.
    """
    for module in walk_packages(__path__, prefix=f"{__name__}."):
        import_module(module.name)
