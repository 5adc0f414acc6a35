"""Carries out steps in this process: refuses what is stale, skips what is done, resumes the rest."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from autointerp import storage
from autointerp.artifacts import Manifest, RunDirectory
from autointerp.artifacts.manifest import manifest_path, write_manifest, write_text_whole
from autointerp.config import RunConfig, digest
from autointerp.errors import StaleRunError, UserError
from autointerp.stages.step import Step, StepResult

log = logging.getLogger(__name__)

RECORDED_VERSIONS = (
    "autointerp",
    "torch",
    "transformers",
    "transformer-lens",
    "sae-lens",
    "pyarrow",
    "numpy",
)


class Workers(Protocol):
    """Several workers that share the shards of a step among them."""

    def carry_out(self, step: Step) -> StepResult:
        """Have the shards of a step computed by all, and the step finished by one of them.

        Raises what a worker raised, and `UserError` if workers are lost again and again.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def run_steps(
    steps: Sequence[Step],
    run: RunDirectory,
    config: RunConfig,
    *,
    stages: Sequence[str],
    rebuild: Iterable[str] = (),
    workers: Workers | None = None,
) -> list[Manifest]:
    """Carry out the steps of some stages, in order, and return their manifests.

    With `workers` they do the work, and this process only the bookkeeping.

    `steps` are all steps of the run: those a carried-out step reads must be finished, with the
    configuration given now. `rebuild` names stages (or `all`) whose stale results are discarded
    instead of refused; results that are up to date are kept all the same. Raises `StaleRunError` if
    results were made otherwise, and `UserError` if an input is missing or another process is writing.
    """
    rebuild = set(rebuild)
    by_name = {step.name: step for step in steps}
    lock = run.lock()
    try:
        with settings_written(run, config):
            return [
                run_step(
                    step,
                    run,
                    by_name,
                    rebuild=bool(rebuild & {"all", step.stage, step.name}),
                    workers=workers,
                )
                for step in steps
                if step.stage in stages
            ]
    finally:
        lock.release()


@contextmanager
def settings_written(run: RunDirectory, config: RunConfig) -> Iterator[None]:
    """Write `run.toml`; a command that is refused before it began a step leaves the one that was there."""
    path = run.root / "run.toml"
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    manifests = _manifest_texts(run)
    write_text_whole(path, config.to_toml())
    try:
        yield
    except UserError:
        if before is not None and _manifest_texts(run) == manifests:
            write_text_whole(path, before)
        raise


def _manifest_texts(run: RunDirectory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.manifest_files()}


def run_step(
    step: Step,
    run: RunDirectory,
    steps: Mapping[str, Step],
    *,
    rebuild: bool = False,
    workers: Workers | None = None,
) -> Manifest:
    """Carry out one step: skip it if done, resume it if begun, refuse it if its results are stale."""
    manifest = begin_step(step, run, steps, rebuild=rebuild)
    if manifest.status != "complete":
        manifest = _work(step, run, manifest, workers)
    if step.cleanup is not None:
        step.cleanup(run)
    return manifest


def begin_step(
    step: Step, run: RunDirectory, steps: Mapping[str, Step], *, rebuild: bool = False
) -> Manifest:
    """The manifest of a step that may be worked on now, as written; `complete` if nothing is to be done."""
    for name in step.inputs:
        _check_input(step, steps[name], run, steps)
    inputs = {name: expected_fingerprint(steps[name], steps) for name in step.inputs}
    fingerprint = expected_fingerprint(step, steps)
    recorded = {"version": step.version, **step.config}
    found = run.manifest(step.name)
    if found is not None and found.status != "complete" and not _has_files(step, run):
        found = None  # it failed before its first file: nothing would be lost
    if found is None and any((run.root / folder).exists() for folder in step.folders):
        if not rebuild and _has_files(step, run):
            raise StaleRunError(
                f"{run.root}: {', '.join(step.folders)} hold files without a manifest, of unknown origin; "
                f"remove them, or pass --rebuild {step.stage} to have them removed"
            )
        _discard(step, run)
    if found is not None and found.fingerprint != fingerprint:
        if not rebuild:
            raise StaleRunError(_stale_message(step, run, _changes(found, recorded, inputs)))
        log.info("%s: discarded (%s)", step.name, "; ".join(_changes(found, recorded, inputs)))
        _discard(step, run)
        found = None
    if found is not None and found.status == "complete":
        missing = run.missing_shards(found)
        if not missing:
            log.info("%s: up to date", step.name)
            return found
        log.warning("%s: %d shards are missing and are computed again", step.name, len(missing))
    seconds_before = found.seconds or 0.0 if found is not None else 0.0
    manifest = Manifest(
        step=step.name,
        status="running",
        fingerprint=fingerprint,
        config=recorded,
        inputs=inputs,
        versions=_versions(),
        seconds=seconds_before,
    )
    write_manifest(run.root, manifest)
    return manifest


