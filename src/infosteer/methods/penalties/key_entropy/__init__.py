"""Reward (or, with a negative weight, punish) the entropy of the key coefficients in the training loss."""

from infosteer.methods.penalties.key_entropy.method import EntropyRegularization
from infosteer.ops.entropy import key_entropy

__all__ = ["EntropyRegularization", "key_entropy"]
