"""The entropy of key coefficients by layer and step, and how far it moved since the first logged step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from infosteer.inspection.report.charts import Chart, show
from infosteer.inspection.report.drawings import LayerMap, layer_maps, mean_of_seeds
from infosteer.inspection.report.gather import Curves, curves, training_lines
from infosteer.inspection.report.markup import clip, el, join, table, visible
from infosteer.inspection.report.multiples import thinned
from infosteer.inspection.report.section import Context, Section, absent, chip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "entropy", "Entropy by layer"
_KEY = re.compile(r"infosteer/entropy/layer_(\d+)")
_COLUMNS = 80  # steps drawn
_PANELS, _CELLS = 12, 3000  # arms drawn, cells of the table


def make_entropy(context: Context) -> Section:
    """The section, from ``infosteer/entropy/layer_i`` in metrics.jsonl."""
    log = context.run.log
    keys = {key: int(match[1]) for line in log for key in line if (match := _KEY.fullmatch(key))}
    lines = training_lines(log)
    by_layer = {layer: curves(lines, key) for key, layer in sorted(keys.items(), key=lambda item: item[1])}
    arms = [arm for arm in context.run.arms if any(arm in by_arm for by_arm in by_layer.values())]
    maps = {arm: found for arm in arms if (found := _map(by_layer, arm)) is not None}
    if not maps:
        return absent(
            ID, TITLE, "No entropy was logged: runs log ", el("code", "infosteer/entropy/layer_i"),
            " for every arm whose session measures key coefficients; see ", el("code", "docs/report.md"), ".",
        )  # fmt: skip
    names = {arm: clip(visible(arm), 24) for arm in list(maps)[:_PANELS]}
    change = {arm: _change(maps[arm]) for arm in names}

    def draw(width: float) -> Figure:
        return layer_maps({name: maps[arm] for arm, name in names.items()}, width=width, unit="nats", diverging=False)

    def draw_change(width: float) -> Figure:
        return layer_maps({name: change[arm] for arm, name in names.items()}, width=width, unit="nats", diverging=True)

    listed = ", ".join(names.values())
    charts = [
        Chart(
            name="entropy",
            label=f"Key entropy by layer and step for {listed}; numbers in the table",
            draw=draw,
            panels=[_told(name, maps[arm]) for arm, name in names.items()],
        ),
        Chart(
            name="entropy-change",
            label=f"Change of key entropy since the first logged step, by layer and step, for {listed}",
            draw=draw_change,
            panels=[_told(name, change[arm]) for arm, name in names.items()],
        ),
    ]
    layers = list(dict.fromkeys(layer for found in maps.values() for layer in found.layers))
    rows: list[list[object]] = [
        [chip(arm, context.look(arm)), *(_ends(found, layer) for layer in layers)]
        for arm, found in list(maps.items())[: _CELLS // len(layers)]
    ]
    captions = (
        "How widely a token's work is spread over a layer's memories, in nats: many memories with equal shares are "
        "bright, few that dominate are dark. Mean over the tokens that carry loss and over seeds.",
        "The same as the difference from the first logged step of each arm: orange spreads, violet narrows.",
    )
    numbers = table(
        ["arm", *(f"layer {layer}" for layer in layers)], rows, caption="Entropy at the first and the last logged step"
    )
    body = join(
        [show(chart, caption) for chart, caption in zip(charts, captions, strict=True)],
        el("details", el("summary", "First and last values as a table"), numbers),
    )
    return Section(id=ID, title=TITLE, body=body, charts=charts)


def _told(title: str, found: LayerMap) -> dict[str, Any]:
    values = [[round(value, 4) for value in row] for row in found.values]
    return {"title": title, "layers": list(found.layers), "steps": list(found.steps), "values": values}


def _map(by_layer: dict[int, Curves], arm: str) -> LayerMap | None:
    rows = {layer: dict(mean_of_seeds(by_arm[arm])) for layer, by_arm in by_layer.items() if arm in by_arm}
    shared = sorted(set.intersection(*map(set, rows.values()))) if rows else []
    steps = [step for step, _ in thinned([(step, 0.0) for step in shared], _COLUMNS)]
    if not steps:
        return None
    return LayerMap(layers=list(rows), steps=steps, values=[[row[step] for step in steps] for row in rows.values()])


def _change(found: LayerMap) -> LayerMap:
    values = [[value - row[0] for value in row] for row in found.values]
    return LayerMap(layers=found.layers, steps=found.steps, values=values)


def _ends(found: LayerMap, layer: int) -> str:
    if layer not in found.layers:
        return "\u2013"
    row = found.values[list(found.layers).index(layer)]
    return f"{row[0]:.3f} \u2192 {row[-1]:.3f}"
