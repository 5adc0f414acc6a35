"""Activations to windows of text: splits, strategies, deciles, negatives; and windows as text."""
