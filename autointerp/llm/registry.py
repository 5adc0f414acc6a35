"""The backends by name: their options, their capabilities, and how to open them.

Light to import: torch, transformers and openai are imported when a backend is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from autointerp.config import parse_table
from autointerp.errors import UserError, unknown_name
from autointerp.llm.options import (
    BackendOptions,
    CannedOptions,
    LocalOptions,
    OpenAIBatchOptions,
    OpenAIOptions,
    VllmOptions,
)
from autointerp.llm.types import Backend, Capability


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One backend: its options class, and a factory that imports it only when called."""

    options: type[BackendOptions]
    factory: Callable[[Any], Backend]
    """From options (of the class above) to an open backend."""
    usual_capabilities: frozenset[Capability]
    """What it can do in some configuration: for telling a user where else to look."""


def _lazy(module: str, name: str) -> Callable[[Any], Backend]:
    def factory(options: Any) -> Backend:
        return cast(Backend, getattr(import_module(f"autointerp.llm.{module}"), name)(options))

    return factory


BACKENDS: dict[str, BackendSpec] = {
    "canned": BackendSpec(
        options=CannedOptions,
        factory=_lazy("canned", "open_canned"),
        usual_capabilities=frozenset(Capability),
    ),
    "local": BackendSpec(
        options=LocalOptions,
        factory=_lazy("local", "LocalBackend"),
        usual_capabilities=frozenset(Capability) - {Capability.JSON_SCHEMA},  # with `hold_to_schema` that too
    ),
    "openai": BackendSpec(
        options=OpenAIOptions,
        factory=_lazy("openai_backend", "OpenAIBackend"),
        usual_capabilities=frozenset(Capability),
    ),
    "openai_batch": BackendSpec(
        options=OpenAIBatchOptions,
        factory=_lazy("batch_backend", "OpenAIBatchBackend"),
        usual_capabilities=frozenset(Capability) - {Capability.LIKELIHOOD, Capability.PROMPT_LOGPROBS},
    ),
    "vllm": BackendSpec(
        options=VllmOptions,
        factory=_lazy("vllm_backend", "VllmBackend"),
        usual_capabilities=frozenset(Capability),
    ),
}
"""Every backend by the name used in `backend = ...`."""


def parse_model(table: Mapping[str, Any], where: str = "models.judge") -> BackendOptions:
    """Check the table of one model.

    `where` is the table's dotted name, for messages. Raises `UserError` if it is empty, names no
    backend or an unknown one, or holds a wrong option.
    """
    names = ", ".join(sorted(BACKENDS))
    if not table:
        raise UserError(f"{where}: missing, and a language model is needed; accepted backends: {names}")
    backend = table.get("backend")
    if backend is None:
        raise UserError(f"{where}.backend: missing, and it has no default; accepted: {names}")
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise unknown_name(f"{where}.backend", str(backend), BACKENDS)
    return parse_table(BACKENDS[backend].options, table, where)


def capabilities_of(options: BackendOptions) -> frozenset[Capability]:
    """What the model of these options will be able to do; nothing is loaded or asked."""
    return options.capabilities()


def require(
    model: Mapping[str, Any] | BackendOptions | Collection[Capability],
    needed: Collection[Capability],
    who: str,
    role: str,
) -> None:
    """Check that a model can do what an explainer or scorer needs, before any request.

    `model` is the table of a model, its parsed options, or a set of capabilities. `who` needs
    them, as in "scorer 'simulation'"; `role` is the table's dotted name, as in "models.judge".
    Nothing is checked if nothing is needed, so a model that is not used may be missing.

    Raises `UserError`: the capabilities that are missing and the backends that have them.
    """
    if not needed:
        return
    if isinstance(model, Mapping):
        if not model:
            raise UserError(
                f"{role}: missing, and {who} needs a model with {_list(needed)}; "
                f"backends that have it: {_list(_with(needed))}"
            )
        model = parse_model(model, role)
    has = model.capabilities() if isinstance(model, BackendOptions) else frozenset(model)
    missing = frozenset(needed) - has
    if missing:
        label = f" (backend {model.backend!r})" if isinstance(model, BackendOptions) else ""
        hint = (
            f"; for a server that can, set {role}.api = 'both' or list it in {role}.supports"
            if isinstance(model, OpenAIOptions)
            else ""
        )
        raise UserError(
            f"{who} needs {_list(missing)}, which {role}{label} lacks; "
            f"backends that have it: {_list(_with(missing))}{hint}"
        )


def open_backend(options: BackendOptions) -> Backend:
    """Load the model or open the connection that options describe.

    Raises `UserError` for a model, device, key or package that is missing.
    """
    try:
        return BACKENDS[options.backend].factory(options)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name == "autointerp":
            raise
        raise UserError(f"backend {options.backend!r} needs the package {name}: pip install {name}") from None


def _with(needed: Collection[Capability]) -> list[str]:
    return [name for name, spec in BACKENDS.items() if frozenset(needed) <= spec.usual_capabilities]


def _list(items: Collection[str]) -> str:
    return ", ".join(sorted(str(item) for item in items)) or "none"
