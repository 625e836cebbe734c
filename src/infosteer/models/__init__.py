"""The only place that knows architectures: the table of layouts, ``locate`` and the proof that sites fire."""

from infosteer.models.blocks import decoder_blocks, main_stream, states_of, visiting_blocks
from infosteer.models.decoder import final_norm, output_head
from infosteer.models.head import CHUNK_ROWS, head_logits, vocabulary_reading
from infosteer.models.layers import select_layers
from infosteer.models.locate import locate
from infosteer.models.parts import PARTS, Placed, is_adapted, key_degree, memory_axes, place_parameters
from infosteer.models.proof import prove
from infosteer.models.sites import Role, Site, memory_vectors, parameters_of
from infosteer.models.table import LAYOUTS, FFNLayout

__all__ = [
    "CHUNK_ROWS",
    "LAYOUTS",
    "PARTS",
    "FFNLayout",
    "Placed",
    "Role",
    "Site",
    "decoder_blocks",
    "final_norm",
    "head_logits",
    "is_adapted",
    "key_degree",
    "locate",
    "main_stream",
    "memory_axes",
    "memory_vectors",
    "output_head",
    "parameters_of",
    "place_parameters",
    "prove",
    "select_layers",
    "states_of",
    "visiting_blocks",
    "vocabulary_reading",
]
