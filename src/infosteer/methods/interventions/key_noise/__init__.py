"""Gaussian noise on the key coefficients, as large as the change that key_lift would make."""

from infosteer.methods.interventions.key_noise.method import KeyNoise, add_noise

__all__ = ["KeyNoise", "add_noise"]
