"""The controlled world: invented people whose facts the embedded base model stored, and questions about them."""

from __future__ import annotations

from infosteer.lab.catalogue import KEYS, load
from infosteer.lab.embedded import embedded_base

__all__ = ["KEYS", "embedded_base", "load"]
