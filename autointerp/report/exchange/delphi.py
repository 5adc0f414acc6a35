"""Delphi's cached latents and labels into a run directory.

A cache is a folder per hook point with `START_END.safetensors` (`locations` [n, 3]: context, position, latent
less START; `activations` [n]; `tokens` [n_contexts, context_size]) and `config.json`; labels are text files
`MODULE_latentN.txt` that hold one JSON string. After EleutherAI/delphi, `delphi/latents/cache.py` and
`delphi/__main__.py`. Only safetensors and JSON are read, never a pickle.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.schemas import table_of
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.report.exchange.imported import Imported, Label, run_config, write_labels
from autointerp.report.exchange.reading import clean
from autointerp.run import printable

EXPLAINER = "delphi"
TEST_FRACTION = 0.4
_SPLIT = re.compile(r"(\d+)_(\d+)\.safetensors")
_LABEL = re.compile(r"(.*)_latent(\d+)\.(txt|json)")
_NOT_LABELS = frozenset({"explanation could not be parsed.", "no explanation found", "no explanation found."})
"""What Delphi writes where there is no label: never judged."""


@dataclass(frozen=True, kw_only=True)
class DelphiOptions:
    """How a cache is read."""

    module: str | None = None
    """The hook point's folder, where there are several."""
    tokenizer: str | None = None
    """By default that of the model in `config.json`."""
    subject: str | None = None
    settings: Path | None = None
    """A run file whose scorers and models are taken over."""
    rare_below_contexts: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """One file of a cache: latents [first, last]."""

    path: Path
    first: int
    last: int


