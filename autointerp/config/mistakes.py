"""What is wrong with a configuration, in one line: the setting, what was seen, what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from autointerp.config.section import Section, section_of
from autointerp.errors import nearest

LISTS = {"explainers": "explain.explainers", "scorers": "score.scorers"}
"""Tables of options, and where the names that are to run are listed."""


def explain(cls: type[Section], error: ValidationError, where: str) -> str:
    """The first mistake that pydantic found in the table `where` (a dotted name)."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    kind, seen = first["type"], first.get("input")
    if kind == "extra_forbidden":
        section = _section_at(cls, location[:-1])
        names = list(section.model_fields) if section else []
        close = nearest(location[-1], names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        key = _dotted(where, location)
        return f"{key}: unknown key (seen {seen!r}); {hint}accepted here: {', '.join(names)}"
    if kind == "missing":
        return f"{_dotted(where, location)}: missing, and it has no default; {_accepted(cls, location)}"
    if kind == "value_error":
        return f"{_dotted(where, location) or cls.__name__}: {first['ctx']['error']!s}"
    location = _field_location(cls, location)
    shown = repr(seen) if not isinstance(seen, dict) else "a table"
    key = _dotted(where, location)
    hint = f" (the list of names is {LISTS[key]})" if key in LISTS else ""
    return f"{key}: seen {shown}{hint}; {_accepted(cls, location)}"


def _dotted(where: str, location: list[str]) -> str:
    return ".".join(part for part in [where, *location] if part)


def _section_at(cls: type[Section], location: list[str]) -> type[Section] | None:
    current: type[Section] | None = cls
    for part in location:
        info = current.model_fields.get(part) if current else None
        current = section_of(info.annotation) if info else None
    return current


def _field_location(cls: type[Section], location: list[str]) -> list[str]:
    """The part of a pydantic location that names keys, without its branches of unions."""
    kept: list[str] = []
    for part in location:
        section = _section_at(cls, kept)
        if section is None or part not in section.model_fields:
            break
        kept.append(part)
    return kept or location


def _accepted(cls: type[Section], location: list[str]) -> str:
    section = _section_at(cls, location[:-1])
    info = section.model_fields.get(location[-1]) if section else None
    if info is None:
        return "accepted: see the documentation of this section"
    return f"accepted: {describe_type(info.annotation, info.metadata)}"


def describe_type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type annotation in words a user reads, with its bounds."""
    bounds = [
        f"{sign} {getattr(item, attribute)}"
        for item in metadata
        for attribute, sign in (
            ("ge", ">="),
            ("gt", ">"),
            ("le", "<="),
            ("lt", "<"),
            ("min_length", "at least"),
        )
        if getattr(item, attribute, None) is not None
    ]
    patterns = [str(item.pattern) for item in metadata if getattr(item, "pattern", None)]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner_metadata = [m for a in arguments[1:] for m in (getattr(a, "metadata", None) or [a])]
        return describe_type(arguments[0], [*inner_metadata, *metadata])
    if origin in (Union, UnionType):
        branches = [a for a in arguments if a is not type(None)]
        return " or ".join(
            "a list of them" if _element(a) in branches else describe_type(a, metadata) for a in branches
        )
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments) if len(arguments) > 1 else repr(arguments[0])
    if origin is list:
        return f"a list of {_several(arguments[0])}" + (f" ({', '.join(bounds)})" if bounds else "")
    if origin is tuple:
        return "a list [" + ", ".join(describe_type(a) for a in arguments) + "]"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a table"}
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a table"
    name = words.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))
    suffix = f" {' and '.join(bounds)}" if bounds else ""
    return f"{name}{suffix}" + (f" matching {patterns[0]}" if patterns else "")


def _element(annotation: Any) -> Any:
    """What a list type is a list of; None for other types."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation)[0] if get_origin(annotation) is list else None


def _several(annotation: Any) -> str:
    """The elements of a list in words."""
    words = describe_type(annotation)
    if words.startswith("one of "):
        return f"any of {words.removeprefix('one of ')}"
    for one, many in (
        ("whole number", "whole numbers"),
        ("number", "numbers"),
        ("text", "texts"),
        ("table", "tables"),
    ):
        words = words.replace(f"a {one}", many)
    return words
