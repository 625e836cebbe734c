"""Reward (or, with a negative weight, punish) the entropy of the next-token distribution."""

from infosteer.methods.losses.output_entropy.method import OutputEntropy, reward_entropy

__all__ = ["OutputEntropy", "reward_entropy"]
