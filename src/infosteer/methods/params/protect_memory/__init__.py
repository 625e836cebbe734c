"""Learning-rate factors for the FFN's values, keys and gates; 0 freezes them."""

from infosteer.methods.params.protect_memory.method import ProtectMemory
from infosteer.methods.params.protect_memory.shares import Share, scale_update

__all__ = ["ProtectMemory", "Share", "scale_update"]
