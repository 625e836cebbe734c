"""Representation geometry over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infosteer.inspection.report.charts import Chart, show
from infosteer.inspection.report.drawings import curves, mean_of_seeds
from infosteer.inspection.report.markup import bdi, clip, el, join, table, visible
from infosteer.inspection.report.section import Context, Section, absent, chip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "geometry", "Geometry of the representations"
_PANELS = 9
Curves = dict[str, dict[int, list[tuple[float, float]]]]


def make_geometry(context: Context) -> Section:
    """The section, from inspection/geometry.json."""
    geometry = context.run.geometry
    if geometry is None or not geometry.points:
        return absent(
            ID, TITLE, "No geometry was measured: a run keeps it in ", el("code", "inspection/geometry.json"), ", see ",
            el("code", "docs/report.md"), ".",
        )  # fmt: skip
    found: dict[str, Curves] = {}
    for point in geometry.points:
        title = point.metric if point.layer is None else f"{point.metric}, layer {point.layer}"
        by_seed = found.setdefault(title, {}).setdefault(point.model, {})
        by_seed.setdefault(point.seed or 0, []).append((point.step, point.value))
    last = max(point.step for point in geometry.points)
    for by_model in found.values():
        for model, by_seed in by_model.items():
            for seed, points in by_seed.items():
                points.sort()
                if model == "base" and len(points) == 1 and last:  # drawn as a line to compare with
                    by_seed[seed] = [points[0], (float(last), points[0][1])]
    panels = {clip(visible(title), 30): by_model for title, by_model in list(found.items())[:_PANELS]}
    looks = {model: context.look(model) for by_model in panels.values() for model in by_model}
    shown = {
        title: {clip(visible(model), 28): by_seed for model, by_seed in by_model.items()}
        for title, by_model in panels.items()
    }
    named = {clip(visible(model), 28): look for model, look in looks.items()}

    def draw(width: float) -> Figure:
        return curves(shown, named, width=width)

    chart = Chart(
        name="geometry", label="Geometry over training steps, one panel each: " + ", ".join(panels), draw=draw
    )
    models = list(dict.fromkeys(model for by_model in found.values() for model in by_model))
    rows: list[list[object]] = [
        [
            chip(model, context.look(model)),
            *(_ends(mean_of_seeds(by_model[model])) if model in by_model else "\u2013" for by_model in found.values()),
        ]
        for model in models
    ]
    numbers = table(["model", *map(bdi, found)], rows, caption="First and last measured values, mean over seeds")
    about = [join(el("dt", bdi(name)), el("dd", bdi(text))) for name, text in geometry.about.items()]
    body = join(
        show(chart, "Means over seeds, thin lines the seeds; the base model, measured once, is the dotted line."),
        el("dl", about, class_="about") if about else None,
        el("p", geometry.note, class_="note") if geometry.note else None,
        el("details", el("summary", "The numbers as a table"), numbers),
    )
    return Section(id=ID, title=TITLE, body=body, charts=[chart])


def _ends(points: list[tuple[float, float]]) -> str:
    if not points:
        return "\u2013"
    first, last = points[0][1], points[-1][1]
    return f"{first:.4g}" if len(points) == 1 or first == last else f"{first:.4g} \u2192 {last:.4g}"
