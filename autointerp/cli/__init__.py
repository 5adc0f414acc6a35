"""The command line: modules of commands, each thin.

A new module is imported below; commands are listed in that order.
"""

from __future__ import annotations

import logging
import sys

from autointerp.cli.app import app
from autointerp.errors import UserError

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


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2 (a spent budget: 3), without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "openai", "httpcore", "transformers", "datasets", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)