def _work(step: Step, run: RunDirectory, manifest: Manifest, workers: Workers | None) -> Manifest:
    started = time.monotonic()
    seconds_before = manifest.seconds or 0.0
    try:
        result = step.work(run) if workers is None else workers.carry_out(step)
    finally:
        spent = seconds_before + time.monotonic() - started
        manifest = replace(manifest, seconds=round(spent, 3))
        write_manifest(run.root, manifest)
    for folder in (*step.folders, "manifests"):
        storage.remove_unfinished(run.root / folder)
    manifest = replace(
        manifest,
        status="complete",
        n_shards=dict(result.n_shards),
        n_rows=dict(result.n_rows),
        counts=dict(result.counts),
        cost_usd=result.cost_usd,
    )
    write_manifest(run.root, manifest)
    return manifest


def expected_fingerprint(step: Step, steps: Mapping[str, Step]) -> str:
    """The fingerprint a step's results have if it and all it reads are made as configured now."""
    inputs = {name: expected_fingerprint(steps[name], steps) for name in step.inputs}
    return digest({"step": step.name, "version": step.version, "config": step.config, "inputs": inputs})


def _check_input(step: Step, source: Step, run: RunDirectory, steps: Mapping[str, Step]) -> None:
    manifest = run.manifest(source.name)
    again = f"run `autointerp {source.stage}` with the same RUN and RUN_DIR first"
    if manifest is None or manifest.status != "complete":
        state = "was never run" if manifest is None else "is not finished"
        raise UserError(f"{step.stage}: needs step {source.name!r}, which {state} in {run.root}; {again}")
    if manifest.fingerprint != expected_fingerprint(source, steps):
        inputs = {name: expected_fingerprint(steps[name], steps) for name in source.inputs}
        changes = _changes(manifest, {"version": source.version, **source.config}, inputs)
        raise StaleRunError(_stale_message(source, run, changes))
    missing = run.missing_shards(manifest)
    if missing:
        raise UserError(f"{step.stage}: {missing[0]} is missing; {again} to restore it")


def _has_files(step: Step, run: RunDirectory) -> bool:
    return any(storage.files_below(run.root / folder, "*") for folder in step.folders)


def _discard(step: Step, run: RunDirectory) -> None:
    manifest_path(run.root, step.name).unlink(missing_ok=True)
    for folder in step.folders:
        storage.remove_tree(run.root / folder)
        storage.remove_tree(storage.local_beside(run.root) / folder)


def _stale_message(step: Step, run: RunDirectory, changes: list[str]) -> str:
    return (
        f"{run.root}: the results of {step.name!r} were made otherwise ({'; '.join(changes)}); pass "
        f"--rebuild {step.stage} (make: REBUILD={step.stage}) to discard and compute them again, or choose "
        "another RUN_DIR"
    )


def _changes(found: Manifest, config: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """What differs between a manifest and what is asked now, in words."""
    before, now = _flatten(found.config), _flatten(config)
    changes = [
        f"{key} was {before.get(key, 'unset')!r}, now {now.get(key, 'unset')!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    changes += [
        f"its input {name!r} was computed anew"
        for name in sorted({*found.inputs, *inputs})
        if found.inputs.get(name) != inputs.get(name)
    ]
    return changes or ["another format of this package"]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            key: leaf
            for name, child in value.items()
            for key, leaf in _flatten(child, f"{prefix}{name}.").items()
        }
    return {prefix.rstrip("."): value}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in RECORDED_VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
