"""Charts: the drawing in the page and in the file are one, follow the page's colours, and take any name."""

from __future__ import annotations

import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up import HOSTILE, make_run
from pages import parse

from infosteer.inspection.report import write_report
from infosteer.inspection.report.charts import Chart, save, show
from infosteer.inspection.report.drawings import (
    Effect,
    LayerMap,
    bars,
    curves,
    forest,
    layer_maps,
    mean_of_seeds,
)
from infosteer.inspection.report.markup import clip, visible
from infosteer.inspection.report.multiples import thinned
from infosteer.inspection.report.palette import HUES, INK, looks
from infosteer.inspection.report.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "{http://www.w3.org/2000/svg}"


def chart(draw: Callable[[float], Figure], name: str = "test") -> Chart:
    return Chart(name=name, label="what it shows", draw=draw)


def effects(names: list[str]) -> list[Effect]:
    look = looks(["plain", "lift"], "plain")["lift"]
    return [
        Effect(group=f"set {i % 2}", name=name, look=look, value=i, low=i - 1.0, high=i + 1.0, text=f"{i} points")
        for i, name in enumerate(names)
    ]


def draw_forest(names: list[str]) -> Callable[[float], Figure]:
    return lambda width: forest(effects(names), width=width, axis="points", less="worse", more="better")


def test_a_plot_of_many_effects_keeps_the_largest() -> None:
    from infosteer.inspection.report.sections.results import _drawn

    rows = [{"difference": (-1) ** i * i} for i in range(100)]
    assert _drawn(rows[:72]) == rows[:72]
    assert _drawn(rows) == rows[28:]


def test_figures_are_written_as_png_and_svg(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=5)
    write_report(run, figures=tmp_path / "figures")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    stems = {"forest-exact_match", "forest-answer_nll", "training", "entropy", "entropy-change", "regions", "geometry"}
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    for stem in stems:
        raw = (tmp_path / "figures" / f"{stem}.png").read_bytes()
        assert raw.startswith(b"\x89PNG")
        assert struct.unpack(">I", raw[16:20])[0] == round(7.4 * 300), "made for print"
        root = ElementTree.parse(tmp_path / "figures" / f"{stem}.svg").getroot()
        assert root.tag == f"{SVG}svg"
        assert not root.findall(f".//{SVG}text"), "letters are outlines: they look the same everywhere"
    page = parse((run / "report.html").read_text())
    shown = {figure.attributes["id"] for figure in page.all("figure")}
    assert shown == {f"figure-{stem}" for stem in stems}, "the same figures"


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    one = chart(draw_forest(["lift"]))
    first = [path.read_bytes() for path in save([one], tmp_path / "a")]
    assert [path.read_bytes() for path in save([one], tmp_path / "b")] == first
    assert show(one, "x") == show(one, "x")


def test_drawings_pass_the_policy_and_follow_the_page() -> None:
    page = parse(show(chart(draw_forest(["lift"])), "caption"))
    for drawing in page.all("svg"):
        nodes = list(drawing.walk())
        assert not [node for node in nodes if "style" in node.attributes or node.tag in ("style", "metadata", "script")]
        colors = {node.attributes.get(key) for node in nodes for key in ("fill", "stroke")}
        assert f"var(--{HUES[0].variable})" in colors
        assert not colors & {hue.light for hue in (*HUES, INK)}
        texts = [text.text() for text in drawing.all("text")]
        assert "lift" in texts
        assert all(float(text.attributes["font-size"] or 0) >= 6 for text in drawing.all("text"))
    wide, narrow = page.all("svg")
    assert wide.attributes["class"] == "drawing wide"
    assert narrow.attributes["class"] == "drawing narrow"
    assert "0 points" in [text.text() for text in wide.all("text")]
    ids = [node.attributes["id"] for node in page.walk() if "id" in node.attributes]
    assert len(ids) == len(set(ids))


def test_both_ways_to_write_a_font_are_read() -> None:
    """Versions of the library differ."""
    for style in (
        "font: 700 9px 'A', sans-serif; text-anchor: end",
        "font-size: 9px; font-weight: 700; text-anchor: end",
    ):
        source = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><text style="{style}; x: y">a</text></svg>'
        made = inline_svg(source, prefix="p-", label="<l>", variant="wide")
        assert '<text font-size="9" font-weight="700" text-anchor="end">a</text>' in made
        assert 'aria-label="&lt;l&gt;"' in made


def test_names_of_any_kind_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = [clip(visible(text), 28) for text in HOSTILE]
    page = parse(show(chart(draw_forest(names)), "caption"))
    shown = [text.text() for text in page.all("svg")[0].all("text")]
    squeeze = re.compile(r"\s+")
    for name in names:
        if name.strip():
            assert squeeze.sub(" ", name) in [squeeze.sub(" ", text) for text in shown], name
    assert len(save([chart(draw_forest(names))], tmp_path)) == 2


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("width", [3.5, 7.4])
@pytest.mark.parametrize("count", [1, 2, 14])
def test_any_number_of_arms_fits(count: int, width: float) -> None:
    arms = [f"arm number {i}" for i in range(count)]
    found = looks(arms, arms[0])
    points = [(float(step), 1.0 / step) for step in range(1, 9)]
    drawn = [
        forest(effects(arms), width=width, axis="x", less="", more=""),
        curves({"a": {arm: {1: points, 2: points[:3]} for arm in arms}}, found, width=width),
        layer_maps(
            {arm: LayerMap(layers=range(40), steps=[1.0], values=[[0.0]] * 40) for arm in arms},
            width=width, unit="nats", diverging=count == 2,
        ),
        bars(["low", "high"], {arm: [1.0, 2.0] for arm in arms}, found, width=width, hatched=arms[:1], unit="%"),
    ]  # fmt: skip
    for figure in drawn:
        figure.draw_without_rendering()
        inside = figure.get_tightbbox()
        assert inside.width <= width + 0.35, "nothing sticks out"
        assert all(axes.get_position().width > 0.05 for axes in figure.axes[:1])


def test_means_over_seeds() -> None:
    assert mean_of_seeds({}) == []
    assert mean_of_seeds({1: [(0, 1.0), (5, 2.0)]}) == [(0, 1.0), (5, 2.0)]
    assert mean_of_seeds({1: [(0, 1.0), (5, 2.0)], 2: [(5, 4.0), (9, 9.0)]}) == [(5, 3.0)]


def test_thinning_keeps_both_ends() -> None:
    points = [(float(i), float(i)) for i in range(1000)]
    assert thinned(points[:5], 5) == points[:5]
    fewer = thinned(points, 7)
    assert len(fewer) == 7
    assert (fewer[0], fewer[-1]) == (points[0], points[-1])
    assert fewer == sorted(set(fewer))
