"""The only place that knows architectures: the table of layouts, ``locate`` and the proof that sites fire."""

from infosteer.models.decoder import final_norm, output_head
from infosteer.models.head import head_logits
from infosteer.models.layers import select_layers
from infosteer.models.locate import locate
from infosteer.models.proof import prove
from infosteer.models.sites import Role, Site, memory_vectors, parameters_of
from infosteer.models.table import LAYOUTS, FFNLayout

__all__ = [
    "LAYOUTS",
    "FFNLayout",
    "Role",
    "Site",
    "final_norm",
    "head_logits",
    "locate",
    "memory_vectors",
    "output_head",
    "parameters_of",
    "prove",
    "select_layers",
]
