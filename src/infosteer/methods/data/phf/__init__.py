"""Human preferences in the training text: rewards of segments, control tokens before them, or documents left out."""

from infosteer.methods.data.phf.method import HumanPreferences
from infosteer.methods.data.phf.rewards import LexiconReward, add_rewards

__all__ = ["HumanPreferences", "LexiconReward", "add_rewards"]
