"""Errors that a user of the pipeline can mend.

A `UserError` is printed as one line without a traceback and ends the command with exit code 2.
Anything else that is raised is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake in a setting, an input or the surroundings, told in one line.

    The message names the setting or file, what was seen, and what is accepted.
    """

    exit_code = 2
    """What the command line ends with."""


class StaleRunError(UserError):
    """A run directory holds results made with another configuration or other inputs."""


class CorruptArtifactError(UserError):
    """A file of a run directory cannot be read: truncated, damaged, or not of our schema."""


class ModelUnavailableError(UserError):
    """The language model cannot be reached at all: refused, no key, unknown name, out of credit."""


def looked_for(path: str | Path) -> str:
    """A path as it was given and, if it is relative, where that leads from the folder the command runs in."""
    whole = Path(path).expanduser()
    if whole.is_absolute():
        return repr(str(path))
    return f"{str(path)!r} (looked for {str(Path.cwd() / whole)!r}: paths begin at the folder the command runs in)"


def nearest(name: str, accepted: Iterable[str], n: int = 3) -> list[str]:
    """The accepted names most like `name`, best first (at most `n`, possibly none)."""
    return difflib.get_close_matches(str(name), list(accepted), n=n, cutoff=0.6)


def unknown_name(what: str, seen: str, accepted: Iterable[str]) -> UserError:
    """A `UserError` for a name that does not exist, with the nearest names that do.

    Short lists are given whole; of a long one, only the nearest names are shown.
    """
    names = sorted(set(accepted))
    close = nearest(seen, names)
    hint = f" (did you mean {' or '.join(repr(c) for c in close)}?)" if close else ""
    shown = ", ".join(names) if len(names) <= 40 else f"{len(names)} names, such as {', '.join(names[:5])}"
    return UserError(f"{what}: seen {seen!r}{hint}; accepted: {shown}")
