"""Lift the smallest key coefficients of every token to a multiple of their row mean."""

from infosteer.methods.interventions.key_lift.method import Intervention
from infosteer.ops.intervene import intervene

__all__ = ["Intervention", "intervene"]
