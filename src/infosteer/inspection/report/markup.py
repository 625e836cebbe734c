"""HTML that is safe by construction: text is escaped on the way in, and nothing invisible stays invisible.

Texts come from models, data and people. Controls, bidirectional marks, lone surrogates and other format characters
are replaced by their code point in brackets, so that a reader sees them and they steer nothing.
"""

from __future__ import annotations

import html
import json
import unicodedata
from typing import Any

_VOID = {"meta", "input", "br", "hr"}
_KEPT = {"\n", "\t"}
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}  # control, format, private use, surrogates, line separators
_INVISIBLE = {"\u034f", "\u115f", "\u1160", "\u3164", "\uffa0", "\u2800"}  # drawn as nothing, though called letters
_JOINERS = {"\u200c", "\u200d"}  # of Indic and Persian words, and of emoji: harmless


class Markup(str):
    """Text that is HTML already; only this module and files of the package make it."""

    __slots__ = ()


def visible(text: object) -> str:
    """A text with every character that is not drawn replaced by its code point, as in ``[U+202E]``."""
    words = str(text)
    if words.isascii() and words.isprintable():
        return words
    return "".join(_shown(character) for character in words)


def _shown(character: str) -> str:
    if character in _KEPT or character in _JOINERS:
        return character
    code = ord(character)
    no_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    if unicodedata.category(character) in _HIDDEN or character in _INVISIBLE or no_character:
        return f"[U+{code:04X}]"
    return character


def clip(text: str, limit: int) -> str:
    """A text cut at ``limit`` characters, which then says how long it is."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. Children that are not Markup are escaped; ``class_`` and ``aria_label`` lose and change their ``_``.

    Attributes that are None or False are left out, those that are True stand alone.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.rstrip("_").replace("_", "-")
        parts.append(shown if value is True else f'{shown}="{html.escape(visible(value))}"')
    if name in _VOID:
        return Markup(f"<{' '.join(parts)}>")
    return Markup(f"<{' '.join(parts)}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Children one after the other, escaped unless they are Markup; None is nothing, lists are taken apart."""
    made = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            made.append(str(child))
        elif isinstance(child, list | tuple):
            made.append(str(join(*child)))
        else:
            made.append(html.escape(visible(child)))
    return Markup("".join(made))


def bdi(text: object) -> Markup:
    """A text of unknown direction, kept from turning its neighbours around."""
    return el("bdi", text)


def embedded_json(identity: str, value: Any) -> Markup:
    """Data for the page's script. ASCII only, and without any character that could end or open an element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(identity)}">{text}</script>')


def table(head: list[object], rows: list[list[object]], *, caption: object, numbers_from: int = 1) -> Markup:
    """A table that may be wider than a phone: it scrolls inside its own box, by keyboard too."""
    made = [el("th", cell, scope="col", class_="num" if i >= numbers_from else None) for i, cell in enumerate(head)]
    body = [
        el(
            "tr",
            [
                el("th", cell, scope="row") if i == 0 else el("td", cell, class_="num" if i >= numbers_from else None)
                for i, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    whole = el("table", el("caption", el("span", caption)), el("thead", el("tr", made)), el("tbody", body))
    return el("div", whole, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {_plain(caption)}")


def _plain(caption: object) -> str:
    if not isinstance(caption, Markup):
        return str(caption)
    text, inside = [], False
    for character in caption:
        inside = character == "<" or (inside and character != ">")
        if not inside and character != ">":
            text.append(character)
    return html.unescape("".join(text))