def find_cache(folder: Path, module: str | None) -> tuple[Path, str, list[Split]]:
    """The hook point's folder at or below `folder`, its name, and its files by latent.

    Raises `UserError` if there is none, if there are several and none is named, and for pickles.
    """
    if not folder.is_dir():
        raise UserError(
            f"FOLDER: {str(folder)!r} is no folder; accepted: Delphi's results or its latents folder"
        )
    root = folder / "latents" if (folder / "latents").is_dir() else folder
    found: dict[Path, list[Split]] = {}
    for path in [*root.glob("*.safetensors"), *root.rglob("*/*.safetensors")]:
        if match := _SPLIT.fullmatch(path.name):
            found.setdefault(path.parent, []).append(Split(path, int(match[1]), int(match[2])))
    names = {(p.relative_to(root).as_posix() if p != root else p.name): p for p in sorted(found)}
    if not names:
        pickled = sorted(p.name for p in root.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin"))
        if pickled:
            raise UserError(
                f"FOLDER: {pickled[0]} is a pickle, which is never loaded; accepted: START_END.safetensors"
            )
        raise UserError(
            f"FOLDER: no START_END.safetensors at or below {str(root)!r}; accepted: a cache of Delphi"
        )
    if module is None and len(names) > 1:
        raise UserError(
            f"--module: {str(root)!r} holds {len(names)} hook points; accepted: {', '.join(names)}"
        )
    if module is not None and module not in names:
        from autointerp.errors import unknown_name

        raise unknown_name("--module", module, names)
    name = module or next(iter(names))
    splits = sorted(found[names[name]], key=lambda split: split.first)
    for before, after in itertools.pairwise(splits):
        if after.first <= before.last:
            raise UserError(f"FOLDER: {before.path.name} and {after.path.name} hold the same latents")
    return names[name], name, splits


def read_labels(folder: Path, module: str | None = None) -> list[Label]:
    """Labels of one hook point, from `explanations/` at or below a folder.

    What stands for a missing label becomes an empty one. Raises `UserError` for a file that is no JSON string,
    and where labels are of several hook points and none is named.
    """
    root = folder / "explanations" if (folder / "explanations").is_dir() else folder
    labels, modules = [], set()
    for path in sorted(root.glob("**/*_latent*")):
        match = _LABEL.fullmatch(path.relative_to(root).as_posix())
        if match is None or not path.is_file():
            continue
        if module is not None and not _same_module(match[1], module):
            continue
        modules.add(match[1])
        labels.append(Label(latent=int(match[2]), text=_label(path)))
    if len(modules) > 1:
        raise UserError(
            f"--module: {str(root)!r} holds labels of {len(modules)} hook points; accepted: {', '.join(sorted(modules))}"
        )
    return labels


def _same_module(name: str, module: str) -> bool:
    flat = [re.sub(r"[^A-Za-z0-9]+", ".", one) for one in (name, module)]
    return flat[0] == flat[1]


def _label(path: Path) -> str | None:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        text = json.loads(content)
    except (ValueError, RecursionError):
        text = content
    if isinstance(text, dict):
        text = text.get("explanation")
    if text is not None and not isinstance(text, str):
        raise UserError(f"{path}: seen {printable(repr(text))[:60]}; accepted: a JSON string")
    text = clean(text or "").strip()
    return None if text.lower() in _NOT_LABELS or not text else text


def import_delphi(folder: Path, root: Path, options: DelphiOptions) -> Imported:
    """Write a cache as `contexts`, `activations`, `latents` and `vocabulary` of a new run directory.

    Activations on special tokens and at a context's first position are left out, as the stage `cache` does.
    Raises `UserError` for a cache that cannot be read, or whose tokenizer cannot be loaded.
    """
    from autointerp.subject.vocabulary import special_token_ids

    started = time.monotonic()
    cache, module, splits = find_cache(folder, options.module)
    facts = _json(cache / "config.json")
    model = options.subject or str(facts.get("model_name") or "")
    if not model:
        raise UserError(f"--subject: {cache / 'config.json'} names no model_name; accepted: the model's name")
    tokens = _tokens(splits[0])
    tokenizer = _tokenizer(options.tokenizer or model)
    labels = read_labels(folder, options.module or module) if folder != cache else []
    run = RunDirectory(root)
    special = np.array(special_token_ids(tokenizer), dtype=np.int64)
    masked = np.isin(tokens, special)
    masked[:, 0] = True
    is_test = _write_contexts(run, tokens, options.seed)
    counts = _write_activations(run, splits, tokens, masked, is_test, options)
    _write_vocabulary(run, tokenizer, tokens, masked, is_test)
    run_facts = _json(folder / "run_config.json", missing_ok=True)
    sparse_model = run_facts.get("sparse_model")
    known = isinstance(sparse_model, str) and "gemma" not in sparse_model
    dictionary = {"source": "sparsify", "release": sparse_model, "sae_id": module} if known else None
    hook = _hook_point(module)
    origin = {"from": "delphi", "module": module, "cache": {k: v for k, v in facts.items() if _is_plain(v)}}
    origin["explainers"] = {
        EXPLAINER: {"typeName": "delphi", "explanationModelName": run_facts.get("explainer_model")}
    }
    written = {EXPLAINER: labels} if labels else {}
    write_labels(root, written, origin)
    config = run_config(
        root,
        name=f"delphi-{module}",
        seed=options.seed,
        subject=model,
        dictionary=dictionary,
        hook_point=hook,
        corpus=cache,
        cache={
            "rare_below_contexts": options.rare_below_contexts,
            "n_tokens": int(tokens.size),
            "context_size": int(tokens.shape[1]),
            "n_neighbours": 0,
        },
        sample={"n_test_neighbour": 0},
        labels=sorted(written),
        settings=options.settings,
    )
    n_dropped = counts.pop("dropped")
    n_positions = int((~masked).sum())
    return Imported(
        config=config,
        counts={
            "cache": {
                "imported": origin,
                "hook_point": hook,
                "dictionary_metadata": {"model_name": model},
                "n_contexts": len(tokens),
                "n_contexts_test": int(is_test.sum()),
                "n_tokens": int(tokens.size),
                "n_positions": n_positions,
                "n_positions_masked": int(masked.sum()),
                "activations_dropped_at_masked_positions": n_dropped,
                "mean_active_latents_per_position": counts["n_activations"] / max(n_positions, 1),
                "latents_by_status": counts["status"],
                "mask_special": True,
                "mask_first": True,
            }
        },
        seconds=time.monotonic() - started,
        notes=[
            f"{module} of {model}: {counts['n_latents']:,} latents, {len(tokens):,} contexts of {tokens.shape[1]} tokens, "
            f"{counts['n_activations']:,} activations ({n_dropped:,} at special tokens and first positions left out)",
            f"{sum(label.text is not None for label in labels):,} labels"
            + (f" ({sum(label.text is None for label in labels):,} without text)" if labels else ""),
        ],
    )


def _tokenizer(name: str) -> Any:
    """A model's tokenizer, or one that lies in a folder by itself. Raises `UserError`."""
    if (Path(name) / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"--tokenizer: cannot read {name!r}: {str(error).splitlines()[0]}") from None
    from autointerp.weights import load_tokenizer

    return load_tokenizer(name)


def _json(path: Path, missing_ok: bool = False) -> dict[str, Any]:
    if missing_ok and not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; accepted: the config.json of a cache"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: seen {type(found).__name__}; accepted: an object")
    return found


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))


