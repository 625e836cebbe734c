"""Representation geometry over training."""

from __future__ import annotations

from infosteer.inspection.report.charts import show
from infosteer.inspection.report.gather import BASE, Curves, curves, training_lines
from infosteer.inspection.report.markup import bdi, el, join
from infosteer.inspection.report.multiples import multiples
from infosteer.inspection.report.section import Context, Section, absent

ID, TITLE = "geometry", "Geometry of the representations"
GEOMETRY_LOG = "infosteer/geometry/"
_LAYER = "/layer_"


def make_geometry(context: Context) -> Section:
    """The section, from inspection/geometry.json, or from what the monitor logged."""
    geometry = context.run.geometry
    found = _measured(context) if geometry is not None and geometry.points else _logged(context)
    if not found:
        return absent(
            ID, TITLE, "No geometry was measured: the probe ", el("code", "probes/geometry"), " in an arm's methods "
            "logs it during training; see ", el("code", "docs/report.md"), ".",
        )  # fmt: skip
    chart, numbers = multiples(context, name="geometry", what="Geometry over training steps", found=found)
    about = geometry.about if geometry else {}
    explained = [join(el("dt", bdi(name)), el("dd", bdi(text))) for name, text in about.items()]
    body = join(
        show(
            chart, "Means over seeds, thin lines the seeds; the base model, where it was measured, is the dotted line."
        ),
        el("dl", explained, class_="about") if explained else None,
        el("p", geometry.note, class_="note") if geometry and geometry.note else None,
        el("details", el("summary", "The numbers as a table"), numbers),
    )
    return Section(id=ID, title=TITLE, body=body, charts=[chart])


def _measured(context: Context) -> dict[str, Curves]:
    geometry = context.run.geometry
    points = geometry.points if geometry else ()
    found: dict[str, Curves] = {}
    for point in points:
        by_model = found.setdefault(_title(point.metric, point.layer), {})
        by_model.setdefault(point.model, {}).setdefault(point.seed or 0, []).append((point.step, point.value))
    last = float(max((point.step for point in points), default=0))
    for by_model in found.values():
        for model, by_seed in by_model.items():
            for seed, line in by_seed.items():
                line.sort()
                if model == BASE and len(line) == 1 and last:  # a line to compare with
                    by_seed[seed] = [line[0], (last, line[0][1])]
    return found


def _logged(context: Context) -> dict[str, Curves]:
    log = context.run.log
    keys = dict.fromkeys(key for line in log for key in line if key.startswith(GEOMETRY_LOG))
    lines = training_lines(log)
    found = {}
    for key in sorted(keys, key=lambda key: _LAYER in key):
        metric, _, layer = key.removeprefix(GEOMETRY_LOG).partition(_LAYER)
        found[_title(metric, int(layer) if layer.isdecimal() else None)] = curves(lines, key)
    return {title: by_arm for title, by_arm in found.items() if by_arm}


def _title(metric: str, layer: int | None) -> str:
    return metric if layer is None else f"{metric}, layer {layer}"
