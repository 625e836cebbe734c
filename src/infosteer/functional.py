"""The method as plain functions of tensors: no model, no state."""

from __future__ import annotations

from infosteer.methods.probes.information_flux import information_flux
from infosteer.methods.probes.knowledge_entropy import knowledge_entropy
from infosteer.methods.probes.region_shift import region_shares
from infosteer.methods.probes.token_information import token_information
from infosteer.ops.entropy import key_entropy
from infosteer.ops.intervene import intervene
from infosteer.ops.surrogate import information_surrogate

__all__ = [
    "information_flux",
    "information_surrogate",
    "intervene",
    "key_entropy",
    "knowledge_entropy",
    "region_shares",
    "token_information",
]
