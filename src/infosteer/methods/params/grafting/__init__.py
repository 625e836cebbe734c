"""Grafting: the few trained weights that carry a skill, on the weights from before training."""

from infosteer.methods.params.grafting.graft import Graft, graft, set_weights
from infosteer.methods.params.grafting.learn import Search, learn_mask
from infosteer.methods.params.grafting.method import Grafting

__all__ = ["Graft", "Grafting", "Search", "graft", "learn_mask", "set_weights"]
