"""Shapes of dense decoder models: read off a config, and, for the six models of the paper, known without one.

The facts of the six are those of their published configs; a test builds each and finds the parameter count that its
authors' files have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infosteer.errors import ArchitectureError


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the cost of a gated decoder depends on.

    Attributes:
        model_type: its name in transformers.
        layers, hidden, width: L, D, M.
        heads, kv_heads, head_dim: attention; A = heads * head_dim, K = kv_heads * head_dim.
        vocabulary: V.
        tied: the head is the embedding.
        qkv_bias: queries, keys and values have biases.
        norms: norm vectors (D,) in a layer.
        capped: attention scores are capped, so that they are kept in memory.
    """

    model_type: str
    layers: int
    hidden: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False
    norms: int = 2
    capped: bool = False


_QWEN: dict[str, Any] = {"model_type": "qwen2", "qkv_bias": True, "layers": 28, "head_dim": 128}
_LLAMA: dict[str, Any] = {"model_type": "llama", "vocabulary": 128_256, "heads": 32, "kv_heads": 8}
_GEMMA: dict[str, Any] = {"model_type": "gemma2", "norms": 4, "capped": True, "vocabulary": 256_000, "head_dim": 256}
KNOWN: dict[str, Shape] = {
    "Qwen/Qwen2.5-1.5B": Shape(hidden=1536, width=8960, heads=12, kv_heads=2, vocabulary=151_936, tied=True, **_QWEN),
    "Qwen/Qwen2.5-7B": Shape(hidden=3584, width=18_944, heads=28, kv_heads=4, vocabulary=152_064, tied=False, **_QWEN),
    "meta-llama/Llama-3.2-1B": Shape(layers=16, hidden=2048, width=8192, head_dim=64, tied=True, **_LLAMA),
    "meta-llama/Meta-Llama-3-8B": Shape(layers=32, hidden=4096, width=14_336, head_dim=128, tied=False, **_LLAMA),
    "google/gemma-2-2b": Shape(layers=26, hidden=2304, width=9216, heads=8, kv_heads=4, tied=True, **_GEMMA),
    "google/gemma-2-9b": Shape(layers=42, hidden=3584, width=14_336, heads=16, kv_heads=8, tied=True, **_GEMMA),
}
_FAMILIES: dict[str, dict[str, Any]] = {  # model type -> what is special about it
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "gemma2": {"norms": 4, "capped": True},
}


def shape_of(config: Any) -> Shape:
    """The shape that a transformers config describes.

    Raises: ArchitectureError for a family that is not described here.
    """
    kind = str(config.model_type)
    if kind not in _FAMILIES:
        raise ArchitectureError(
            "Shapes of this family are not described, so it has no cost model and no tiny stand-in.",
            got=kind,
            expected=", ".join(_FAMILIES),
        )
    return Shape(
        model_type=kind,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        width=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        **_FAMILIES[kind],
    )


def config_of(shape: Shape, **changes: Any) -> Any:
    """A transformers config of this shape; what is no part of the shape is the family's default."""
    from transformers import AutoConfig

    own = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }
    return AutoConfig.for_model(shape.model_type, **(own | changes))
