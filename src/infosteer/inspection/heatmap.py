"""A text's information flux as colours: levels for the terminal, and one self-contained HTML page without a script.

Colours run from the lowest to the highest flux of the text itself, since most texts use a narrow part of 0 to ln M.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from infosteer.inspection.data import TokenReading
from infosteer.inspection.report.markup import Markup, clip, el, visible
from infosteer.inspection.report.palette import style_variables

LEVELS = 21
_SHOWN = 60  # characters of a token
_STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 6rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; } p, caption { color: var(--muted); } caption { text-align: left; padding: .5rem 0; }
.text { color: var(--ink); line-height: 2.3; white-space: pre-wrap; }
.t { padding: .2em 0; border-radius: 3px; }
.t:hover, .t:focus { outline: 2px solid var(--focus); }
.t:hover::after, .t:focus::after { content: attr(data-tip); position: fixed; left: 1rem; bottom: 1rem; z-index: 1;
  max-width: calc(100vw - 2rem); max-height: 60vh; overflow: hidden; padding: .5rem .7rem; white-space: pre-wrap;
  background: var(--card); color: var(--ink); border: 1px solid var(--line); border-radius: 6px;
  font: .8rem/1.4 ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: pre; }
tbody th { text-align: left; font-weight: 400; }
"""


def levels(values: Sequence[float], count: int = LEVELS) -> list[int]:
    """Each value's place between the smallest and the largest, 0 to count - 1; the middle where all are equal."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        return [count // 2] * len(values)
    return [round((value - low) / (high - low) * (count - 1)) for value in values]


def page(reading: TokenReading, *, title: str) -> str:
    """The reading as an HTML document: the text in colour, each token's layers on pointing at it, all numbers below."""
    shades = [0.75 * level / (LEVELS - 1) for level in range(LEVELS)]
    style = _STYLE + "".join(f".h{i} {{ background: rgb(var(--heat) / {a:.3f}); }}\n" for i, a in enumerate(shades))
    style += f":root {{ color-scheme: light dark; {style_variables('light')} }}\n"
    style += f"@media (prefers-color-scheme: dark) {{ :root {{ {style_variables('dark')} }} }}\n"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"Information flux \u2013 {clip(visible(title), 80)}"),
        Markup(f"<style>{style}</style>"),
    )
    body = el(
        "body",
        el("h1", "Information flux, ", el("bdi", clip(visible(title), 200))),
        el(
            "p",
            f"Entropy of each token's key coefficients, mean of {len(reading.layer_numbers)} layers, in nats: from ",
            el("span", f"{min(reading.flux):.3f}", class_="h0"),
            " to ",
            el("span", f"{max(reading.flux):.3f}", class_=f"h{LEVELS - 1}"),
            ".",
        ),
        _colours(reading),
        el("details", el("summary", "The numbers as a table"), _table(reading)),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _colours(reading: TokenReading) -> Markup:
    shades = levels(reading.flux)
    made = []
    for t, token in enumerate(reading.tokens):
        tip = [f"flux {reading.flux[t]:.3f}"]
        if reading.surprisal is not None and reading.surprisal[t] is not None:
            tip.append(f"surprisal {reading.surprisal[t]:.3f}")
        tip += [f"layer {n}: {value:.3f}" for n, value in zip(reading.layer_numbers, reading.layers[t], strict=True)]
        shown = el("bdi", clip(visible(token), _SHOWN))
        made.append(el("span", shown, class_=f"t h{shades[t]}", tabindex="0", data_tip="\n".join(tip)))
    return el("p", made, class_="text")


def _table(reading: TokenReading) -> Markup:
    told = reading.surprisal is not None
    head = ["token", "flux", *(["surprisal"] if told else []), *(f"layer {n}" for n in reading.layer_numbers)]
    rows = []
    for t, token in enumerate(reading.tokens):
        value = None if reading.surprisal is None else reading.surprisal[t]
        numbers = [reading.flux[t], *([value] if told else []), *reading.layers[t]]
        cells = [el("td", "" if number is None else f"{number:.3f}") for number in numbers]
        rows.append(el("tr", el("th", el("bdi", clip(visible(token), _SHOWN)), scope="row"), cells))
    header = el("tr", [el("th", name, scope="col") for name in head])
    table = el("table", el("caption", "All in nats."), el("thead", header), el("tbody", rows))
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label="Numbers by token")
