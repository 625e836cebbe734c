"""A part of the report: a heading, its content, the charts in it, and the data that the page's script needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infosteer.inspection.report.charts import Chart
from infosteer.inspection.report.gather import BASE, Run
from infosteer.inspection.report.markup import Markup, el, visible
from infosteer.inspection.report.palette import Look

_SHOWN = 3  # models side by side from the start


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

    @property
    def baseline(self) -> str:
        """The baseline's name, or words for it where rows have different ones."""
        return self.run.baseline or "its baseline"

    def look(self, arm: str) -> Look:
        """The look of an arm; readings may name models that the recipe does not have."""
        return self.looks.get(arm) or self.looks[BASE]


def absent(identity: str, title: str, *words: object) -> Section:
    """A section whose data the run lacks: one line that says what to switch on."""
    return Section(id=identity, title=title, body=el("p", *words, class_="absent"))


def not_inspected(context: Context, identity: str, title: str, what: str, probe: str | None = None) -> Section:
    """A section that ``infosteer inspect RUN`` would fill, or a probe during training."""
    command = shlex.join(["infosteer", "inspect", visible(context.run.path)])
    during = [" During training the probe ", el("code", probe), " logs them."] if probe else []
    return absent(
        identity, title, "This run was not looked into: ", what, ". ", el("code", command),
        " does it with the models that the run saved (", el("code", "train.save_model"), ") and makes this page anew.",
        *during,
    )  # fmt: skip


def chip(arm: str, look: Look, text: object | None = None) -> Markup:
    """An arm's name beside a swatch of its colour."""
    swatch = el("span", class_=f"swatch {look.hue.variable}", aria_hidden="true")
    return el("span", swatch, el("bdi", arm if text is None else text), class_="chip")


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The models of an inspection file: base, baseline, then the arms; by key, and as the page's script wants them."""

    order: Mapping[tuple[str, int | None, bool], int]
    listed: list[dict[str, Any]]


def models_of(context: Context, keys: Iterable[tuple[str, int | None, bool]]) -> Models:
    """Models by (arm, seed, hook). Three are shown from the start: the base, the baseline and the first other arm."""
    rank = {arm: i for i, arm in enumerate(dict.fromkeys([BASE, context.run.baseline, *context.run.arms]))}
    found = sorted(dict.fromkeys(keys), key=lambda key: (rank.get(key[0], len(rank)), key[2], key[1] or 0))
    firsts = [key for i, key in enumerate(found) if key[0] not in {other[0] for other in found[:i]}]
    listed = [
        {
            "label": visible(model_name(*key)),
            "hue": context.look(key[0]).hue.variable,
            "shown": key in firsts[:_SHOWN] or len(found) <= _SHOWN,
        }
        for key in found
    ]
    return Models(order={key: i for i, key in enumerate(found)}, listed=listed)


def model_name(model: str, seed: int | None, hook: bool = False) -> str:
    """A reading's model in words."""
    parts = [model if seed is None else f"{model}, seed {seed}"]
    return " ".join([*parts, "(hook on)"] if hook else parts)
