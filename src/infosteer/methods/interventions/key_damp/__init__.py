"""Overwrite the largest key coefficients of every token: the control of key_lift from the other end."""

from infosteer.methods.interventions.key_damp.method import KeyDamp, damp

__all__ = ["KeyDamp", "damp"]
