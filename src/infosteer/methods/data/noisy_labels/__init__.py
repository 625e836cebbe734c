"""Label noise, as a stress condition: a share of the rows get the completion of another row."""

from infosteer.methods.data.noisy_labels.method import NoisyLabels

__all__ = ["NoisyLabels"]
