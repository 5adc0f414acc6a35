"""The explainers, scorers and models a configuration names, built and checked before any work."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp import explainers as explainer_room
from autointerp import scorers as scorer_room
from autointerp import storage
from autointerp.artifacts import RunDirectory
from autointerp.config import Latents, RunConfig, parse_table
from autointerp.config.mistakes import LISTS
from autointerp.errors import UserError, unknown_name
from autointerp.explainers.base import EXPLAINERS, Explainer, get_explainer, judge_needs, subject_needed
from autointerp.llm import registry
from autointerp.llm.budget import Budget
from autointerp.llm.client import ModelStats, StoredModel
from autointerp.llm.prices import PRICES_VARIABLE, price_of
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import Capability
from autointerp.progress import Tracker
from autointerp.scorers.base import SCORERS, Scorer, get_scorer
from autointerp.weights import parameter_count

if TYPE_CHECKING:
    from autointerp.subject.steering import SteeredSubject

log = logging.getLogger(__name__)

NO_EXPLAINER = "none"
"""Stands for the explainer, and as id of the explanation, in rows of scorers that need none."""
ABLE_PARAMETERS = 700_000_000
"""Judges with fewer parameters answer questions at chance (SmolLM2-135M does; a 1.5B model does not)."""


@dataclass(frozen=True, kw_only=True)
class ExplainerInstance:
    """An explainer under the name a configuration gives it."""

    name: str
    explainer: Explainer
    latents: Latents
    config: Mapping[str, Any]
    """What its results depend on: kind, version, options, prompt hashes."""

    @property
    def requires_judge(self) -> frozenset[Capability]:
        """What the judging model must be able to do; empty if it asks none."""
        return judge_needs(self.explainer)

    @property
    def needs_subject(self) -> bool:
        """Whether it runs the subject."""
        return subject_needed(self.explainer)


@dataclass(frozen=True, kw_only=True)
class ScorerInstance:
    """A scorer under the name a configuration gives it."""

    name: str
    scorer: Scorer
    latents: Latents
    config: Mapping[str, Any]
    """What its results depend on: kind, version, options, prompt hashes."""

    @property
    def explanation_free(self) -> bool:
        """Whether it judges latents without an explanation."""
        return bool(getattr(self.scorer, "explanation_free", False))

    @property
    def needs_subject(self) -> bool:
        """Whether it runs the subject."""
        return bool(getattr(self.scorer, "needs_subject", False))


def build_explainers(config: RunConfig) -> list[ExplainerInstance]:
    """The explainers of `explain.explainers`, their options checked. Raises `UserError`."""
    explainer_room.load_all()
    _check_names("explainers", config.explain.explainers)
    built = []
    for name in config.explain.explainers:
        kind, options = _kind_and_options("explainers", name, config.explainers, EXPLAINERS)
        cls = get_explainer(kind, _where("explainers", name, config.explainers))
        parsed = parse_table(cls.Config, options, f"explainers.{name}")
        with _naming(f"explainers.{name}"):
            explainer = cls(parsed)
            identity = _identity(cls.name, cls.version, parsed.result_values(), explainer.prompts())
        registry.require(
            config.models.explainer, explainer.requires(), f"explainer {name!r}", "models.explainer"
        )
        judging = judge_needs(explainer)
        registry.require(config.models.judge, judging, f"explainer {name!r}", "models.judge")
        with _naming(f"explainers.{name}"):
            if (check := getattr(explainer, "check", None)) is not None:
                check()
        built.append(
            ExplainerInstance(
                name=name,
                explainer=explainer,
                latents=config.explain.latents if parsed.latents is None else parsed.latents,
                config=identity,
            )
        )
    _check_used("explainers", config.explainers, config.explain.explainers, EXPLAINERS)
    return built


def build_scorers(config: RunConfig) -> list[ScorerInstance]:
    """The scorers of `score.scorers`, their options checked. Raises `UserError`."""
    scorer_room.load_all()
    _check_names("scorers", config.score.scorers)
    built = []
    for name in config.score.scorers:
        kind, options = _kind_and_options("scorers", name, config.scorers, SCORERS)
        cls = get_scorer(kind, _where("scorers", name, config.scorers))
        parsed = parse_table(cls.Config, options, f"scorers.{name}")
        with _naming(f"scorers.{name}"):
            scorer = cls(parsed)
            identity = _identity(cls.name, cls.version, parsed.result_values(), scorer.prompts())
        registry.require(config.models.judge, scorer.requires(), f"scorer {name!r}", "models.judge")
        with _naming(f"scorers.{name}"):
            if (check := getattr(scorer, "check", None)) is not None:
                check()
        built.append(
            ScorerInstance(
                name=name,
                scorer=scorer,
                latents=config.score.latents if parsed.latents is None else parsed.latents,
                config=identity,
            )
        )
    _check_used("scorers", config.scorers, config.score.scorers, SCORERS)
    return built


class ShardProgress:
    """Progress of a step over its shards: by requests where a model is asked, else by latents."""

    def __init__(self, what: str, shards: Sequence[Sequence[int]], *models: StoredModel | None) -> None:
        self.models = list(dict.fromkeys(model for model in models if model is not None))
        self._sizes = [len(shard) for shard in shards]
        self._finished = self._begun = self._asked = self._in_parts = 0
        unit = "requests" if self.models else "latents"
        self.tracker = Tracker(what, None if self.models else sum(self._sizes), unit)

    def __enter__(self) -> ShardProgress:
        self.tracker.__enter__()
        for model in self.models:
            model.progress = self._on_reply
        return self

    def __exit__(self, *error: Any) -> None:
        self.tracker.__exit__(*error)
        for model in self.models:
            model.progress = None

    def start(self) -> None:
        """The next shard is being worked on; several may be at once."""
        self._begun += 1
        self._asked += 1

    def finish(self, *, found_done: bool = False) -> None:
        """The next shard is finished, or was found finished."""
        size = self._sizes[self._finished]
        told = min(size, self._in_parts)
        self._finished += 1
        self._in_parts -= told
        self._begun -= 0 if found_done else 1
        if not self.models:
            (self.tracker.skip if found_done else self.tracker.advance)(size - told)

    def part(self, n_latents: int, found_done: bool) -> None:
        """So many latents of the shard that is being worked on are finished, or were found finished."""
        if not self.models:
            self._in_parts += n_latents
            (self.tracker.skip if found_done else self.tracker.advance)(n_latents)

    def _on_reply(self, _: ModelStats) -> None:
        every = [model.stats for model in self.models]
        requests = sum(stats.requests for stats in every)
        known = sum(stats.stored + stats.duplicates for stats in every)
        sent = sum(stats.sent for stats in every)
        # What the shards to come will ask is guessed from those begun.
        left = len(self._sizes) - self._finished
        total = requests + requests * (left - self._begun) // max(self._asked, 1)
        self.tracker.update(known + sent, total, known)


class Models:
    """The language models of a run, opened when first asked for and shared by equal settings."""

    def __init__(
        self,
        config: RunConfig,
        budget: Budget | None = None,
        open_store: Callable[[Path], ReplyStore] = ReplyStore,
    ) -> None:
        self.config = config
        self.budget = budget
        self._open_store = open_store
        self._backends: dict[str, Any] = {}
        self._opened: list[StoredModel] = []
        self._subject: SteeredSubject | None = None

    def steered_subject(self) -> SteeredSubject:
        """The subject and its dictionary, for plug-ins that run it; loaded when first asked for."""
        from autointerp.subject.steering import SteeredSubject

        if self._subject is None:
            self._subject = SteeredSubject.open(self.config)
        return self._subject

    def open(self, role: str, run: RunDirectory) -> StoredModel:
        """The model of a role (`explainer` or `judge`) behind the reply store of the run."""
        options = registry.parse_model(getattr(self.config.models, role), f"models.{role}")
        key = options.model_dump_json()
        if key not in self._backends:
            self._backends[key] = registry.open_backend(options)
        store = self._open_store(reply_store(self.config, run))
        model = StoredModel(self._backends[key], store, price=price_of(options), budget=self.budget)
        self._opened.append(model)
        return model

    def check_price(self, role: str) -> None:
        """Raises `UserError` if there is a budget and a role's model has no known price."""
        options = registry.parse_model(getattr(self.config.models, role), f"models.{role}")
        if self.budget is not None and price_of(options) is None:
            raise UserError(
                f"--max-cost: the price of models.{role}.model {options.model!r} is not known; set its "
                "price_prompt_usd_per_million and price_completion_usd_per_million, or name a table of prices in "
                f"{PRICES_VARIABLE}"
            )

    def identity(self, role: str, needed: bool) -> dict[str, Any] | None:
        """What answers depend on, for fingerprints; None where the role is not needed."""
        if not needed:
            return None
        options = registry.parse_model(getattr(self.config.models, role), f"models.{role}")
        return options.result_values()

    def settle(self) -> None:
        """Close the reply stores, and keep what is loaded: `open` may be called again."""
        opened, self._opened = self._opened, []
        for model in opened:
            with suppress(UserError):  # what broke the store was told already, or is when it is closed
                model.record_use()
            model.store.close()

    def close(self) -> None:
        """Free the models."""
        self.settle()
        for backend in self._backends.values():
            backend.close()
        self._backends, self._subject = {}, None


