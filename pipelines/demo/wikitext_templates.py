"""Which wiki templates carry running text, and what that text is.

Most templates are furniture (infoboxes, citations, notices) and vanish. The few listed here stand
for words inside a sentence, which would not read without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mwparserfromhell.nodes import Template

Render = Callable[[object], str]

# Template name -> the positional argument (1-based) that is its text.
TEXT_ARGUMENT = {
    "lang": 2, "transl": 2, "transliteration": 2, "nowrap": 1, "nobr": 1, "nobold": 1, "small": 1,
    "smaller": 1, "big": 1, "larger": 1, "quote": 1, "blockquote": 1, "quotation": 1, "cquote": 1,
    "bquote": 1, "nihongo": 1, "abbr": 2, "tooltip": 1, "sup": 1, "sub": 1, "unicode": 1,
    "polytonic": 1, "hebrew": 1, "script/hebrew": 1, "math": 1, "mvar": 1, "var": 1, "em": 1,
    "strong": 1, "linktext": 1, "w": 1, "ship": 2, "not a typo": 1, "as written": 1, "sic": 1,
    "angle bracket": 1, "grapheme": 1, "interlanguage link": 1, "ill": 1, "visible anchor": 1,
    "vanchor": 1, "angbr": 1, "vr": 1, "ipa": 1, "color": 2, "font color": 2, "keypress": 1, "key press": 1,
    "wikt-lang": 2, "okina": 0, "gcl": 1, "ussc": 0, "sfrac": 0, "pi": 0, "inflation": 0,
}  # fmt: skip
JOINED = {"chem": "", "chem2": "", "frac": "/", "fraction": "/", "su": "", "nuclide": " "}
FIXED = {
    "ndash": "–", "spaced ndash": " – ", "snd": " – ", "spnd": " – ", "mdash": "—", "emdash": "—",
    "spaced emdash": " — ", "nbsp": " ", "spaces": " ", "pi": "π", "'": "'", "'s": "'s",
    "bce": "BCE", "ad": "AD", "·": " · ", "!": "|", "okina": "ʻ", "en dash": "–", "en-dash": "–",
}  # fmt: skip
CONVERT = {"convert", "cvt", "conv"}
RANGE_WORDS = {"to", "and", "or", "by", "x", "-", "–", "to(-)", "and(-)", "+/-", "±"}
UNITS = {
    "mi": "miles", "ft": "feet", "in": "inches", "km": "km", "m": "m", "cm": "cm", "mm": "mm",
    "kg": "kg", "lb": "pounds", "sqmi": "square miles", "sqkm": "square kilometres",
    "km2": "square kilometres", "acre": "acres", "acres": "acres", "ha": "hectares",
    "nmi": "nautical miles", "C": "°C", "F": "°F", "K": "K", "mph": "mph", "km/h": "km/h",
    "yd": "yards", "lbs": "pounds", "oz": "ounces", "g": "g", "t": "tonnes", "kPa": "kPa",
    "foot": "feet", "sqft": "square feet", "m2": "square metres", "cuft": "cubic feet",
    "ft/s": "feet per second", "m/s": "m/s", "L": "litres", "usgal": "US gallons", "kn": "knots",
    "impgal": "gallons", "lb/ft": "pounds per foot", "km3": "cubic kilometres", "inch": "inches",
}  # fmt: skip


def render_template(template: Template, render: Render) -> str:
    """The running text a template stands for; the empty string for furniture.

    `render` turns parsed wiki code into text (it is called on the template's arguments).
    """
    name = re.sub(r"[\s_]+", " ", str(template.name)).strip().lower()
    arguments = [
        render(parameter.value).strip()
        for parameter in template.params
        if str(parameter.name).strip().isdigit()
    ]
    if name in FIXED:
        return FIXED[name]
    if name in CONVERT:
        return convert(arguments)
    if name in JOINED:
        return JOINED[name].join(arguments)
    if name in ("circa", "c.", "ca", "ca."):
        return f"c. {arguments[0]}" if arguments else "c."
    if name in ("as of", "asof"):
        return f"As of {arguments[0]}" if arguments else ""
    if name in ("val",):
        return " ".join(arguments[:1])
    if name in ("gbp", "£", "usd", "us$", "euro"):
        return {"gbp": "£", "£": "£", "euro": "€"}.get(name, "$") + "".join(arguments[:1])
    if name in ("reign", "fl.", "floruit", "born-in", "died-in"):
        return "–".join(arguments)
    if name.startswith("lang-"):
        return arguments[0] if arguments else ""
    if name in ("quote", "blockquote", "quotation", "cquote", "quote box") and not arguments:
        named = {str(parameter.name).strip(): parameter.value for parameter in template.params}
        return render(named.get("text") or named.get("quote"))
    position = TEXT_ARGUMENT.get(name, 0)
    if position and arguments:
        text = arguments[min(position, len(arguments)) - 1]
        block = name in ("quote", "blockquote", "quotation", "cquote", "bquote")
        return f"\n{text}\n" if block else text
    return ""


def convert(arguments: list[str]) -> str:
    """The measured value and unit of a {{convert}} template, without the converted value."""
    words: list[str] = []
    for position, argument in enumerate(arguments):
        if re.fullmatch(r"[-−]?[\d,. ]+(/\d+)?", argument):
            words.append(argument)
        elif argument in RANGE_WORDS and position + 1 < len(arguments):
            words.append({"-": "to", "–": "to", "to(-)": "to", "x": "by"}.get(argument, argument))
        else:
            words.append(UNITS.get(argument, argument))
            break
    return " ".join(words)
