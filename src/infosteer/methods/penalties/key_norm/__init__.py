"""Punish the size of the key coefficients, L1 or L2, in the training loss."""

from infosteer.methods.penalties.key_norm.method import KeyNorm, key_norm

__all__ = ["KeyNorm", "key_norm"]
