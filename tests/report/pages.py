"""A page as a browser would take it apart: elements, attributes, text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "hr"}


@dataclass
class Element:
    """An element and what it holds."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    """All text in it, that of its children too, in order."""

    @property
    def text(self) -> str:
        return " ".join("".join(self.own).split())

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        """Every element below with that tag and those attributes (`class_` matches one of the classes)."""
        found = []
        for child in self.children:
            if (tag is None or child.tag == tag) and child._fits(attributes):
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag: str | None = None, **attributes: str) -> Element:
        """The only such element."""
        (found,) = self.all(tag, **attributes)
        return found

    def _fits(self, attributes: dict[str, str]) -> bool:
        return all(
            value in self.attributes.get("class", "").split()
            if name == "class_"
            else self.attributes.get(name.replace("_", "-")) == value
            for name, value in attributes.items()
        )


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, (self.open[-1].tag, tag)
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element.own.append(data)


def parse(text: str) -> Element:
    """The document; elements must nest and close."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.open == [parser.root]
    return parser.root


def assert_harmless(page: Element, text: str) -> None:
    """Nothing of the corpus has become markup, a script, a style, an address or an invisible character."""
    known = {"script", "link", "meta", "title", "html", "head", "body"}
    assert {e.tag for e in page.all()} & {"img", "iframe", "object", "embed", "base", "b1", "style"} == set()
    for element in page.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            assert name not in ("style", "srcdoc", "formaction", "srcset"), (element.tag, name)
            if name in ("src", "href", "action"):
                assert "//" not in value, value
                assert ":" not in value.split("?")[0], value
        if element.tag in ("script", "style"):
            assert element.text == ""
    assert known <= {e.tag for e in page.all()}
    for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x1b\x00":
        assert c not in text
