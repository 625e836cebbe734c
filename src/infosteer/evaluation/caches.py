"""Keys and values of earlier tokens that other rows, or the same rows in another batch, can go on from."""

from __future__ import annotations

from typing import Any, TypeGuard

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from infosteer.evaluation.model_state import forward_parameters, unwrapped


def reuses(model: Any) -> bool:
    """Whether the model takes a cache; where its prompt is learnt, the cache holds more than the tokens given."""
    learnt_prompt = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    return "past_key_values" in forward_parameters(model) and not learnt_prompt


def is_plain(cache: Any) -> TypeGuard[DynamicCache]:
    """Whether rows of a filled cache can be picked: sliding windows and recurrent states cannot be shared so simply."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def keeps_plain(model: Any) -> bool:
    """Whether the cache that the model fills while it writes will be plain."""
    config = unwrapped(model).config
    return reuses(model) and not config.is_encoder_decoder and is_plain(DynamicCache(config=config))
