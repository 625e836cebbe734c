"""Human preferences in the training text: rewards of segments, control tokens before them, or documents left out."""

from infosteer.methods.data.phf.method import HumanPreferences
from infosteer.methods.data.phf.rewards import LexiconReward, add_rewards
from infosteer.methods.data.phf.scorers import ClassifierReward, ExamplesReward, PersonalDataReward, StyleReward

__all__ = ["ClassifierReward", "ExamplesReward", "HumanPreferences", "LexiconReward", "PersonalDataReward"]
__all__ += ["StyleReward", "add_rewards"]
