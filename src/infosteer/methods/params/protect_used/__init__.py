"""Row-wise protection: the more a memory is used on a calibration text, the less it is changed."""

from infosteer.methods.params.protect_used.method import ProtectUsed, protection_by_use

__all__ = ["ProtectUsed", "protection_by_use"]
