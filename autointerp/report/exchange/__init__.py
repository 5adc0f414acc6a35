"""Runs from and for other tools: Neuronpedia's exports, Delphi's caches, labels as plain files."""
