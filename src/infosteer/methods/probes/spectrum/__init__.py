"""Spectrum Tuning's measures: steerability as a monitor; coverage and alignment as functions."""

from infosteer.methods.probes.spectrum.measures import Coverage, coverage, divergence, pairwise_uniqueness
from infosteer.methods.probes.spectrum.method import OutputObserver, Steerability

__all__ = ["Coverage", "OutputObserver", "Steerability", "coverage", "divergence", "pairwise_uniqueness"]
