"""Commands that bring in what other tools made, and hand out what was made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autointerp.cli.app import app
from autointerp.cli.options import RunDirArgument

importing = typer.Typer(
    name="import", help="Bring in what other tools made, as a run directory.", no_args_is_help=True
)
exporting = typer.Typer(name="export", help="Hand out a run in other tools' forms.", no_args_is_help=True)
app.add_typer(importing)
app.add_typer(exporting)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="What the other tool wrote.")]
NewRunDir = Annotated[Path | None, typer.Option("--run-dir", metavar="RUN", help="The new run directory.")]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="FILE", help="Take the labels alone, as JSONL for the explainer `given`."
    ),
]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings", metavar="RUN.toml", help="A run file whose scorers and models are taken over."
    ),
]
Subject = Annotated[
    str | None, typer.Option("--subject", metavar="MODEL", help="Name of the model, where it is not known.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of splits and draws.")]
Explainers = Annotated[
    list[str] | None, typer.Option("--explainer", metavar="NAME", help="Whose labels; by default all.")
]


@importing.command(name="neuronpedia")
def import_neuronpedia(
    folder: Folder,
    run_dir: NewRunDir = None,
    labels: LabelsFile = None,
    settings: Settings = None,
    subject: Subject = None,
    negatives: Annotated[
        str,
        typer.Option(
            "--negatives",
            help="Texts of other latents as windows of kind `random` (silent by assumption) or `unread`.",
        ),
    ] = "random",
    window: Annotated[int, typer.Option("--window", min=2, help="Tokens per window.")] = 32,
    seed: Seed = 0,
) -> None:
    """A public export of Neuronpedia: features, activations and explanations of one source."""
    from autointerp.engine.importing import import_run
    from autointerp.errors import UserError, unknown_name
    from autointerp.report.exchange import neuronpedia_import as reader

    if negatives not in ("random", "unread"):
        raise unknown_name("--negatives", negatives, ("random", "unread"))
    if labels is not None:
        _, found, _ = reader.read_labels(reader.find_export(folder))
        _write_labels(labels, [label for rows in found.values() for label in rows], run_dir)
        return
    if run_dir is None:
        raise UserError("--run-dir: missing; accepted: a new folder (or --labels FILE for the labels alone)")
    options = reader.NeuronpediaOptions(
        window_tokens=window,
        negatives="unread" if negatives == "unread" else "random",
        subject=subject,
        settings=settings,
        seed=seed,
    )
    _tell(import_run(run_dir, lambda root: reader.import_neuronpedia(folder, root, options)), run_dir)


@importing.command(name="delphi")
def import_delphi(
    folder: Folder,
    run_dir: NewRunDir = None,
    labels: LabelsFile = None,
    settings: Settings = None,
    subject: Subject = None,
    module: Annotated[
        str | None, typer.Option("--module", metavar="NAME", help="The hook point, where there are several.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="NAME", help="By default the model's own.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Cached latents (safetensors) and explanations of Delphi."""
    from autointerp.engine.importing import import_run
    from autointerp.errors import UserError
    from autointerp.report.exchange import delphi as reader

    if labels is not None:
        _write_labels(labels, reader.read_labels(folder, module), run_dir)
        return
    if run_dir is None:
        raise UserError("--run-dir: missing; accepted: a new folder (or --labels FILE for the labels alone)")
    options = reader.DelphiOptions(
        module=module, tokenizer=tokenizer, subject=subject, settings=settings, seed=seed
    )
    _tell(import_run(run_dir, lambda root: reader.import_delphi(folder, root, options)), run_dir)


@exporting.command(name="neuronpedia")
def export_neuronpedia(
    run_dir: RunDirArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder below which the export is written.")],
    model_id: Annotated[
        str | None, typer.Option("--model-id", help="Neuronpedia's model id, where SAELens does not say it.")
    ] = None,
    source_id: Annotated[
        str | None, typer.Option("--source-id", help="Neuronpedia's source id, as 6-res-jb; likewise.")
    ] = None,
    explainer: Explainers = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Strongest texts per latent.")] = 20,
    per_interval: Annotated[
        int, typer.Option("--per-interval", min=0, help="Texts per tenth of the range of activations.")
    ] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens per text.")] = 128,
    with_subject: Annotated[
        bool,
        typer.Option("--with-subject", help="Load dictionary and subject: vectors, histograms of logits."),
    ] = False,
    seed: Seed = 0,
) -> None:
    """Features, activations and labels as Neuronpedia's public exports have them."""
    from autointerp.report.exchange.neuronpedia_export import ExportOptions
    from autointerp.report.exchange.neuronpedia_export import export_neuronpedia as write

    options = ExportOptions(
        model_id=model_id,
        source_id=source_id,
        n_top=top,
        n_per_interval=per_interval,
        text_tokens=tokens,
        explainers=tuple(explainer or ()),
        with_subject=with_subject,
        seed=seed,
    )
    rows = write(run_dir, out, options)
    typer.echo(f"{', '.join(f'{n:,} {part}' for part, n in rows.items())} below {out}")


@exporting.command()
def jsonl(
    run_dir: RunDirArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    explainer: Explainers = None,
    controls: Annotated[bool, typer.Option("--controls", help="The shuffled controls too.")] = False,
) -> None:
    """Every label with its scores, a JSON object a line."""
    from autointerp.report.exchange.labels import export_labels

    n = export_labels(run_dir, out, "jsonl", explainers=explainer or (), controls=controls)
    typer.echo(f"{n:,} labels in {out}")


@exporting.command(name="csv")
def csv_(
    run_dir: RunDirArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    explainer: Explainers = None,
    controls: Annotated[bool, typer.Option("--controls", help="The shuffled controls too.")] = False,
    safe: Annotated[
        bool, typer.Option("--safe", help="For spreadsheets: an apostrophe before what looks like a formula.")
    ] = False,
) -> None:
    """Every label with its scores, as a table."""
    from autointerp.report.exchange.labels import export_labels

    n = export_labels(run_dir, out, "csv", explainers=explainer or (), controls=controls, safe=safe)
    typer.echo(f"{n:,} labels in {out}")


def _write_labels(path: Path, labels: list[Any], run_dir: Path | None) -> None:
    from autointerp.artifacts.manifest import write_text_whole
    from autointerp.errors import UserError
    from autointerp.report.exchange.imported import label_lines

    if run_dir is not None:
        raise UserError("--labels: writes labels alone, without --run-dir; accepted: one of the two")
    if path.suffix != ".jsonl":
        raise UserError(f"--labels: seen {str(path)!r}; accepted: a file ending in .jsonl")
    if not labels:
        raise UserError("FOLDER: holds no labels")
    write_text_whole(path, "".join(label_lines(labels)))
    typer.echo(f"{len(labels):,} labels in {path}")


def _tell(imported: Any, run_dir: Path) -> None:
    for note in imported.notes:
        typer.echo(note)
    typer.echo(
        f"run file {run_dir / 'run.toml'}; go on with: autointerp run {run_dir / 'run.toml'} --run-dir {run_dir}"
    )
