"""Overwrite random key coefficients of every token: the control of key_lift that ignores their size."""

from infosteer.methods.interventions.key_random.method import KeyRandom, overwrite_random

__all__ = ["KeyRandom", "overwrite_random"]
