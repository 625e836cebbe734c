"""Human preferences in the loss: unlikelihood, reward-weighted and advantage-weighted likelihood."""

from infosteer.methods.losses.phf.method import PreferenceLoss, weigh_by_reward

__all__ = ["PreferenceLoss", "weigh_by_reward"]
