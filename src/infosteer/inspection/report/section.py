"""A part of the report: a heading, its content, the charts in it, and the data that the page's script needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infosteer.inspection.report.charts import Chart
from infosteer.inspection.report.gather import Run
from infosteer.inspection.report.markup import Markup, el
from infosteer.inspection.report.palette import Look


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section. ``absent`` replaces the content by one line that says how to get it."""

    id: str
    title: str
    body: Markup
    charts: list[Chart] = field(default_factory=list)
    data: Mapping[str, Any] = field(default_factory=dict)  # id of the script element -> plain data


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What every section is made from."""

    run: Run
    looks: Mapping[str, Look]

    def look(self, arm: str) -> Look:
        """The look of an arm; readings may name models that the recipe does not have."""
        return self.looks.get(arm) or self.looks["base"]


def absent(identity: str, title: str, *words: object) -> Section:
    """A section whose data the run lacks: one line that says what to switch on."""
    return Section(id=identity, title=title, body=el("p", *words, class_="absent"))


def chip(arm: str, look: Look, text: object | None = None) -> Markup:
    """An arm's name beside a swatch of its colour."""
    swatch = el("span", class_=f"swatch {look.hue.variable}", aria_hidden="true")
    return el("span", swatch, el("bdi", arm if text is None else text), class_="chip")


def model_name(model: str, seed: int | None, hook: bool = False) -> str:
    """A reading's model in words."""
    parts = [model if seed is None else f"{model}, seed {seed}"]
    return " ".join([*parts, "(hook on)"] if hook else parts)
