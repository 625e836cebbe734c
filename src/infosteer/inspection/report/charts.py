"""The drawing of charts by matplotlib, once as SVG inside the page, wide and narrow, and as files for papers.

A chart is a name, words, and a function that draws it at a given width; everything is read from the same function, so
the page and the paper show the same figure. Without matplotlib the page says how to get the charts.
"""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infosteer.errors import RunError
from infosteer.inspection.report.markup import Markup, el, embedded_json
from infosteer.inspection.report.palette import INK, LINE, MUTED, Look
from infosteer.inspection.report.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 7.4, 3.5  # inches; at the page's scale about 720 and 345 CSS pixels
DPI = 300  # of PNG files
READOUT = 300_000  # characters of what a chart says when one points at it; more is left out
INSTALL = "pip install 'infosteer[plots]'"
LEGEND: dict[str, Any] = {"loc": "outside upper left", "handlelength": 2.2, "columnspacing": 1.4}
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlecolor": INK.light,
    "axes.labelcolor": MUTED.light,
    "axes.labelsize": 8,
    "axes.edgecolor": LINE.light,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid.axis": "y",
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "grid.color": LINE.light,
    "grid.linewidth": 0.6,
    "xtick.color": LINE.light,
    "xtick.labelcolor": MUTED.light,
    "xtick.labelsize": 7.5,
    "ytick.color": LINE.light,
    "ytick.labelcolor": MUTED.light,
    "ytick.labelsize": 7.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": INK.light,
    "text.color": INK.light,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.hashsalt": "infosteer",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure. ``panels`` are what the page says when one points at it, in the order of the figure's axes."""

    name: str  # of the files
    label: str  # what it shows, in words
    draw: Callable[[float], Figure]  # gets the width in inches
    panels: Sequence[Mapping[str, Any]] = ()


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def show(chart: Chart, caption: object) -> Markup:
    """The chart as a figure of the page with its caption, or one line that says what to install."""
    if not available():
        return el("p", f"Not drawn: {chart.label}. Charts need matplotlib: ", el("code", INSTALL), class_="absent")
    drawings, places = [], {}
    for variant, width in (("wide", WIDE), ("narrow", NARROW)):
        with _style("none"):
            figure = chart.draw(width)
            source = _save(figure, "svg").decode()
        places[variant] = _places(figure, len(chart.panels))
        prefix = f"{chart.name}-{variant}-"
        drawings.append(inline_svg(source, prefix=prefix, label=chart.label, variant=variant))
    readout = {"panels": list(chart.panels), "places": places}
    parts: list[object] = [el("figcaption", caption)]
    pointed = bool(chart.panels) and len(json.dumps(readout)) <= READOUT
    if pointed:
        parts.append(embedded_json(f"readout-{chart.name}", readout))
    named = f"readout-{chart.name}" if pointed else None
    return el("figure", drawings, parts, id=f"figure-{chart.name}", data_readout=named)


def _places(figure: Figure, count: int) -> list[list[float]]:
    """Where the first axes lie: left, bottom, width and height as shares of the figure, and the ends of x and y."""
    found = []
    for axes in figure.axes[:count]:
        numbers = [*axes.get_position().bounds, *axes.get_xlim(), *axes.get_ylim()]
        found.append([float(f"{number:.6g}") for number in numbers])
    return found


def save(charts: list[Chart], folder: Path) -> list[Path]:
    """Write every chart as PNG and SVG, letters as outlines, on white.

    Raises: RunError without matplotlib, or when the folder cannot be written.
    """
    if not available():
        raise RunError("Figures need matplotlib.", fix=INSTALL)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            for kind in ("png", "svg"):
                with _style("path"):
                    content = _save(chart.draw(WIDE), kind, facecolor="white")
                written.append(folder / f"{chart.name}.{kind}")
                written[-1].write_bytes(content)
    except OSError as error:
        raise RunError("The figures cannot be written.", where=folder, got=error) from None
    return written


@contextmanager
def _style(fonttype: str) -> Iterator[None]:
    import matplotlib

    style: dict[Any, Any] = {**_STYLE, "svg.fonttype": fonttype}
    with matplotlib.rc_context(rc=style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # names in other scripts: browsers have the letters
        yield


def _save(figure: Figure, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    if kind == "svg":
        settings["metadata"] = {"Date": None, "Creator": "InfoSteer"}
    figure.savefig(stream, format=kind, dpi=DPI, **settings)
    return stream.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose axes make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend(figure: Figure, looks: dict[str, Look], *, width: float) -> None:
    """One legend above all panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=look.hue.light,
            linewidth=1.6,
            linestyle=line_style(look),
            marker=look.mark,
            markersize=4,
            label=name,
        )
        for name, look in looks.items()
    ]
    figure.legend(handles=handles, ncols=legend_columns(looks, width), **LEGEND)


def legend_columns(names: Collection[str], width: float) -> int:
    """How many names stand side by side."""
    longest = max(map(len, names), default=1)
    return max(1, min(len(names), int(width * 11.5 / (longest + 7))))


def legend_height(names: Collection[str], width: float) -> float:
    """Inches that the legend takes from the figure."""
    return 0.2 + 0.165 * -(-len(names) // legend_columns(names, width))


def line_style(look: Look) -> Any:
    """The look's dashes as the library wants them."""
    return (0, look.dash) if look.dash else "-"


def recede(axes: Axes) -> None:
    """Grid behind, ticks without strokes."""
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
