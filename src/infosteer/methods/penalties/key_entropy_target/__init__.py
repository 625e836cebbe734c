"""Hold the normalised entropy of the key coefficients at a target, by a square penalty."""

from infosteer.methods.penalties.key_entropy_target.method import EntropyTarget, entropy_deviation

__all__ = ["EntropyTarget", "entropy_deviation"]
