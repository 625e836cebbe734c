"""Hold the model's next-token distributions near those of the model that training began with."""

from infosteer.methods.losses.base_divergence.method import BaseDivergence, add_divergence

__all__ = ["BaseDivergence", "add_divergence"]
