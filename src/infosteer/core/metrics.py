"""From a session's sums to the values that people read."""

from __future__ import annotations

from collections.abc import Mapping

PREFIX = "infosteer/"
MEASURED, COUNTED = "measured/", "counted/"  # sums and counts of what a method measures, by <method>/<metric>


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Means over the rows that carry loss.

    Args:
        sums: as ``Session.sums()`` gives them, possibly added up over processes.

    Returns:
        ``infosteer/entropy/layer_i`` and their mean ``infosteer/entropy`` (nats), ``infosteer/change``,
        ``infosteer/sign_change``, ``infosteer/penalty``, ``infosteer/loss_change``, and what losses measure themselves;
        empty when nothing was measured.
    """
    rows = sums.get("rows", 0.0)
    if not rows:
        return {}
    layers = {int(key.split("/")[1]): value / rows for key, value in sums.items() if key.startswith("entropy/")}
    values = {f"{PREFIX}entropy/layer_{layer}": layers[layer] for layer in sorted(layers)}
    if layers:
        values[f"{PREFIX}entropy"] = sum(layers.values()) / len(layers)
    if "change" in sums and layers:
        values[f"{PREFIX}change"] = sums["change"] / rows / len(layers)
        values[f"{PREFIX}sign_change"] = sums["signs"] / rows / len(layers)
    if "loss_change" in sums:
        values[f"{PREFIX}loss_change"] = sums["loss_change"] / rows
    for key, total in sums.items():
        if key.startswith(MEASURED) and (count := sums.get(COUNTED + key.removeprefix(MEASURED))):
            values[PREFIX + key.removeprefix(MEASURED)] = total / count
    values[f"{PREFIX}penalty"] = sums.get("penalty", 0.0) / rows
    return values
