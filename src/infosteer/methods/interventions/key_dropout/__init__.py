"""Dropout on the key coefficients, with random numbers that follow the text."""

from infosteer.methods.interventions.key_dropout.method import KeyDropout, drop

__all__ = ["KeyDropout", "drop"]
