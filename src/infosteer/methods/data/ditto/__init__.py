"""DITTO's rows: one real sentence repeated until a row is full."""

from infosteer.methods.data.ditto.method import PseudoRepetition

__all__ = ["PseudoRepetition"]
