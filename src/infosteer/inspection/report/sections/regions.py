"""Key-region shift: how the models' key coefficients are spread over the regions of the base model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infosteer.inspection.data import Regions
from infosteer.inspection.report.charts import Chart, show
from infosteer.inspection.report.drawings import bars
from infosteer.inspection.report.gather import curves, training_lines
from infosteer.inspection.report.markup import Markup, clip, el, join, table, visible
from infosteer.inspection.report.multiples import multiples
from infosteer.inspection.report.section import Context, Section, chip, model_name, not_inspected

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "regions", "Shift between key regions"
REGIONS_LOG = "infosteer/region_shift/"
_LOGGED = {"low": "below the low percentile", "middle": "between", "high": "above the high percentile"}
_MOST, _LISTED = 12, 60  # readings drawn, and in the tables


def make_regions(context: Context) -> Section:
    """The section, from inspection/regions.json and from what the probe logged during training."""
    logged = _during_training(context)
    regions = context.run.regions
    if regions is not None and regions.readings:
        return _measured(context, regions, logged)
    if logged is not None:
        return Section(id=ID, title=TITLE, body=logged[1], charts=[logged[0]])
    return not_inspected(context, ID, TITLE, "key regions were not measured", "probes/region_shift")


def _during_training(context: Context) -> tuple[Chart, Markup] | None:
    lines = training_lines(context.run.log)
    found = {title: by_arm for key, title in _LOGGED.items() if (by_arm := curves(lines, REGIONS_LOG + key))}
    if not found:
        return None
    what = "Shares of key coefficients by region over training steps"
    chart, numbers = multiples(context, name="regions-training", what=what, found=found)
    caption = (
        "Shares during training, as the forwards ran, with the intervention of arms that have one; averaged over "
        "layers."
    )
    return chart, join(show(chart, caption), el("details", el("summary", "The numbers as a table"), numbers))


def _measured(context: Context, regions: Regions, logged: tuple[Chart, Markup] | None) -> Section:
    labels = regions.labels()
    named = {model_name(r.model, r.seed, r.hook): r for r in regions.readings[:_LISTED]}
    drawn = {clip(visible(name), 40): reading for name, reading in list(named.items())[:_MOST]}
    series = {name: [100 * share for share in reading.means()] for name, reading in drawn.items()}
    looks = {name: context.look(reading.model) for name, reading in drawn.items()}
    hatched = [name for name, reading in drawn.items() if reading.hook]

    def draw(width: float) -> Figure:
        return bars(labels, series, looks, width=width, hatched=hatched, unit="coefficients, %")

    told = "; ".join(
        f"{name}: " + ", ".join(f"{share:.1f} % in {label}" for label, share in zip(labels, shares, strict=True))
        for name, shares in series.items()
    )
    chart = Chart(name="regions", label=f"Shares of key coefficients by region. {told}", draw=draw)
    caption = (
        "Share of key coefficients in each region, averaged over layers. The regions lie between percentiles of the "
        "base model's own coefficients, fixed for each layer; hatched bars were measured with the intervention active."
    )
    body: list[list[object]] = [
        [
            chip(reading.model, context.look(reading.model), name),
            str(len(reading.layer_numbers)),
            *(f"{100 * share:.2f}" for share in reading.means()),
        ]
        for name, reading in named.items()
    ]
    numbers = table(["model", "layers", *labels], body, caption="Shares of coefficients by region, %")
    layers = [_layers(name, reading.layer_numbers, reading.shares, labels) for name, reading in named.items()]
    return Section(
        id=ID,
        title=TITLE,
        body=join(
            show(chart, caption),
            el("p", regions.note, class_="note") if regions.note else None,
            el("details", el("summary", "The numbers as a table"), numbers),
            el("details", el("summary", "By layer"), layers),
            logged[1] if logged else None,
        ),
        charts=[chart, *([logged[0]] if logged else [])],
    )


def _layers(name: str, layers: tuple[int, ...], shares: tuple[tuple[float, ...], ...], labels: list[str]) -> object:
    rows: list[list[object]] = [
        [str(layer), *(f"{100 * share:.2f}" for share in row)] for layer, row in zip(layers, shares, strict=True)
    ]
    return table(["layer", *labels], rows, caption=f"{clip(visible(name), 60)}: shares by layer, %")
