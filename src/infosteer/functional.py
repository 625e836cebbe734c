"""The method as plain functions of tensors: no model, no state."""

from __future__ import annotations

from infosteer.ops.entropy import key_entropy
from infosteer.ops.intervene import intervene
from infosteer.ops.surrogate import information_surrogate

__all__ = ["information_surrogate", "intervene", "key_entropy"]
