"""Colours and marks: one hue per arm in all charts, tables and heatmaps, told apart by colour-blind eyes as well.

The hues are those of Okabe and Ito, darkened or lightened until they reach a contrast of 3 to 1 on the page; marks
and dashes repeat what colour says. The base is grey and dotted, the baseline dark and solid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infosteer.inspection.report.gather import BASE


@dataclass(frozen=True, kw_only=True, slots=True)
class Hue:
    """A colour by its name in the style sheet, with its value on light and on dark ground."""

    variable: str
    light: str
    dark: str


INK = Hue(variable="ink", light="#1c1e21", dark="#e8e6e1")
MUTED = Hue(variable="muted", light="#5d6269", dark="#a3a6ab")
LINE = Hue(variable="line", light="#dcdad4", dark="#35383d")
BASE_HUE = Hue(variable="arm-base", light="#7f868e", dark="#8d949c")
BASELINE_HUE = Hue(variable="arm-baseline", light="#34383e", dark="#dcdad5")
HUES = tuple(
    Hue(variable=f"arm-{i}", light=light, dark=dark)
    for i, (light, dark) in enumerate(
        [
            ("#0068a8", "#58b0ee"),
            ("#c4500a", "#ff9350"),
            ("#00805c", "#35c79d"),
            ("#a8457f", "#e795c5"),
            ("#8a6a00", "#e0b93c"),
            ("#5b4fb5", "#a79cf5"),
        ]
    )
)
GROUND = {  # name -> value on light and on dark ground; heat and cool are red, green and blue, mixed in by the page
    "page": ("#fbfaf7", "#15171a"),
    "card": ("#ffffff", "#1c1f23"),
    "soft": ("#f3f1eb", "#23272c"),
    "focus": ("#0068a8", "#6bbcf3"),
    "heat": ("226 128 20", "192 96 12"),
    "cool": ("112 96 220", "124 110 240"),
    "found": ("#ffe9a8", "#5a4708"),
}
FIXED = (INK, MUTED, LINE, BASE_HUE, BASELINE_HUE)
_MARKS = ("o", "s", "^", "D", "v", "P")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (2, 1.5), (6, 2, 1, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one arm is drawn."""

    hue: Hue
    mark: str
    dash: tuple[float, ...] = ()


def looks(arms: Sequence[str], baseline: str | None) -> dict[str, Look]:
    """The look of every arm and of the base; with more arms than hues, dashes tell the rounds apart."""
    found = {BASE: Look(hue=BASE_HUE, mark="x", dash=(1, 1.5))}
    i = 0
    for arm in arms:
        if arm == baseline:
            found[arm] = Look(hue=BASELINE_HUE, mark="o")
            continue
        turn, place = divmod(i, len(HUES))
        found[arm] = Look(hue=HUES[place], mark=_MARKS[(place + turn) % len(_MARKS)], dash=_DASHES[turn % len(_DASHES)])
        i += 1
    return found


def style_variables(theme: str) -> str:
    """The style sheet's variables for ``light`` or ``dark``."""
    hues = {hue.variable: getattr(hue, theme) for hue in (*FIXED, *HUES)}
    ground = {name: values[theme == "dark"] for name, values in GROUND.items()}
    return "".join(f"--{name}:{value};" for name, value in {**hues, **ground}.items())


def swatch_rules() -> str:
    """One class a hue, which sets the colour of swatches and bars."""
    return "".join(f".{hue.variable}{{--own:var(--{hue.variable})}}" for hue in (BASE_HUE, BASELINE_HUE, *HUES))
