"""The tables of a run's TOML file, one frozen class each."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, Strict, field_validator, model_validator

from autointerp.config.section import Section, not_a_result

Latents = Literal["all"] | Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=0)]]
"""Which latents: "all", a number (that many, drawn by the run's seed) or a list of ids."""

Strategy = Literal["top", "random", "quantiles", "mixed", "importance", "top_importance"]
"""How a latent's activating windows are drawn."""


class SubjectConfig(Section):
    """`[subject]`: the language model under study."""

    model: str
    """Hub name, local folder, `.gguf` file, or `package:NAME/FILE` inside an installed package."""
    backend: Literal["transformer_lens", "huggingface"] = not_a_result("huggingface")
    """Who runs it: TransformerLens' `TransformerBridge` or plain Hugging Face hooks (same numbers)."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    device: str = not_a_result("auto")
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the model's forward pass."""
    trust_remote_code: bool = False
    """Run the Python code of a hub repository. Off unless you trust its author."""


class DictionaryConfig(Section):
    """`[dictionary]`: the SAE, transcoder or other sparse dictionary whose latents are labelled."""

    source: Literal["sae_lens", "sparsify", "neurons", "object", "random"] = "sae_lens"
    """`sae_lens` (by `release` and `sae_id`, or by `path`), `sparsify` (`path` or hub name in
    `release`, `sae_id` the hook point's folder), `neurons` (the MLP neurons at `hook_point`),
    `object` (`path` is `package.module:function` returning anything with `encode`) or `random`
    (`n_latents` random directions at `hook_point`, the `top_k` largest active: a control)."""
    release: str | None = None
    """SAELens release or Hugging Face repository."""
    sae_id: str | None = None
    """Id of the dictionary inside the release."""
    path: str | None = None
    """Local folder of a saved dictionary, or the import path of an `object`."""
    hook_point: str | None = None
    """Where the activations are read, as in `blocks.9.hook_resid_post`; by default what the
    dictionary's own metadata says."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """`neurons` and `random` only: keep the k most active latents of each position; for neurons, by
    default every positive one."""
    n_latents: Annotated[int, Field(ge=1)] | None = None
    """`random` only: number of directions."""
    seed: Annotated[int, Field(ge=0)] = 0
    """`random` only: which directions."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the encoder."""

    @model_validator(mode="after")
    def _complete(self) -> DictionaryConfig:
        if self.source == "sae_lens" and not (self.path or (self.release and self.sae_id)):
            raise ValueError("source 'sae_lens' needs path, or release and sae_id")
        if self.source == "sparsify" and not (self.path or self.release):
            raise ValueError("source 'sparsify' needs path or release")
        if self.source == "neurons" and not self.hook_point:
            raise ValueError("source 'neurons' needs hook_point, as in 'blocks.9.mlp.hook_post'")
        if self.source not in ("neurons", "random") and self.top_k is not None:
            raise ValueError(f"top_k is for sources 'neurons' and 'random' (seen source {self.source!r})")
        if self.source != "random" and (self.n_latents is not None or self.seed):
            name = "seed" if self.n_latents is None else "n_latents"
            raise ValueError(f"{name} is for source 'random' (seen source {self.source!r})")
        if self.source == "random":
            self._check_random()
        if self.source == "object" and not (self.path and self.hook_point):
            raise ValueError("source 'object' needs path ('package.module:function') and hook_point")
        return self

    def _check_random(self) -> None:
        needed = {"hook_point": self.hook_point, "n_latents": self.n_latents, "top_k": self.top_k}
        if missing := [name for name, value in needed.items() if value is None]:
            raise ValueError(f"source 'random' needs hook_point, n_latents and top_k (missing: {missing[0]})")
        if foreign := [name for name in ("release", "sae_id", "path") if getattr(self, name) is not None]:
            raise ValueError(f"source 'random' takes no {foreign[0]}: its directions are made from seed")
        if self.top_k and self.n_latents and self.top_k > self.n_latents:
            raise ValueError(f"top_k: seen {self.top_k}, more than n_latents ({self.n_latents})")


class CorpusConfig(Section):
    """`[corpus]`: the text the subject reads."""

    dataset: str
    """Hub name, or a local Parquet, JSONL, JSON, CSV or text file, folder or glob."""
    subset: str | None = None
    """Configuration name of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset."""
    revision: str | None = None
    """Hub revision of the dataset."""
    text_column: str = "text"
    """The column that holds the text."""
    streaming: bool = not_a_result(True)
    """Read as it goes instead of downloading the whole dataset first."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.4
    """Share of documents kept for scoring; the rest is for explaining. By hash of the text, so
    equal documents fall on the same side."""


class ReservoirConfig(Section):
    """`[cache.reservoir]`: keep a bounded sample of each latent's contexts instead of all of them."""

    n_random: Annotated[int, Field(ge=1)] = 128
    """Contexts kept of each latent and split, drawn uniformly among those in which it is active."""
    n_top: Annotated[int, Field(ge=0)] = 64
    """Contexts kept beside them, those with the largest activation."""


class CacheConfig(Section):
    """`[cache]`: tokens through the subject and the dictionary."""

    n_tokens: Annotated[int, Field(ge=1)] = 10_000_000
    """How many tokens to read (rounded up to whole contexts); less if the corpus is smaller."""
    context_size: Annotated[int, Field(ge=2, le=65_535)] | None = None
    """Tokens per context; by default as the dictionary was trained, else 256."""
    prepend_bos: bool | None = None
    """Begin each context with the BOS token; by default as the dictionary was trained."""
    separator: Literal["bos", "eos", "none"] | None = None
    """The token between documents of one context; by default as the dictionary was trained."""
    mask_special: bool = True
    """Leave out activations on special tokens (BOS, EOS, padding)."""
    mask_first: bool = True
    """Leave out activations at the first position of a context, where norms are abnormal."""
    contexts_per_batch: Annotated[int, Field(ge=1)] = not_a_result(8)
    """Contexts per forward pass."""
    contexts_per_shard: Annotated[int, Field(ge=1)] = 512
    """Contexts per shard of `contexts`: what a killed run loses at most."""
    rows_per_shard: Annotated[int, Field(ge=1_000)] = 8_000_000
    """Non-zero activations per shard of `activations`: sets the memory of the transpose."""
    rare_below_contexts: Annotated[int, Field(ge=1)] = 10
    """Latents active in fewer contexts than this, in either split, are marked `rare`."""
    dense_above: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Latents active on more than this share of tokens are marked `dense`."""
    n_top_tokens: Annotated[int, Field(ge=1, le=1_000)] = 20
    """Length of the lists `top_tokens`, `top_logits` and `bottom_logits`."""
    n_neighbours: Annotated[int, Field(ge=0, le=1_000)] = 10
    """Length of the lists `neighbours`: each latent's nearest ones by cosine of decoder directions; 0
    leaves them out."""
    neighbour_search: Literal["exact", "approximate"] | None = None
    """`exact` compares all pairs of latents; `approximate` searches the nearest clusters of directions
    (needs the extra `scale`). By default exact up to 131,072 latents."""
    reservoir: ReservoirConfig | None = None
    """Keep only so many contexts of each latent, whatever the number of tokens, for millions of latents on
    a small disk; by default every activation is kept."""


class SampleConfig(Section):
    """`[sample]`: windows of text for explaining (train) and for scoring (test)."""

    window_tokens: Annotated[int, Field(ge=2, le=65_535)] = 32
    """Tokens per window."""
    placement: Literal["trigger", "tile"] = "trigger"
    """`trigger`: the strongest token lies at `trigger_position`; `tile`: fixed tiles of the context."""
    trigger_position: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]], Strict(False)
    ] = (0.5, 0.9)
    """Range of the strongest token's place in its window, 0 the first token and 1 the last."""
    n_train: Annotated[int, Field(ge=1)] = 40
    """Activating windows per latent for explaining."""
    n_train_random: Annotated[int, Field(ge=0)] = 20
    """Windows per latent for explaining in which it is never active, drawn uniformly."""
    n_train_similar: Annotated[int, Field(ge=0)] = 0
    """The same, chosen for their likeness to its activating windows (TF-IDF over tokens)."""
    n_train_neighbour: Annotated[int, Field(ge=0)] = 0
    """The same, in which one of its nearest latents is active."""
    n_test: Annotated[int, Field(ge=1)] = 50
    """Activating windows per latent for scoring."""
    n_test_random: Annotated[int, Field(ge=0)] = 50
    """Windows per latent for scoring in which it is never active, drawn uniformly."""
    n_test_similar: Annotated[int, Field(ge=0)] = 10
    """The same, chosen for their likeness to its activating windows (TF-IDF over tokens)."""
    n_test_neighbour: Annotated[int, Field(ge=0)] = 10
    """The same, in which one of its nearest latents is active; none if the dictionary has no decoder."""
    n_test_unread: Annotated[int, Field(ge=0)] = 0
    """Windows per latent drawn uniformly without looking whether it is active: for presets that
    reproduce tools which call such windows inactive."""
    similar_pool: Annotated[int, Field(ge=1)] = 20_000
    """Windows of each split, drawn at random, among which similar ones are looked for."""
    train_strategy: Strategy = "mixed"
    """How activating train windows are drawn: `top` the strongest, `random`, `quantiles` evenly over
    activation deciles, `mixed` half `top` and half `quantiles`, `importance` in proportion to the square
    of the strongest activation, `top_importance` half `top` and half `importance`."""
    test_strategy: Strategy = "quantiles"
    """How activating test windows are drawn."""


class ExplainConfig(Section):
    """`[explain]`: which explainers label which latents."""

    explainers: list[str] = Field(["default", "statistics"], min_length=1)
    """Names of `[explainers.NAME]` sections or of registered explainers."""
    latents: Latents = "all"
    """Which latents, unless an explainer's own section says otherwise."""
    latents_per_shard: Annotated[int, Field(ge=1)] = 256
    """Latents per shard of `explanations`."""
    shuffled_control: bool = True
    """Also give each latent the explanation of another: the control every score is read against."""


class ScoreConfig(Section):
    """`[score]`: which scorers judge the explanations of which latents."""

    scorers: list[str] = Field(["detection", "fuzzing"], min_length=1)
    """Names of `[scorers.NAME]` sections or of registered scorers."""
    latents: Latents = "all"
    """Which latents, unless a scorer's own section says otherwise."""
    latents_per_shard: Annotated[int, Field(ge=1)] = 64
    """Latents per shard of `judgements` and `scores`."""


class ModelsConfig(Section):
    """`[models]`: the language models that explain and judge."""

    explainer: dict[str, Any] = Field(default_factory=dict)
    """`[models.explainer]`: `backend` and its options."""
    judge: dict[str, Any] = Field(default_factory=dict)
    """`[models.judge]`: `backend` and its options."""
    reply_store: str | None = not_a_result(None)
    """File of stored replies; by default `replies.sqlite` in the run directory (on object storage: beside it on this
    machine). Runs may share one."""


class EngineConfig(Section):
    """`[engine]`: who computes the shards. The files are the same whoever does."""

    kind: Literal["local", "processes", "ray"] = not_a_result("local")
    """`local`: this process; `processes`: several on this machine; `ray`: actors on a Ray cluster (extra
    `ray`), which see the run directory under the same path."""
    workers: Annotated[int, Field(ge=1)] = not_a_result(2)
    """Processes or actors, each with its own models."""
    threads_per_worker: Annotated[int, Field(ge=1)] | None = not_a_result(None)
    """Threads of each worker's arithmetic; by default the machine's cores shared among them."""
    devices: Annotated[list[str], Field(min_length=1)] | None = not_a_result(None)
    """`processes` only: the GPUs each worker in turn has to itself, as `["cuda:0", "cuda:1"]`, or several each, as
    `["cuda:0,cuda:1", "cuda:2,cuda:3"]`. By default every GPU in turn, where there are several."""
    address: str | None = not_a_result(None)
    """`ray` only: address of the cluster, as `HOST:6379` or `auto`; by default RAY_ADDRESS, else one is started
    here."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = not_a_result(1.0)
    """`ray` only: CPUs reserved for each worker."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = not_a_result(0.0)
    """`ray` only: GPUs reserved for each worker, the only ones it sees; 0.5: two workers share one."""
    wait_seconds: Annotated[float, Field(gt=0)] = not_a_result(300.0)
    """`ray` only: longest wait for the cluster to give a first worker, at the start and after all were lost."""

    @field_validator("devices")
    @classmethod
    def _gpus(cls, value: list[str] | None) -> list[str] | None:
        for devices in value or []:
            if not re.fullmatch(r" *cuda:\d+ *(, *cuda:\d+ *)*", devices):
                raise ValueError(
                    f"seen {devices!r}; accepted: GPUs as 'cuda:0', or several as 'cuda:0,cuda:1'"
                )
        return value


class ReportConfig(Section):
    """`[report]`: the HTML page of the run."""

    n_latents: Annotated[int, Field(ge=1)] = not_a_result(200)
    """Latents with a page of their own in `report/`; those with the most scores come first."""
    n_windows: Annotated[int, Field(ge=1)] = not_a_result(12)
    """Windows shown per latent."""


class RunConfig(Section):
    """One run: every section of its TOML file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "run"
    """Name of the run; its directory is `runs/NAME` unless said otherwise."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice; streams are keyed by (seed, latent)."""
    subject: SubjectConfig
    dictionary: DictionaryConfig
    corpus: CorpusConfig
    cache: CacheConfig = CacheConfig()
    sample: SampleConfig = SampleConfig()
    explain: ExplainConfig = ExplainConfig()
    explainers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """`[explainers.NAME]`: options of an explainer; key `explainer` when NAME is not its own name."""
    score: ScoreConfig = ScoreConfig()
    scorers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """`[scorers.NAME]`: options of a scorer; key `scorer` when NAME is not its own name."""
    models: ModelsConfig = ModelsConfig()
    report: ReportConfig = ReportConfig()
    engine: EngineConfig = EngineConfig()

    def to_toml(self) -> str:
        """The resolved configuration as TOML (unset options are left out)."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
