"""Position of demonstrations in a prompt: four places, what they do to accuracy and to single predictions."""

from infosteer.methods.probes.demo_position.method import DemoPosition, slot_scores

__all__ = ["DemoPosition", "slot_scores"]
