"""Engines: what decodes prompts and scores given texts; transformers in this process, or vLLM for plain models."""

from infosteer.evaluation.engines.asked import asked_through
from infosteer.evaluation.engines.contract import Engine
from infosteer.evaluation.engines.local import TransformersEngine

__all__ = ["Engine", "TransformersEngine", "asked_through"]
