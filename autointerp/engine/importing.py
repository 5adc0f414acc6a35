"""Imported datasets made steps of a run: manifests that later stages accept and that say what they are.

An import writes datasets and a run file. The manifests carry the fingerprints that the run file's steps
have, so that `sample`, `explain` and `score` go on from there, and under `counts` where the rows came from.
The imported labels are given to the stage `explain` at once: no model is asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from autointerp import storage
from autointerp.artifacts import Manifest, RunDirectory
from autointerp.artifacts.dataset import Dataset, spec_of
from autointerp.artifacts.manifest import write_manifest, write_text_whole
from autointerp.engine.local import _versions, expected_fingerprint, run_steps
from autointerp.errors import UserError
from autointerp.report.exchange.imported import Imported, fresh_folder
from autointerp.stages import cache, explain, sample
from autointerp.stages.plugins import Models


def import_run(root: Path, read: Callable[[Path], Imported]) -> Imported:
    """Let `read` write its datasets into a new run directory, and make them steps of the run.

    An import that fails leaves nothing behind. Raises `UserError` if the folder holds anything already.
    """
    if storage.is_remote(storage.place(root)):
        raise UserError(f"--run-dir: seen {str(storage.place(root))!r}; accepted: a folder on this machine")
    fresh_folder(root)
    run = RunDirectory(root)
    lock = run.lock()
    try:
        imported = read(root)
        write_text_whole(root / "run.toml", imported.config.to_toml())
        adopt(run, imported)
        lock.release()
        label(run, imported)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    finally:
        lock.release()
    return imported


def adopt(run: RunDirectory, imported: Imported) -> None:
    """Write the manifest of each imported step."""
    steps = {step.name: step for step in [*cache.steps(imported.config), *sample.steps(imported.config)]}
    for name, counts in imported.counts.items():
        step = steps[name]
        inputs = {source: expected_fingerprint(steps[source], steps) for source in step.inputs}
        folders = [folder for folder in step.folders if (run.root / folder).is_dir() and "/" not in folder]
        datasets = {folder: Dataset(run.root / folder, spec_of(folder)) for folder in folders}
        write_manifest(
            run.root,
            Manifest(
                step=name,
                status="complete",
                fingerprint=expected_fingerprint(step, steps),
                config={"version": step.version, **step.config},
                inputs=inputs,
                n_shards={folder: len(dataset.shards) for folder, dataset in datasets.items()},
                n_rows={folder: dataset.n_rows for folder, dataset in datasets.items()},
                seconds=round(imported.seconds, 3),
                counts=dict(counts),
                versions=_versions(),
            ),
        )


def label(run: RunDirectory, imported: Imported) -> None:
    """Write the imported labels as explanations, with their shuffled control."""
    config = imported.config
    given = [name for name, table in config.explainers.items() if table.get("explainer") == "given"]
    if not given:
        return
    models = Models(config)
    try:
        steps = [*cache.steps(config), *sample.steps(config), *explain.steps(config, models)]
        names = {f"explain/{name}" for name in given} | {
            f"explain/{name}.{explain.CONTROL}" for name in given
        }
        reads = {"cache", "sample"}
        run_steps([step for step in steps if step.name in names | reads], run, config, stages=["explain"])
    finally:
        models.close()
