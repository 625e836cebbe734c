"""Knowledge-entropy resuscitation: rescale the keys of memories that a text hardly uses, once, before training."""

from infosteer.methods.params.resuscitation.edit import Edit, resuscitate, revert, scales
from infosteer.methods.params.resuscitation.method import Resuscitation

__all__ = ["Edit", "Resuscitation", "resuscitate", "revert", "scales"]
