"""Replay: rows of another source mixed into the training rows."""

from infosteer.methods.data.replay.method import Replay

__all__ = ["Replay"]