def reply_store(config: RunConfig, run: RunDirectory) -> Path:
    """The file of stored replies of a run: on this machine also where the run itself is not."""
    return Path(config.models.reply_store or storage.local_beside(run.root) / "replies.sqlite")


def warn_of_small_judge(config: RunConfig) -> None:
    """Say at start that a judge is too small for the questions it is asked (its numbers would be chance).

    Once all plug-ins are known to be right: an error stands alone.
    """
    needs = {f"explainer {built.name!r}": built.requires_judge for built in build_explainers(config)}
    needs |= {f"scorer {built.name!r}": built.scorer.requires() for built in build_scorers(config)}
    table = config.models.judge
    asking = [who for who, n in needs.items() if n & {Capability.GENERATE, Capability.PROMPT_LOGPROBS}]
    if not asking or table.get("backend") not in ("local", "vllm"):
        return
    size = parameter_count(str(table["model"]))
    if size is None or size >= ABLE_PARAMETERS:
        return
    for who in asking:
        log.warning(
            "%s asks its judge questions, and models.judge.model %r has %d million parameters: too few to "
            "answer them better than chance; use readout 'likelihood' or a larger judge",
            who,
            table["model"],
            round(size / 1e6),
        )


def _check_names(section: str, names: list[str]) -> None:
    """Names become folders: letters, digits, - and _; none twice."""
    if len(set(names)) != len(names):
        raise UserError(f"{LISTS[section]}: a name is listed twice: {names}")
    for name in names:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{LISTS[section]}: seen {name!r}; accepted: letters, digits, - and _")
        if section == "explainers" and name == NO_EXPLAINER:
            raise UserError(
                f"{LISTS[section]}: seen {name!r}, the name of scores that need no explanation; "
                "accepted: any other name"
            )


