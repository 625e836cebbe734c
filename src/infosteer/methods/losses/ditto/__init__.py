"""DITTO's loss: the probability of a repeated token has to decay from copy to copy."""

from infosteer.methods.losses.ditto.method import RepetitionPenalty, penalise_repetition

__all__ = ["RepetitionPenalty", "penalise_repetition"]
