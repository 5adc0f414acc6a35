"""`python -m autointerp.cli`."""

from autointerp.cli import main

main()