def _check_used(section: str, tables: Mapping[str, Any], names: list[str], known: Mapping[str, Any]) -> None:
    """Refuse a section that nobody uses and that is no plug-in's: most often a misspelt name. Tell of others."""
    for name, table in tables.items():
        if name in names:
            continue
        if name in known or table.get(section.removesuffix("s")) in known:
            log.info("not used: [%s.%s], which %s does not name", section, name, LISTS[section])
        else:
            raise unknown_name(
                f"[{section}.{name}]: a section that {LISTS[section]} does not name", name, names
            )


def _kind_and_options(
    section: str, name: str, tables: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Which explainer or scorer a name stands for, and its options. Raises `UserError` if its table does not say."""
    options = dict(tables.get(name, {}))
    key = section.removesuffix("s")
    if name in tables and key not in options and name not in known:
        raise UserError(
            f"{section}.{name}.{key}: missing, and {name!r} is itself no {key}; "
            f"accepted: {key} = one of {', '.join(sorted(known))}"
        )
    return options.pop(key, name), options


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Mistakes found by a plug-in, which does not know its table's name, are told under that name."""
    try:
        yield
    except UserError as error:
        said = str(error)
        raise type(error)(said if said.startswith(where) else f"{where}: {said}") from None


def _where(section: str, name: str, tables: Mapping[str, Any]) -> str:
    return f"{section}.{name}" if name in tables else LISTS[section]


def _identity(kind: str, version: int, options: dict[str, Any], prompts: Mapping[str, str]) -> dict[str, Any]:
    hashes = {
        name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        for name, text in sorted(prompts.items())
    }
    options.pop("latents", None)
    return {"kind": kind, "version": version, "options": options, "prompts": hashes}
