"""The reference pages in docs/ are those the code generates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autointerp.config import section_of
from autointerp.explainers.base import EXPLAINERS, ExplainContext
from autointerp.llm.registry import BACKENDS
from autointerp.report.reference import PAGES
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.base import SCORERS, JudgeContext

DOCS = Path(__file__).parent.parent / "docs" / "reference"
GUIDES = DOCS.parent / "guides"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name):
    committed = (DOCS / f"{name}.md").read_text()
    assert committed == PAGES[name](), f"run: autointerp reference {name} > docs/reference/{name}.md"


def test_every_option_of_every_plug_in_is_listed_with_its_meaning():
    page = PAGES["options"]()
    plug_ins = {f"[explainers.{name}]": cls.Config for name, cls in EXPLAINERS.items()}
    plug_ins |= {f"[scorers.{name}]": cls.Config for name, cls in SCORERS.items()}
    plug_ins |= {f'backend = "{name}"': spec.options for name, spec in BACKENDS.items()}
    assert len(plug_ins) > 25
    for title, config in plug_ins.items():
        _, _, after = page.partition(f"### {title}\n")
        listed = set(re.findall(r"^\| `(\w+)` \|", after.partition("\n### ")[0], re.MULTILINE))
        sections = {name for name, info in config.model_fields.items() if section_of(info.annotation)}
        assert listed == set(config.model_fields) - {"latents", "backend"} - sections, title
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert all(line.rsplit("|", 2)[1].strip() for line in rows)


def test_the_guide_names_what_a_plug_in_is_given():
    """The tables of `Add an explainer` list attributes that exist."""
    objects = {"record": LatentRecord, "window": Window, "context.tokens": TokenTable}
    names = re.findall(r"^\| `(.+?)` \|", (GUIDES / "add-an-explainer.md").read_text(), re.MULTILINE)
    pairs = [name.partition("(")[0].rpartition(".")[::2] for cell in names for name in cell.split("`, `")]
    for owner, attribute in pairs:
        classes = [objects[owner]] if owner in objects else [ExplainContext, JudgeContext]
        assert any(attribute in {*dir(cls), *cls.__annotations__} for cls in classes), f"{owner}.{attribute}"
    assert len(pairs) > 20
