"""The sample stage over many latents: time, peak memory, and the time beside EleutherAI/delphi's.

    python benchmarks/sample_scale.py [--latents 20_000] [--contexts 16_384] [--folder FOLDER]
    python benchmarks/sample_scale.py --latents 1_000_000 --contexts 50_000 --folder FOLDER
    python benchmarks/sample_scale.py --latents 0 --delphi FOLDER [--delphi-latents 1_000]

Writes a made-up run of `--latents` latents (see `synthetic_run.py`) and runs the stage over it in a process
of its own: 20 train and 20 test windows a latent, 40 random silent ones, 10 similar, 10 of neighbours. The
floor is reading the same Parquet once, decoded. The aim: 1,000,000 latents x 100 examples in under 8 GB.
With `--folder` the run is kept there, and made again only if it is missing.

With `--delphi` the loader, constructor and sampler of the package `eai-delphi` work on the same activations
(the aim: ours takes at most a twentieth of their time per latent). FOLDER is where it was put:

    pip install --no-deps --target FOLDER eai-delphi asyncer orjson

By default that is text and a dictionary of 131,072 tokens and 24 active ones of 4,096 latents, of which 1,000
are sampled: 768 activations each on average. Both cut tiles of 32 tokens, take 40 train and 50 test windows evenly over ten parts of the range of activation, and
50 random windows in which the latent is silent. What differs: ours writes Parquet and splits train from test by
document, which theirs does not; theirs makes texts of the tokens (one per token with
transformers 4, which it needs to mark tokens; with transformers 5 one per window; both are timed, and none at
all), and its silent windows may overlap.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from benchmarks.synthetic_run import Size, configuration, write_run

EXAMPLES = {
    "n_train": 20,
    "n_train_random": 10,
    "n_test": 20,
    "n_test_random": 30,
    "n_test_similar": 10,
    "n_test_neighbour": 10,
}
AS_DELPHI = {
    "placement": "tile",
    "train_strategy": "quantiles",
    "n_train": 40,
    "n_train_random": 0,
    "n_test": 50,
    "n_test_random": 50,
    "n_test_similar": 0,
    "n_test_neighbour": 0,
}
_STAGE = """
import json, resource, sys, time
from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.config import load_config
from autointerp.stages.sample import sample
run = RunDirectory(sys.argv[1])
config = load_config(run.root / "run.toml")
begun, cpu = time.perf_counter(), time.process_time()
result = sample(config, run)
unit = 1024 if sys.platform != "darwin" else 1
print(json.dumps({
    "seconds": time.perf_counter() - begun,
    "processor_seconds": time.process_time() - cpu,
    "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9,
    "examples": result.n_rows["examples"],
    "short": result.counts["latents_with_fewer_than_asked"],
}))
"""


def stage(root: Path) -> dict[str, Any]:
    """Times, peak memory and results of the stage over a run, in a process of its own."""
    command = [sys.executable, "-c", _STAGE, str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def floor(root: Path) -> tuple[float, float]:
    """Seconds and processor seconds of reading what the stage reads, once."""
    begun, cpu = time.perf_counter(), time.process_time()
    run = RunDirectory(root)
    for name, columns in (("contexts", None), ("latents", ["latent", "neighbours"]), ("activations", None)):
        for table in run.dataset(name).iter_shards(columns=columns):
            assert table.num_rows
    return time.perf_counter() - begun, time.process_time() - cpu


def scale(root: Path, size: Size) -> None:
    """Measure the stage over a run of that size, and print."""
    if not (root / "latents").is_dir():
        begun = time.perf_counter()
        write_run(root, size, configuration(EXAMPLES))
        print(f"made up in {time.perf_counter() - begun:,.0f} s", file=sys.stderr)
    run = RunDirectory(root)
    n, n_activations = run.dataset("latents").n_rows, run.dataset("activations").n_rows
    seconds, processor = floor(root)
    got = stage(root)
    print(
        f"{n:,} latents, {n_activations:,} activations in {size.contexts:,} contexts of {size.context_size}"
    )
    print(
        f"  sample: {got['seconds']:,.0f} s ({got['processor_seconds']:,.0f} of a processor, "
        f"{1e3 * got['processor_seconds'] / n:.2f} ms per latent), {got['examples']:,} examples "
        f"({got['examples'] / n:.1f} per latent), peak memory {got['gigabytes']:.2f} GB (aim: under 8)"
    )
    print(f"  floor, the same Parquet read once: {seconds:,.0f} s ({processor:,.0f} of a processor)")
    print(f"  latents with fewer windows than asked: {got['short']}")


def write_for_delphi(root: Path, target: Path) -> None:
    """The contexts and activations of a run as Delphi's cache: one file, sorted by place in the text."""
    from safetensors.numpy import save_file

    run = RunDirectory(root)
    tokens = run.dataset("contexts").read(columns=["tokens"]).column("tokens").combine_chunks()
    acts = run.dataset("activations").read()
    context, position, latent = (acts.column(c).to_numpy() for c in ("context", "position", "latent"))
    order = np.lexsort((latent, position, context))
    folder = target / "layer"
    folder.mkdir(parents=True)
    n = run.dataset("latents").n_rows
    save_file(
        {
            "locations": np.stack([context, position, latent], axis=1)[order].astype(np.uint32),
            "activations": acts.column("activation").to_numpy()[order].astype(np.float16),
            "tokens": tokens.flatten().to_numpy().reshape(len(tokens), -1),
        },
        folder / f"0_{n - 1}.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({"model_name": "none"}), encoding="utf-8")


class Ids:
    """A tokenizer that leaves ids as they are."""

    def batch_decode(self, tokens: Any) -> Any:
        """The ids."""
        return tokens


class Windows(Ids):
    """A fast tokenizer of made-up words, as it is in transformers 5: a list of ids is one text."""

    def __init__(self, vocabulary: int) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        words = {f" w{i}": i for i in range(vocabulary)}
        self.fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token=" w0")))

    def batch_decode(self, tokens: Any) -> Any:
        """The text of the window."""
        return self.fast.batch_decode(tokens)


