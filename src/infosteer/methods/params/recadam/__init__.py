"""RecAdam: an annealed pull to the pretrained weights, around any optimizer's step."""

from infosteer.methods.params.recadam.anneal import annealed
from infosteer.methods.params.recadam.method import RecAdam
from infosteer.methods.params.recadam.pull import Pull

__all__ = ["Pull", "RecAdam", "annealed"]
