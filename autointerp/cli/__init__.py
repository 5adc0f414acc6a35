"""The command line: modules of commands, each thin.

A new module is imported below; commands are listed in that order.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer

from autointerp.cli.app import app
from autointerp.errors import UserError
from autointerp.storage import is_storage_error, said

# isort: off
from autointerp.cli import stages as _stages  # noqa: F401
from autointerp.cli import cost as _cost  # noqa: F401
from autointerp.cli import labelling as _labelling  # noqa: F401
from autointerp.cli import browsing as _browsing  # noqa: F401
from autointerp.cli import comparing as _comparing  # noqa: F401
from autointerp.cli import reading as _reading  # noqa: F401
from autointerp.cli import similarity as _similarity  # noqa: F401
from autointerp.cli import exchanging as _exchanging  # noqa: F401
# isort: on

__all__ = ["app", "main"]

INTERRUPTED = 130
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # typer's or click's, by the version of typer


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2 (a spent budget: 3), without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "openai", "httpcore", "transformers", "datasets", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    try:
        code = app(standalone_mode=False, prog_name="autointerp")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except USAGE_ERROR as error:
        sys.exit(_usage(error))
    except typer.Abort:
        sys.exit(1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if not is_storage_error(error):
            raise
        print(f"error: object storage: {said(error)}; run the same command again to go on", file=sys.stderr)
        sys.exit(UserError.exit_code)
    if code == INTERRUPTED:
        print("interrupted; run the same command again to go on where it stopped", file=sys.stderr)
    sys.exit(code)


def _usage(error: Any) -> int:
    """Print a mistake in the command's own options as one line, without the box; returns the exit code."""
    message = error.format_message().strip().removesuffix(".")
    if message:  # empty where the help was printed instead
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        print(f"error: {message}{hint}", file=sys.stderr)
    return int(error.exit_code)
