"""Small multiples over training steps: one panel a measure, with the table of where each curve began and ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infosteer.inspection.report.charts import Chart
from infosteer.inspection.report.drawings import curves as draw_curves
from infosteer.inspection.report.drawings import mean_of_seeds
from infosteer.inspection.report.gather import Curves
from infosteer.inspection.report.markup import Markup, bdi, clip, table, visible
from infosteer.inspection.report.palette import Look
from infosteer.inspection.report.section import Context, chip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 240  # of a curve; a log with more is thinned evenly
MOST_PANELS, MOST_LINES = 12, 14  # drawn
MOST_COLUMNS, MOST_CELLS = 60, 3000  # of the table
_TITLE, _NAME = 30, 28  # characters


def multiples(context: Context, *, name: str, what: str, found: Mapping[str, Curves]) -> tuple[Chart, Markup]:
    """The chart and the table of some measures.

    Args:
        context: for the looks of arms; models that the recipe does not have look like the base.
        name: of the chart's files.
        what: what it shows, in words.
        found: title -> arm -> seed -> points.
    """
    models = [arm for arm in context.looks if any(arm in by_arm for by_arm in found.values())]
    models += [arm for by_arm in found.values() for arm in by_arm if arm not in models]
    models = list(dict.fromkeys(models))
    drawn = set(models[:MOST_LINES])
    names = {model: clip(visible(model), _NAME) for model in models}
    looks = {names[model]: context.look(model) for model in models[:MOST_LINES]}
    panels = {
        clip(visible(title), _TITLE): {
            names[arm]: {seed: thinned(points) for seed, points in by_seed.items()}
            for arm, by_seed in sorted(by_arm.items(), key=lambda item: models.index(item[0]))
            if arm in drawn
        }
        for title, by_arm in list(_telling(found).items())[:MOST_PANELS]
    }

    def draw(width: float) -> Figure:
        return draw_curves(panels, looks, width=width)

    columns = dict(list(found.items())[:MOST_COLUMNS])
    rows: list[list[object]] = [
        [chip(model, context.look(model)), *(_ends(by_arm.get(model, {})) for by_arm in columns.values())]
        for model in models[: MOST_CELLS // len(columns)]
    ]
    caption = "First and last values, mean over seeds"
    if len(rows) < len(models) or len(columns) < len(found):
        caption += f"; {len(rows)} of {len(models)} arms and {len(columns)} of {len(found)} measures"
    numbers = table(["arm", *map(bdi, columns)], rows, caption=caption)
    label = f"{what}, one panel each: {', '.join(panels)}"
    return Chart(name=name, label=label, draw=draw, panels=[_told(t, p, looks) for t, p in panels.items()]), numbers


def _telling(found: Mapping[str, Curves]) -> Mapping[str, Curves]:
    """Without measures that are one number at all steps of all arms, which a panel would not show better."""
    values = {
        title: {value for by_seed in by_arm.values() for points in by_seed.values() for _, value in points}
        for title, by_arm in found.items()
    }
    return {title: by_arm for title, by_arm in found.items() if len(values[title]) > 1} or found


def _told(title: str, by_arm: Curves, looks: Mapping[str, Look]) -> dict[str, Any]:
    lines = [
        {
            "name": arm,
            "hue": looks[arm].hue.variable,
            "points": [[x, float(f"{y:.5g}")] for x, y in mean_of_seeds(by_seed)],
        }
        for arm, by_seed in by_arm.items()
    ]
    return {"title": title, "lines": lines}


def thinned(points: list[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points, evenly chosen, both ends among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _ends(by_seed: Mapping[int, list[tuple[float, float]]]) -> str:
    points = mean_of_seeds(by_seed)
    if not points:
        return "\u2013"
    first, last = f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}"
    return first if first == last else f"{first} \u2192 {last}"
