"""Integers and forms ``a x + b``: values of quantities, in forward mode constants and in reverse mode lines in x."""

from __future__ import annotations

from typing import NamedTuple


class Linear(NamedTuple):
    """``slope * x + offset`` with whole numbers; a constant has slope 0."""

    slope: int
    offset: int

    def show(self) -> str:
        """As it is written in solutions: ``7``, ``x``, ``2 * x + 18``, ``x - 3``."""
        if not self.slope:
            return str(self.offset)
        line = "x" if self.slope == 1 else f"{self.slope} * x"
        return line if not self.offset else f"{line} {'+' if self.offset > 0 else '-'} {abs(self.offset)}"


def combine(sign: str, left: Linear, right: Linear) -> Linear | None:
    """``left sign right`` for + - *; None where the product is no line."""
    if sign == "+":
        return Linear(left.slope + right.slope, left.offset + right.offset)
    if sign == "-":
        return Linear(left.slope - right.slope, left.offset - right.offset)
    if left.slope and right.slope:
        return None
    factor, line = (left.offset, right) if not left.slope else (right.offset, left)
    return Linear(factor * line.slope, factor * line.offset)
