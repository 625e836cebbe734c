"""Token heatmaps: the information flux of every token, base, plain and steered side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infosteer.inspection.data import Text, TokenReading
from infosteer.inspection.report.markup import clip, el, join, visible
from infosteer.inspection.report.section import Context, Models, Section, models_of, not_inspected

ID, TITLE = "tokens", "Information flux by token"
BUDGET = 1_300_000  # characters of data; texts beyond it are left out and counted
MOST_TOKENS = 400  # of a text
_SHORT, _LONG = 48, 12_000  # characters of a token in the heatmap and beside it
_NUMBER = 7  # characters that a number takes
_LONG_TOKENS = 500_000  # characters of a text's long tokens, in all its readings


def make_tokens(context: Context) -> Section:
    """The section, from inspection/tokens.json."""
    tokens = context.run.tokens
    if tokens is None or not any(text.readings for text in tokens.texts):
        return not_inspected(context, ID, TITLE, "no texts were read by its models")
    models = models_of(context, ((r.model, r.seed, r.hook) for text in tokens.texts for r in text.readings))
    texts: list[dict[str, Any]] = []
    size, cut, most = 0, 0, MOST_TOKENS
    for text in tokens.texts:
        most = _room(text)
        made = _text(text, models, most)
        size += len(json.dumps(made))
        if texts and size > BUDGET:
            break
        cut += any(len(reading.tokens) > most for reading in text.readings)
        texts.append(made)
    notes = []
    if len(texts) < len(tokens.texts):
        notes.append(
            f"{len(tokens.texts) - len(texts)} of {len(tokens.texts)} texts are left out to keep the page small."
        )
    if cut:
        notes.append(
            f"{cut} texts are cut, after {MOST_TOKENS} tokens or earlier where there are many models and layers."
        )
    body = join(
        el(
            "p",
            "Each token's information flux is the entropy of its key coefficients, averaged over layers: how many "
            "memories it draws on. Point at a token, or move with the arrow keys, to see its layers in every model.",
        ),
        el("p", tokens.note, class_="note") if tokens.note else None,
        el(
            "div",
            el(
                "label",
                "Text ",
                el("select", [_option(i, text["name"]) for i, text in enumerate(texts)], id="token-text"),
            ),
            el(
                "fieldset",
                el("legend", "Colour"),
                _radio("flux", "flux", checked=True),
                _radio("change", f"change from {models.listed[0]['label']}") if len(models.listed) > 1 else None,
            ),
            id="token-controls",
            class_="controls",
        ),
        el("div", id="token-readings", class_="readings"),
        el("div", id="token-detail", class_="detail", aria_live="polite"),
        el("noscript", el("p", "Token heatmaps need JavaScript.", class_="absent")),
        [el("p", note, class_="note") for note in notes],
    )
    return Section(id=ID, title=TITLE, body=body, data={"token-data": {"models": models.listed, "texts": texts}})


def _room(text: Text) -> int:
    numbers = sum(len(reading.layer_numbers) + 4 for reading in text.readings)
    return max(8, min(MOST_TOKENS, BUDGET // (_NUMBER * max(1, numbers))))


def _text(text: Text, models: Models, most: int) -> dict[str, Any]:
    order, room = models.order, _LONG_TOKENS // max(1, len(text.readings))
    readings = [_reading(r, order[(r.model, r.seed, r.hook)], most, room) for r in text.readings]
    return {"name": clip(visible(text.name), 80), "readings": sorted(readings, key=lambda made: made["model"])}


def _reading(reading: TokenReading, model: int, most: int, room: int) -> Mapping[str, Any]:
    kept = slice(most)
    shown = [visible(token) for token in reading.tokens[kept]]
    long = {str(i): clip(token, _LONG) for i, token in enumerate(shown) if len(token) > _SHORT}
    while len(json.dumps(long)) > room:
        long.popitem()
    made: dict[str, Any] = {
        "model": model,
        "layers": list(reading.layer_numbers),
        "widths": list(reading.widths),
        "tokens": [clip(token, _SHORT) for token in shown],
        "long": long,
        "flux": [round(value, 3) for value in reading.flux[kept]],
        "normalised": [round(value, 3) for value in reading.normalised()[kept]],
        "byLayer": [[round(value, 3) for value in row] for row in reading.layers[kept]],
    }
    if reading.surprisal is not None:
        made["surprisal"] = [None if value is None else round(value, 3) for value in reading.surprisal[kept]]
    return made


def _option(value: int, text: str) -> object:
    return el("option", text, value=value)


def _radio(value: str, text: str, *, checked: bool = False) -> object:
    return el("label", el("input", type="radio", name="token-colour", value=value, checked=checked), " ", text)
