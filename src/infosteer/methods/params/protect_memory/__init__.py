"""Learning-rate factors for the FFN's values, keys and gates; 0 freezes them."""

from infosteer.core.updates import Share, scale_update
from infosteer.methods.params.protect_memory.method import ProtectMemory

__all__ = ["ProtectMemory", "Share", "scale_update"]
