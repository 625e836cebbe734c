"""Stand-ins for a model of the paper that is not at hand: its layers from known facts, tokens by the embedded base's.

Checks and estimates can then be made on a machine without the model. Nothing is trained with a stand-in.
"""

from __future__ import annotations

import functools
from typing import Any

from infosteer.errors import ConfigError
from infosteer.experiments.known import KNOWN, Shape, config_of, shape_of
from infosteer.training.loading import EMBEDDED, load_skeleton, load_tokenizer


@functools.cache
def tokenizer_of(model: str) -> tuple[Any, bool]:
    """The model's tokenizer, or for a known model out of reach the embedded base's, and whether it is that one.

    Raises: ConfigError or RunError for any other model that cannot be read.
    """
    try:
        return load_tokenizer(model), False
    except ConfigError:
        if model not in KNOWN:
            raise
        return load_tokenizer(EMBEDDED), True


@functools.cache
def skeleton_of(model: str) -> tuple[Any, bool]:
    """The model's modules without weights, and whether they are made from known facts because it is out of reach.

    Raises: ConfigError or RunError for a model that is neither within reach nor known.
    """
    try:
        return load_skeleton(model), False
    except ConfigError:
        if model not in KNOWN:
            raise
        return _from_facts(KNOWN[model]), True


def shape_at_hand(model: str) -> Shape:
    """The model's shape, from its config or from known facts.

    Raises: ConfigError for a model that is neither; ArchitectureError for a family whose cost is not modelled.
    """
    if model in KNOWN:
        return KNOWN[model]
    return shape_of(skeleton_of(model)[0].config)


def told(model: str) -> str:
    """A line for people when stand-ins are used, else an empty text."""
    parts = []
    if skeleton_of(model)[1]:
        parts.append("its layers are taken from known facts")
    if tokenizer_of(model)[1]:
        parts.append("tokens are cut by the embedded base's tokenizer, finer than its own")
    return f"{model} is not within reach: {', and '.join(parts)}" if parts else ""


def _from_facts(shape: Shape) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(shape), trust_remote_code=False)
