"""Effective ranks and spectral decay of the final hidden states, while a model is trained."""

from infosteer.methods.probes.geometry.method import RepresentationGeometry
from infosteer.ops.spectrum import describe_spectrum

__all__ = ["RepresentationGeometry", "describe_spectrum"]
