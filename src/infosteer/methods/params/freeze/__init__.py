"""Learning-rate factor for named parts of the model; 0 freezes them."""

from infosteer.methods.params.freeze.method import Freeze

__all__ = ["Freeze"]
