"""How the contract suite walks ``methods/``: every method folder passes the same checks.

A check that a surface cannot fail is skipped with its reason. A new folder is covered without a line here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from world import KEYS, MODEL_KEYS, llama, make, steer

from infosteer.core.registry import method_info

every_method = pytest.mark.parametrize("key", KEYS)
every_model_method = pytest.mark.parametrize("key", MODEL_KEYS)
every_data_method = pytest.mark.parametrize("key", [key for key in KEYS if key not in MODEL_KEYS])


def kind(key: str) -> type[Any]:
    return method_info(key).cls


def only_for(key: str, *bases: type[Any], reason: str) -> None:
    if not issubclass(kind(key), bases):
        pytest.skip(reason)


def edits_weights_at_once(key: str) -> bool:
    """Whether the method writes to weights when steering begins."""
    model = llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steer(model, [make(key)]).remove()
    return any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
