"""Worked examples in training prompts, at a place drawn for each row."""

from infosteer.methods.data.demo_slots.method import DemoSlots

__all__ = ["DemoSlots"]
