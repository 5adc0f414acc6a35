"""Explanations and windows to judgements and scores: one file per scorer, a registry by name."""


def load_all() -> None:
    """Fill the registry: import every scorer of this package."""
    from autointerp.scorers import detection, fuzzing, simulation  # noqa: F401
