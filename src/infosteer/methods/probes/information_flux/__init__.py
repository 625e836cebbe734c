"""Information flux: how many memories each token draws on, from the entropy of its key coefficients."""

from infosteer.methods.probes.information_flux.method import FluxObserver, InformationFlux, information_flux

__all__ = ["FluxObserver", "InformationFlux", "information_flux"]
