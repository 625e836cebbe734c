"""Control of protection: as many weights frozen as the FFN's protection freezes, but drawn at random."""

from infosteer.methods.params.protect_random.method import ProtectRandom, random_mask

__all__ = ["ProtectRandom", "random_mask"]