def _hook_point(module: str) -> str:
    from autointerp.subject.dictionary_sparsify import hook_points_of

    found = hook_points_of(module, transcode=False)
    return module if found is None else found[0]


def _arrays(split: Split, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Some arrays of a cache file. Raises `UserError` if they are not there or do not fit each other."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(split.path, framework="pt") as file:
            missing = [name for name in names if name not in file.keys()]  # noqa: SIM118
            if missing:
                hint = "; cache with save_tokens" if missing[0] == "tokens" else ""
                raise UserError(
                    f"{split.path}: has no {missing[0]!r}{hint}; accepted: a cache file of Delphi"
                )
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{split.path}: cannot be read: {str(error).splitlines()[0]}") from None
    return {
        name: (
            t.float() if t.is_floating_point() else t.long() if str(t.dtype) != "torch.uint64" else t
        ).numpy()
        for name, t in tensors.items()
    }


def _tokens(split: Split) -> NDArray[np.int64]:
    tokens = _arrays(split, ("tokens",))["tokens"]
    if tokens.ndim != 2 or not tokens.size or tokens.min() < 0 or tokens.max() >= 2**32:
        raise UserError(f"{split.path}: tokens of shape {tokens.shape}; accepted: token ids [contexts, size]")
    found: NDArray[np.int64] = tokens.astype(np.int64)
    return found


def _write_contexts(run: RunDirectory, tokens: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """A context is a document of its own: where documents began is not in the cache. Returns the test side."""
    from autointerp.subject.tokenise import split_of

    splits = [split_of(" ".join(map(str, row.tolist())), seed, TEST_FRACTION) for row in tokens]
    for index, first in enumerate(range(0, len(tokens), 512)):
        rows = [
            {"context": i, "document": i, "split": splits[i], "tokens": tokens[i].tolist()}
            for i in range(first, min(first + 512, len(tokens)))
        ]
        write_shard(run.shard("contexts", index=index), table_of("contexts", rows), DATASETS["contexts"])
    return np.array([split == "test" for split in splits], dtype=bool)


def _write_activations(
    run: RunDirectory,
    splits: list[Split],
    tokens: NDArray[np.int64],
    masked: NDArray[np.bool_],
    is_test: NDArray[np.bool_],
    options: DelphiOptions,
) -> dict[str, Any]:
    """A shard of `activations` and `latents` per file, in the order of the latents."""
    from autointerp.subject.statistics import StatusRule, latent_statistics

    rule = StatusRule(rare_below_contexts=options.rare_below_contexts, dense_above=0.2)
    status: Counter[str] = Counter()
    n_rows = n_dropped = 0
    with Tracker("import: latents", splits[-1].last + 1, "latents") as tracker:
        for index, split in enumerate(splits):
            # Latents between two files are there too, as never active.
            first = 0 if index == 0 else splits[index - 1].last + 1
            table, dropped = _table(split, tokens, masked)
            statistics = latent_statistics(
                table,
                first=first,
                last=split.last + 1,
                n_positions=int((~masked).sum()),
                is_test=is_test,
                n_top_tokens=20,
                rule=rule,
            )
            nothing = dict.fromkeys(("top_logits", "bottom_logits", "neighbours"))
            rows = [row | nothing for row in pa.table(statistics).to_pylist()]
            status.update(row["status"] for row in rows)
            write_shard(
                run.shard("activations", index=index), table.drop_columns(["token"]), DATASETS["activations"]
            )
            write_shard(run.shard("latents", index=index), table_of("latents", rows), DATASETS["latents"])
            n_rows, n_dropped = n_rows + table.num_rows, n_dropped + dropped
            tracker.advance(split.last + 1 - first)
    if not n_rows:
        raise UserError(f"FOLDER: no activation in {splits[0].path.parent}")
    return {
        "n_latents": splits[-1].last + 1,
        "n_activations": n_rows,
        "dropped": n_dropped,
        "status": dict(status),
    }


def _table(split: Split, tokens: NDArray[np.int64], masked: NDArray[np.bool_]) -> tuple[pa.Table, int]:
    """A file's activations sorted by (latent, context, position), and how many lay at masked positions."""
    arrays = _arrays(split, ("locations", "activations"))
    at, values = arrays["locations"], arrays["activations"].astype(np.float32)
    if at.ndim != 2 or at.shape[1] != 3 or values.shape != (len(at),):
        raise UserError(
            f"{split.path}: locations {at.shape} and activations {values.shape}; accepted: [n, 3] and [n]"
        )
    context, position, latent = at[:, 0], at[:, 1], at[:, 2] + split.first
    outside = (
        (context >= tokens.shape[0])
        | (position >= tokens.shape[1])
        | (latent > split.last)
        | (at < 0).any(axis=1)
    )
    if outside.any():
        shown = at[int(outside.argmax())].tolist()
        raise UserError(
            f"{split.path}: location {shown} lies outside {tokens.shape[0]} contexts of {tokens.shape[1]} tokens and "
            f"latents {split.first} to {split.last}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"{split.path}: an activation is not finite")
    kept = ~masked[context, position] & (values != 0)
    context, position, latent, values = context[kept], position[kept], latent[kept], values[kept]
    order = np.lexsort((position, context, latent))
    table = pa.table(
        {
            "latent": pa.array(latent[order].astype(np.uint32)),
            "context": pa.array(context[order].astype(np.uint32)),
            "position": pa.array(position[order].astype(np.uint16)),
            "activation": pa.array(values[order]),
            "token": pa.array(tokens[context, position][order].astype(np.uint32)),
        }
    )
    return table, int((~kept).sum())


def _write_vocabulary(
    run: RunDirectory,
    tokenizer: Any,
    tokens: NDArray[np.int64],
    masked: NDArray[np.bool_],
    is_test: NDArray[np.bool_],
) -> None:
    from autointerp.subject.vocabulary import vocabulary_table

    table = vocabulary_table(tokenizer, int(tokens.max()) + 1)
    n = table.num_rows
    for name, side in (("n_occurrences", ~masked), ("n_occurrences_train", ~masked & ~is_test[:, None])):
        counts = np.bincount(tokens[side], minlength=n).astype(np.uint64)
        table = table.append_column(name, pa.array(counts))
    write_shard(run.shard("vocabulary", index=0), table, DATASETS["vocabulary"])
