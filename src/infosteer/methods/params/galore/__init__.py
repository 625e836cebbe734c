"""GaLore: the optimizer works in a low-rank projection of each weight matrix's gradient."""

from infosteer.methods.params.galore.low_rank import LowRank
from infosteer.methods.params.galore.memory import state_bytes
from infosteer.methods.params.galore.method import GaLore
from infosteer.methods.params.galore.projection import Basis, find_basis

__all__ = ["Basis", "GaLore", "LowRank", "find_basis", "state_bytes"]