class Tokens(Windows):
    """The same as in transformers 4: one text per token, which Delphi's scorers need to mark tokens."""

    def batch_decode(self, tokens: Any) -> list[str]:
        """One text per token."""
        return [self.fast.decode(token) for token in tokens]


def theirs(folder: Path, cache: Path, decoder: Any) -> tuple[int, float]:
    """Latents Delphi gives a record for, and the processor seconds it takes."""
    sys.path.insert(0, str(folder))
    # Imported for writing remote files, which nothing here does.
    sys.modules.setdefault("blobfile", types.ModuleType("blobfile"))
    from delphi.config import ConstructorConfig, SamplerConfig  # type: ignore[import-not-found]
    from delphi.latents.loader import LatentDataset  # type: ignore[import-not-found]

    begun = time.process_time()
    dataset = LatentDataset(
        cache,
        SamplerConfig(n_examples_train=40, n_examples_test=50),
        # By default it gives up on latents with fewer than 200 windows: here it samples what there is.
        ConstructorConfig(example_ctx_len=32, min_examples=1, n_non_activating=50),
        tokenizer=decoder,
        modules=["layer"],
    )
    n = sum(1 for record in dataset if len(record.train) + len(record.test))
    return n, time.process_time() - begun


def beside_delphi(folder: Path, size: Size) -> None:
    """Measure Delphi and the stage over the same activations, and print."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "run"
        n_activations = write_run(root, size, configuration(AS_DELPHI))
        write_for_delphi(root, Path(scratch) / "delphi")
        decoders = {
            "theirs, a text per token": Tokens(size.vocabulary),
            "theirs, a text per window": Windows(size.vocabulary),
            "theirs, no text": Ids(),
        }
        spent = {name: theirs(folder, Path(scratch) / "delphi", one) for name, one in decoders.items()}
        ours = stage(root)
        table = RunDirectory(root).dataset("examples").read()
        begun = time.process_time()
        write_shard(Path(scratch) / "again.parquet", table, DATASETS["examples"])
        writing = time.process_time() - begun
    per_latent, to_write = (1e3 * s / size.latents for s in (ours["processor_seconds"], writing))
    print(
        f"{size.latents:,} latents, {n_activations:,} activations in {size.contexts:,} contexts, beside Delphi"
    )
    print(
        f"  ours, from Parquet to Parquet: {per_latent:.2f} ms of a processor per latent, {to_write:.2f} of them "
        f"writing; {ours['examples']:,} examples"
    )
    for name, (n_theirs, seconds) in spent.items():
        each = 1e3 * seconds / n_theirs
        print(
            f"  {name}: {each:.2f} ms per latent ({n_theirs:,} with examples), {each / per_latent:.1f} times ours, "
            f"{each / (per_latent - to_write):.1f} times ours without writing (aim: at least 20)"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=20_000)
    parser.add_argument("--contexts", type=int, default=16_384)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--delphi", type=Path)
    parser.add_argument("--delphi-latents", type=int, default=1_000)
    parser.add_argument("--delphi-contexts", type=int, default=1_024)
    parser.add_argument("--delphi-per-latent", type=float, default=768.0)
    arguments = parser.parse_args()
    if arguments.latents:
        kept = arguments.folder
        with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as folder:
            scale(Path(folder) / "run", Size(latents=arguments.latents, contexts=arguments.contexts))
    if arguments.delphi:
        beside_delphi(
            arguments.delphi,
            Size(
                latents=arguments.delphi_latents,
                contexts=arguments.delphi_contexts,
                per_latent=arguments.delphi_per_latent,
            ),
        )


if __name__ == "__main__":
    main()
