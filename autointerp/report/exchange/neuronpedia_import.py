"""A public export of Neuronpedia into a run directory.

The export of a source is a folder with `features/`, `activations/` and `explanations/`, each of
`batch-N.jsonl.gz`. It holds each latent's strongest texts and some weaker ones, not all text: what is not
listed for a latent is unknown, not silent. So windows of other latents' texts are silent by assumption, and
the manifest says how often that assumption fails for a latent of median density.
"""

from __future__ import annotations

import time
from pathlib import Path

from autointerp.artifacts import RunDirectory
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.report.exchange import reading
from autointerp.report.exchange.imported import Imported, run_config, write_labels
from autointerp.report.exchange.neuronpedia_rows import find_export, read_features, read_labels, read_texts
from autointerp.report.exchange.neuronpedia_windows import Negatives, NeuronpediaOptions
from autointerp.report.exchange.neuronpedia_writer import RARE_BELOW_CONTEXTS, ExportWriter
from autointerp.report.exchange.sources import release_of

__all__ = ["Negatives", "NeuronpediaOptions", "find_export", "import_neuronpedia", "read_labels"]


def import_neuronpedia(folder: Path, root: Path, options: NeuronpediaOptions) -> Imported:
    """Write an export's rows as datasets of a new run directory.

    Raises `UserError` for a folder or file that is no export, or that says two different things.
    """
    started = time.monotonic()
    folder = find_export(folder)
    if not reading.batches(folder / "activations"):
        raise UserError(
            f"FOLDER: {str(folder)!r} holds no activations/batch-N.jsonl.gz: no text to judge labels on; accepted: "
            "--labels FILE to take its labels alone, for the explainer `given` in a run of your own"
        )
    source, labels, kinds = read_labels(folder)
    features, source = read_features(folder, source)
    writer = ExportWriter(RunDirectory(root), features, options)
    with Tracker("import", max(features, default=-1) + 1 or None, "latents") as tracker:
        for path in reading.batches(folder / "activations"):
            latents, source = read_texts(path, source, writer.names)
            writer.write(path, latents)
            tracker.advance(writer.last + 1 - tracker.done)
    n_labelled = max((x.latent for rows in labels.values() for x in rows), default=-1)
    writer.finish(1 + max([*features, n_labelled, writer.last], default=-1))
    if source is None:
        raise UserError(f"FOLDER: {str(folder)!r} holds no row")
    counts = writer.counts()
    release = release_of(source)
    hook = next((str(f["hookName"]) for f in features.values() if f.get("hookName")), None)
    origin = {
        "from": "neuronpedia",
        "model": source.model,
        "source": source.source,
        "explainers": kinds,
    }
    write_labels(root, labels, origin)
    config = run_config(
        root,
        name=f"{source.model}-{source.source}",
        seed=options.seed,
        subject=options.subject or (release.subject if release else source.model),
        dictionary=None
        if release is None
        else {"source": "sae_lens", "release": release.release, "sae_id": release.sae_id},
        hook_point=hook,
        corpus=folder,
        cache={
            "rare_below_contexts": RARE_BELOW_CONTEXTS,
            "n_tokens": max(counts["n_tokens"], 1),
            "n_neighbours": 0,
        },
        sample={
            "window_tokens": options.window_tokens,
            "n_test_random": options.n_negatives if options.negatives == "random" else 0,
            "n_test_unread": options.n_negatives if options.negatives == "unread" else 0,
            "n_test_similar": 0,
            "n_test_neighbour": 0,
        },
        labels=sorted(labels),
        settings=options.settings,
    )
    metadata = {"neuronpedia_id": f"{source.model}/{source.source}", "model_name": source.model}
    return Imported(
        config=config,
        counts={
            "cache": {"imported": origin, "hook_point": hook, "dictionary_metadata": metadata, **counts},
            "sample": {"imported": origin, **writer.sampled()},
        },
        seconds=time.monotonic() - started,
        notes=writer.notes(len(labels)),
    )
