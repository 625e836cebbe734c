"""Spectrum Tuning's rows: many answers of one task in a sequence, the loss on the answers."""

from infosteer.methods.data.spectrum.method import SpectrumSequences
from infosteer.methods.data.spectrum.turns import FORMATS, Pair, prompt_text, sequence

__all__ = ["FORMATS", "Pair", "SpectrumSequences", "prompt_text", "sequence"]
