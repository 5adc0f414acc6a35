"""Explanations and windows to judgements and scores: one file per scorer, a registry by name."""
