"""Key-region shift: where a model's key coefficients lie between fixed percentiles of the base model's."""

from infosteer.methods.probes.region_shift.method import RegionObserver, RegionShift, region_shares
from infosteer.methods.probes.region_shift.sketch import MagnitudeSketch

__all__ = ["MagnitudeSketch", "RegionObserver", "RegionShift", "region_shares"]
