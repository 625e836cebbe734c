"""Weight interpolation with the start (WiSE-FT), when training ends."""

from infosteer.methods.params.weight_interpolation.method import WeightInterpolation

__all__ = ["WeightInterpolation"]
