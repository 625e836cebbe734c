"""Continued pretraining against the stability gap: what to read, how often, among what; and how to measure the gap."""

from infosteer.methods.data.stability_gap.gap import Gap, GapRecord, measure_gap, relative_updates
from infosteer.methods.data.stability_gap.method import StabilityGap
from infosteer.methods.data.stability_gap.scorers import KneserNey, ModelScorer, load_kenlm

__all__ = ["Gap", "GapRecord", "KneserNey", "ModelScorer", "StabilityGap", "load_kenlm", "measure_gap"]
__all__ += ["relative_updates"]
