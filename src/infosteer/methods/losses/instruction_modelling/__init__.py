"""Instruction modelling: loss on the instruction too, its template left out, with a weight of its own."""

from infosteer.methods.losses.instruction_modelling.method import InstructionModelling, weigh_instructions

__all__ = ["InstructionModelling", "weigh_instructions"]
