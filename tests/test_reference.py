"""The reference pages in docs/ are those the code generates."""

from __future__ import annotations

from pathlib import Path

import pytest

from autointerp.report.reference import PAGES

DOCS = Path(__file__).parent.parent / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name):
    committed = (DOCS / f"{name}.md").read_text()
    assert committed == PAGES[name](), f"run: autointerp reference {name} > docs/reference/{name}.md"
