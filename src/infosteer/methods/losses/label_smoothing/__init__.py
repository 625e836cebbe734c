"""Mix the training target with the uniform distribution over the vocabulary."""

from infosteer.methods.losses.label_smoothing.method import LabelSmoothing, smooth_labels

__all__ = ["LabelSmoothing", "smooth_labels"]
