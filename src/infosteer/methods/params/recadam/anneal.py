"""The coefficient that moves the weight from recall to the task."""

from __future__ import annotations

import math

SHAPES = ("sigmoid", "linear", "constant")


def annealed(step: int, shape: str = "sigmoid", k: float = 0.5, t0: float = 250.0, w: float = 1.0) -> float:
    """lambda(t), the weight of the task.

    Formula: ``sigmoid``: ``w / (1 + exp(-k (t - t0)))``; ``linear``: ``w min(1, t / t0)``; ``constant``: ``w``.

    Args:
        step: t, the optimizer step, from 1.
    """
    if shape == "constant":
        return w
    if shape == "linear":
        return w * min(1.0, step / t0) if t0 > 0 else w
    x = k * (step - t0)
    # Neither branch takes the exponential of a large positive number.
    return w / (1 + math.exp(-x)) if x >= 0 else w * math.exp(x) / (1 + math.exp(x))
