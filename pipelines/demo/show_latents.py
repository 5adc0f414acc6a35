"""Shows latents of a demo SAE: the contexts where each is most active, the token marked.

    python pipelines/demo/show_latents.py SAE --latents 7,42
    python pipelines/demo/show_latents.py SAE --random 60 --seed 1
    python pipelines/demo/show_latents.py --docs          # rewrites docs/demo-latents.md

SAE is a folder name below `data/saes`. Random latents are drawn from those active on at least
MIN_ACTIVE_TOKENS tokens of the corpus. `--docs` takes the latents and their concepts,
worded after reading their contexts, from `picked_latents.toml`. Needs the activations of
`activations.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from activations import CONTEXT_SIZE, MODEL, REPOSITORY, default_work_folder
from sae_lens import SAE
from sae_quality import encoded_chunks
from transformers import PreTrainedTokenizerBase

from autointerp.weights import load_tokenizer

MIN_ACTIVE_TOKENS = 10
SAES = REPOSITORY / "data" / "saes"
PICKED = Path(__file__).with_name("picked_latents.toml")
DOCS = REPOSITORY / "docs" / "demo-latents.md"
WINDOW_TOKENS = 14


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """One context of a latent: the text before, of and after its most active token."""

    before: str
    token: str
    after: str
    activation: float


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A latent with its strongest excerpts and the tokens it is most often active on."""

    latent: int
    n_active_tokens: int
    density: float
    tokens: list[str]
    excerpts: list[Excerpt]


def count_active(folder: Path, work: Path) -> np.ndarray:
    """On how many tokens of the corpus each latent is active, (latents,)."""
    sae = SAE.load_from_disk(folder, dtype="float32")
    hook = str(sae.cfg.metadata.hook_name)
    counts = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)
    for side in ("heldout", "train"):
        for _, _, latents in encoded_chunks(sae, work, side, hook):
            counts += (latents > 0).sum(0)
    return counts.numpy()


def show(
    folder: Path,
    work: Path,
    latents: list[int],
    n_excerpts: int,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Shown]:
    """The strongest excerpts of each latent, at most two from one document."""
    sae = SAE.load_from_disk(folder, dtype="float32")
    hook = str(sae.cfg.metadata.hook_name)
    sides = ("heldout", "train")
    values = np.concatenate(
        [chunk[:, latents].numpy() for side in sides for _, _, chunk in encoded_chunks(sae, work, side, hook)]
    ).reshape(-1, CONTEXT_SIZE, len(latents))
    tokens = np.concatenate([np.load(work / f"{side}-tokens.npy") for side in sides])
    documents = np.concatenate([np.load(work / f"{side}-documents.npy") for side in sides])
    shown = []
    for column, latent in enumerate(latents):
        activations = values[:, :, column]  # (contexts, positions)
        active = activations > 0
        weights: Counter[int] = Counter()
        for token, value in zip(tokens[active], activations[active], strict=True):
            weights[int(token)] += float(value)
        excerpts: list[Excerpt] = []
        per_document: Counter[int] = Counter()
        for context in np.argsort(-activations.max(1), kind="stable"):
            position = int(activations[context].argmax())
            document = int(documents[context, position])
            if activations[context, position] <= 0 or len(excerpts) == n_excerpts:
                break
            if per_document[document] == 2:
                continue
            per_document[document] += 1
            first = max(0, position - WINDOW_TOKENS)
            row = tokens[context]
            excerpts.append(
                Excerpt(
                    before=tokenizer.decode(row[first:position]),
                    token=tokenizer.decode(row[position : position + 1]),
                    after=tokenizer.decode(row[position + 1 : position + 1 + WINDOW_TOKENS // 2]),
                    activation=float(activations[context, position]),
                )
            )
        shown.append(
            Shown(
                latent=latent,
                n_active_tokens=int(active.sum()),
                density=float(active.mean()),
                tokens=[tokenizer.decode([token]) for token, _ in weights.most_common(8)],
                excerpts=excerpts,
            )
        )
    return shown


def as_text(shown: Shown) -> str:
    """A latent for the terminal."""
    lines = [
        f"== latent {shown.latent}: active on {shown.n_active_tokens} tokens "
        f"({shown.density:.3%}); {shown.tokens}"
    ]
    for excerpt in shown.excerpts:
        marked = f"{excerpt.before}<<{excerpt.token}>>{excerpt.after}"
        lines.append(f"  {excerpt.activation:7.2f}  " + marked.replace("\n", "\\n"))
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text as Markdown and HTML show it literally inside a table cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)
    return re.sub(r"\s+", " ", text)


def as_cell(excerpt: Excerpt) -> str:
    """An excerpt for a table cell, its token in bold; spaces stay outside the bold."""
    token = escape(excerpt.token)
    bare = token.strip()
    bold = token.replace(bare, f"**{bare}**", 1) if bare else "**⏎**"
    return f"… {escape(excerpt.before).lstrip()}{bold}{escape(excerpt.after).rstrip()} …"


def write_docs(work: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the table of picked latents."""
    picked = tomllib.loads(PICKED.read_text())
    lines = [
        "# Some latents of the demo SAEs",
        "",
        "Concepts in plain words, chosen after reading the contexts where each latent is most "
        "active; these latents were picked because they read clearly. The table is written "
        "by `pipelines/demo/show_latents.py --docs` from `pipelines/demo/picked_latents.toml`; "
        "the token on which the latent is most active is in bold. The text is from Wikipedia "
        "(CC BY-SA; articles and revisions are listed in `data/wikipedia-sample.parquet`).",
    ]
    for name, concepts in picked.items():
        ids = [int(latent) for latent in concepts]
        lines += ["", f"## {name}", "", "| latent | concept | three contexts |", "|---|---|---|"]
        for shown in show(SAES / name, work, ids, 3, tokenizer):
            cells = "<br>".join(as_cell(excerpt) for excerpt in shown.excerpts)
            lines.append(f"| {shown.latent} | {escape(concepts[str(shown.latent)])} | {cells} |")
    DOCS.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sae", nargs="?", help="folder name below data/saes")
    parser.add_argument("--latents", help="comma-separated latents")
    parser.add_argument("--random", type=int, default=0, help="how many random live latents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contexts", type=int, default=8, help="excerpts per latent")
    parser.add_argument("--docs", action="store_true", help="write docs/demo-latents.md")
    parser.add_argument("--work", type=Path, default=default_work_folder())
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(MODEL)
    if arguments.docs:
        write_docs(arguments.work, tokenizer)
        return
    if not arguments.sae:
        parser.error("give an SAE's folder name, or --docs")
    folder = SAES / arguments.sae
    if arguments.latents:
        latents = [int(latent) for latent in arguments.latents.split(",")]
    else:
        counts = count_active(folder, arguments.work)
        live = np.flatnonzero(counts >= MIN_ACTIVE_TOKENS)
        generator = np.random.default_rng(arguments.seed)
        size = min(arguments.random or 20, len(live))
        latents = sorted(int(latent) for latent in generator.choice(live, size, replace=False))
        print(json.dumps({"latents": len(counts), "live": len(live), "shown": size}))
    for shown in show(folder, arguments.work, latents, arguments.contexts, tokenizer):
        print(as_text(shown))


if __name__ == "__main__":
    main()
