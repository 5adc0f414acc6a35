"""The stages: read datasets, call the rooms below, write datasets, nothing else."""
