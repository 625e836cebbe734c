"""A drawing as SVG that may stand inside a page with a strict content policy and follows its light or dark colours.

The drawing library writes inline styles, a style element, metadata and fixed colours. Here styles become presentation
attributes, colours of the palette become the page's variables, and ids get a prefix so that drawings do not meet.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from infosteer.inspection.report.markup import Markup
from infosteer.inspection.report.palette import FIXED, HUES

_KEPT = {
    "fill",
    "fill-opacity",
    "fill-rule",
    "font-weight",
    "opacity",
    "stroke",
    "stroke-dasharray",
    "stroke-dashoffset",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-opacity",
    "stroke-width",
    "text-anchor",
}
_VARIABLES = {hue.light: f"var(--{hue.variable})" for hue in (*FIXED, *HUES)}
_DROPPED = {"metadata", "style"}
_FONT = re.compile(r"(?:(?P<weight>bold|[1-9]00)\s+)?(?P<size>[\d.]+)px")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def inline_svg(source: str, *, prefix: str, label: str, variant: str) -> Markup:
    """The drawing as one ``svg`` element.

    Args:
        source: an SVG document, made by this package.
        prefix: what makes its ids unique in the page.
        label: what it shows, in words, for those who do not see it.
        variant: the class that says at which width of the page it is shown.
    """
    root = ElementTree.fromstring(source)
    _clean(root, prefix)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": f"drawing {variant}",
        "role": "img",
        "aria-label": label,
        "stroke-linecap": "butt",
        "stroke-linejoin": "round",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=True))


def _clean(element: ElementTree.Element, prefix: str) -> None:
    element.tag = _bare(element.tag)
    element.tail = None
    if element.tag != "text":
        element.text = None
    attributes: dict[str, str] = {}
    for name, value in element.attrib.items():
        bare = _bare(name)
        if bare == "style":
            attributes.update(_presentation(value, prefix))
        elif bare == "id":
            attributes["id"] = f"{prefix}{value}"
        elif bare == "href" and value.startswith("#"):
            attributes["href"] = f"#{prefix}{value[1:]}"
        elif bare == "clip-path":
            attributes["clip-path"] = value.replace("url(#", f"url(#{prefix}")
        else:
            attributes[bare] = _NUMBER.sub(_short, value) if bare in ("d", "x", "y", "transform") else value
    if element.tag == "g":
        attributes.pop("id", None)
    element.attrib = attributes
    for child in list(element):
        if _bare(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _clean(child, prefix)


def _bare(name: str) -> str:
    return name.rpartition("}")[2]


def _presentation(style: str, prefix: str) -> dict[str, str]:
    found = {}
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name in ("font", "font-size"):  # the shorthand of older versions of the library holds the weight too
            match = _FONT.search(value)
            if match:
                found["font-size"] = match["size"]
                if match["weight"]:
                    found["font-weight"] = match["weight"]
        elif name in _KEPT:
            found[name] = _VARIABLES.get(value.lower(), value).replace("url(#", f"url(#{prefix}")
    return found


def _short(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}"
