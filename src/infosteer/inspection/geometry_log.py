"""Representation geometry over training, from the lines that the geometry monitor left in a run's log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from infosteer.core.config import is_finite
from infosteer.core.metrics import PREFIX
from infosteer.inspection.data import Geometry, GeometryPoint

BASE = "base"
_LOGGED = f"{PREFIX}geometry/"
# The first ones come first in the report.
_ORDER = ("rankme", "rankme_cov", "alpha", "participation", "stable_rank", "rankme_centred", "mean_share", "rows")


def geometry_of_log(
    log: Iterable[Mapping[str, Any]], base: Mapping[int | None, Mapping[str, float]] | None = None
) -> Geometry | None:
    """The points of every arm, seed and logged step; None where the monitor logged nothing.

    Args:
        log: lines of metrics.jsonl.
        base: values of the model before training by layer, from the same rows.
    """
    points = [
        GeometryPoint(model=BASE, metric=name, step=0, value=value, layer=layer)
        for layer, values in (base or {}).items()
        for name, value in values.items()
    ]
    for line in log:
        arm, seed, step = line.get("arm"), line.get("seed"), line.get("step")
        if line.get("event") != "train" or not isinstance(arm, str) or type(step) is not int or step < 0:
            continue
        for key, value in line.items():
            if not key.startswith(_LOGGED) or type(value) not in (int, float) or not is_finite(value):
                continue  # a measure that was no number is logged as its name
            name, _, layer = key.removeprefix(_LOGGED).partition("/layer_")
            points.append(
                GeometryPoint(
                    model=arm,
                    seed=seed if type(seed) is int else None,
                    metric=name,
                    step=step,
                    value=float(value),
                    layer=int(layer) if layer.isdecimal() else None,
                )
            )
    if not any(point.model != BASE for point in points):
        return None
    from infosteer.ops.spectrum import ABOUT  # brings in torch, which a log without geometry does not need

    order = {name: place for place, name in enumerate(_ORDER)}
    points.sort(key=lambda point: (order.get(point.metric, len(order)), point.layer is not None))
    return Geometry(
        points=tuple(points),
        about={name: ABOUT[name] for name in dict.fromkeys(point.metric for point in points) if name in ABOUT},
        note="Measured on the tokens of each training batch: another text at every step.",
    )
