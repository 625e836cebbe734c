"""The drawings behind the charts: forest plots, curves, layer maps and bars, each a function of the width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infosteer.inspection.report.charts import (
    LEGEND,
    legend,
    legend_columns,
    legend_height,
    line_style,
    new_figure,
    recede,
)
from infosteer.inspection.report.palette import INK, LINE, MUTED, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PHONE = 5.0  # inches: narrower drawings leave out what does not fit
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """One line of a forest plot, in the unit shown."""

    group: str
    name: str
    look: Look
    value: float
    low: float
    high: float
    text: str


def forest(effects: Sequence[Effect], *, width: float, axis: str, less: str, more: str) -> Figure:
    """Differences with their intervals around a line at zero, grouped by set."""
    groups = list(dict.fromkeys(effect.group for effect in effects))
    slots = len(effects) + 0.9 * len(groups)
    figure = new_figure(width, 0.62 + 0.205 * slots)
    axes = figure.add_subplot()
    places, y = [], 0.0
    for group in groups:
        axes.annotate(
            group, (0, y), xycoords=("axes fraction", "data"), xytext=(2, 0), textcoords="offset points", va="center",
            fontsize=8, fontweight="bold",
        )  # fmt: skip
        for effect in (effect for effect in effects if effect.group == group):
            y += 1
            places.append((effect, y))
        y += 1.4
    axes.axvline(0, color=MUTED.light, linewidth=0.9)
    for effect, place in places:
        color = effect.look.hue.light
        axes.plot([effect.low, effect.high], [place, place], color=color, linewidth=1.8, solid_capstyle="round")
        axes.plot([effect.value], [place], marker=effect.look.mark, color=color, markersize=5.2, linestyle="none")
        if width > _PHONE:
            axes.annotate(
                effect.text, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                va="center", fontsize=7.5, color=MUTED.light,
            )  # fmt: skip
    recede(axes)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.set_yticks([place for _, place in places], [effect.name for effect, _ in places])
    axes.tick_params(axis="y", labelcolor=INK.light)
    axes.set_ylim(y - 0.7, -0.7)
    reach = max((max(abs(effect.low), abs(effect.high)) for effect in effects), default=1.0) or 1.0
    axes.set_xlim(-1.08 * reach, 1.08 * reach)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"\u2190 {less}\u2003\u2003{axis}\u2003\u2003{more} \u2192" if less and width > _PHONE else axis)
    return figure


def curves(
    panels: Mapping[str, Mapping[str, Mapping[int, Points]]],
    looks: Mapping[str, Look],
    *,
    width: float,
    x: str = "step",
) -> Figure:
    """Small multiples: one panel a measure, thin lines for seeds, a thick one for their mean."""
    columns = 1 if width < _PHONE else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    figure = new_figure(width, legend_height(arms, width) + 1.75 * rows)
    for place, (title, by_arm) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        for arm in arms:
            _lines(axes, by_arm.get(arm, {}), looks[arm])
        axes.set_title(title)
        recede(axes)
        if place >= len(panels) - columns:
            axes.set_xlabel(x)
    legend(figure, {arm: looks[arm] for arm in arms}, width=width)
    return figure


def _lines(axes: Axes, by_seed: Mapping[int, Points], look: Look) -> None:
    style: dict[str, Any] = {"color": look.hue.light, "linestyle": line_style(look)}
    if len(by_seed) > 1:
        for points in by_seed.values():
            axes.plot(*zip(*points, strict=True), linewidth=0.7, alpha=0.35, **style)
    points = mean_of_seeds(by_seed)
    if len(points) == 1:
        axes.plot(*zip(*points, strict=True), marker=look.mark, markersize=5, **style)
    elif points:
        every = max(1, len(points) // 6)
        axes.plot(
            *zip(*points, strict=True), linewidth=1.6, marker=look.mark, markersize=3.2, markevery=every, **style
        )  # fmt: skip


def mean_of_seeds(by_seed: Mapping[int, Points]) -> list[tuple[float, float]]:
    """The mean over seeds at the steps that all seeds have; one seed's points as they are."""
    if len(by_seed) == 1:
        return list(next(iter(by_seed.values())))
    found = [dict(points) for points in by_seed.values()]
    shared = sorted(set.intersection(*map(set, found))) if found else []
    return [(step, sum(points[step] for points in found) / len(found)) for step in shared]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMap:
    """Values by layer and step: ``values[l][s]``, with the layers' numbers and the steps."""

    layers: Sequence[int]
    steps: Sequence[float]
    values: Sequence[Sequence[float]]


def layer_maps(maps: Mapping[str, LayerMap], *, width: float, unit: str, diverging: bool) -> Figure:
    """Heatmaps of layers by steps, one an arm, with one scale for all."""
    columns = min(len(maps), 2 if width < _PHONE else 4)
    rows = math.ceil(len(maps) / columns)
    tallest = max(len(found.layers) for found in maps.values())
    figure = new_figure(width, 0.45 + rows * (0.55 + min(2.4, max(0.9, 0.16 * tallest))))
    numbers = [value for found in maps.values() for row in found.values for value in row]
    reach = max(map(abs, numbers), default=0.0) or 1.0
    low, high = (-reach, reach) if diverging else (min(numbers), max(numbers))
    made = []
    for place, (title, found) in enumerate(maps.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        made.append(axes)
        image = axes.imshow(
            found.values, aspect="auto", interpolation="nearest", origin="lower", vmin=low, vmax=high,
            cmap=_around_zero() if diverging else "cividis",
            extent=(-0.5, len(found.steps) - 0.5, -0.5, len(found.layers) - 0.5),
        )  # fmt: skip
        axes.set_title(title)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        _label_places(axes, found, first=place % columns == 0, last=place >= len(maps) - columns)
    bar = figure.colorbar(image, ax=made, fraction=0.03 if width > _PHONE else 0.05, pad=0.015, aspect=24)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0)
    bar.set_label(unit)
    return figure


def _around_zero() -> Any:
    """Violet below zero, orange above, and clear at zero, so that it stands on light and on dark ground."""
    from matplotlib.colors import LinearSegmentedColormap

    low, high = (112 / 255, 96 / 255, 220 / 255), (226 / 255, 128 / 255, 20 / 255)
    stops = [(*low, 1.0), (*low, 0.0), (*high, 0.0), (*high, 1.0)]
    places = [0.0, 0.5, 0.5, 1.0]
    return LinearSegmentedColormap.from_list("around_zero", list(zip(places, stops, strict=True)))


def _label_places(axes: Axes, found: LayerMap, *, first: bool, last: bool) -> None:
    count = len(found.layers)
    shown = range(count) if count <= 8 else range(0, count, math.ceil(count / 8))
    axes.set_yticks(list(shown), [str(found.layers[i]) for i in shown])
    ends = sorted({0, len(found.steps) - 1})
    axes.set_xticks(ends, [f"{found.steps[i]:g}" for i in ends])
    if first:
        axes.set_ylabel("layer")
    if last:
        axes.set_xlabel("step")


def bars(groups: Sequence[str], series: Mapping[str, Sequence[float]], looks: Mapping[str, Look], *, width: float,
         hatched: Sequence[str], unit: str) -> Figure:  # fmt: skip
    """Bars side by side: one cluster a group, one bar a model; hatched ones were measured with the hook on."""
    figure = new_figure(width, 2.3 + legend_height(series, width))
    axes = figure.add_subplot()
    step = 0.84 / max(1, len(series))
    for i, (name, values) in enumerate(series.items()):
        places = [g - 0.42 + step * (i + 0.5) for g in range(len(groups))]
        color, filled = looks[name].hue.light, name not in hatched
        axes.bar(
            places, values, width=step * 0.86, label=name, edgecolor=color, linewidth=0.9,
            facecolor=color if filled else "none", hatch=None if filled else "////",
        )  # fmt: skip
        if width > _PHONE and len(series) <= 6:
            for place, value in zip(places, values, strict=True):
                axes.annotate(
                    f"{value:.1f}", (place, value), ha="center", va="bottom", fontsize=6.5, color=MUTED.light
                )  # fmt: skip
    recede(axes)
    axes.axhline(0, color=LINE.light, linewidth=0.8)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylabel(unit)
    figure.legend(ncols=legend_columns(series, width), **{**LEGEND, "handlelength": 1.2})
    return figure
