"""Entropy neurons: memories of the last FFN that write to all words alike, and so could set a model's confidence.

Source: arXiv 2504.02904, section 6 (its code); the neurons: arXiv 2406.16254.
Legend: M memories, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infosteer.errors import ConfigError
from infosteer.models import locate, memory_vectors, output_head

_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyNeurons:
    """The memories found in one layer.

    Attributes:
        layer, width: of the FFN looked at.
        indices: the entropy neurons, least variance first.
        norms: length of each one's memory vector.
        log_variances: ln of the variance over the vocabulary of its cosine with the head's rows.
        candidates: number of memories that were long enough to count.
    """

    layer: int
    width: int
    indices: tuple[int, ...]
    norms: tuple[float, ...]
    log_variances: tuple[float, ...]
    candidates: int

    @property
    def ratios(self) -> tuple[float, ...]:
        """``norm / ln(variance)`` of each, the paper's one number for it."""
        return tuple(norm / value for norm, value in zip(self.norms, self.log_variances, strict=True))


def cosine_variance(vectors: Tensor, head: Tensor) -> Tensor:
    """``Var over v of cos(w_i, head_v)``, (M,) float64, of memory vectors (M, D) and an output head (V, D).

    The mean over the vocabulary is taken off, so a vector that raises every word's logit alike has variance 0. Rows of
    the head that are zero (padding of the vocabulary) have no cosine and do not count. In blocks of the vocabulary.

    Raises:
        ConfigError: widths that differ, or a head without rows.
    """
    if vectors.dim() != 2 or head.dim() != 2 or vectors.shape[1] != head.shape[1]:
        raise ConfigError("Memory vectors and head do not fit.", got=f"{tuple(vectors.shape)}, {tuple(head.shape)}")
    unit = _unit(vectors)
    count = 0
    mean, squares = torch.zeros(2, len(unit), dtype=torch.float64)
    for block in head.split(max(1, _CHUNK_ELEMENTS // max(len(vectors), vectors.shape[1]))):
        rows = _unit(block)
        rows = rows[rows.abs().amax(dim=1) > 0]
        if not len(rows):
            continue
        cosines = unit @ rows.T
        # Variances are tiny beside squared means, so blocks are joined by their centred sums.
        here = cosines.mean(dim=1)
        step = here - mean
        squares += (cosines - here[:, None]).square().sum(dim=1) + step**2 * count * len(rows) / (count + len(rows))
        mean += step * len(rows) / (count + len(rows))
        count += len(rows)
    if not count:
        raise ConfigError("The head holds no words.", got=tuple(head.shape))
    return squares / count


def entropy_neurons(model: Any, *, layer: int = -1, share: float = 0.25, count: int = 10) -> EntropyNeurons:
    """Among the longest memory vectors of a layer, those whose cosines with the words vary least.

    Args:
        model: a causal language model of a family in the table.
        layer: -1 is the last.
        share: of the memories, by length, that are looked at.
        count: how many to find.

    Raises:
        ConfigError: a layer or a number that the model does not have.
        SiteError: weights that cannot be read as numbers (quantised, sharded).
        ArchitectureError: a family that is not in the table, or no language-model head.
    """
    sites = locate(model)
    if not -len(sites) <= layer < len(sites):
        raise ConfigError("There is no such layer.", where="layer", got=layer, expected=f"0 to {len(sites) - 1}, or -1")
    site = sites[layer]
    if not 0 < share <= 1:
        raise ConfigError("The share of memories is no share.", where="share", got=share, expected="above 0, up to 1")
    longest = max(1, round(share * site.width))
    if not 1 <= count <= longest:
        raise ConfigError("There are not so many candidates.", where="count", got=count, expected=f"1 to {longest}")
    vectors = memory_vectors(site)
    norms = vectors.double().norm(dim=1)
    candidates = norms.argsort(descending=True, stable=True)[:longest]
    variance = cosine_variance(vectors[candidates], output_head(model))
    chosen = variance.argsort(stable=True)[:count]
    tiny = torch.finfo(torch.float64).tiny
    return EntropyNeurons(
        layer=site.layer,
        width=site.width,
        indices=tuple(candidates[chosen].tolist()),
        norms=tuple(norms[candidates[chosen]].tolist()),
        log_variances=tuple(variance[chosen].clamp_min(tiny).log().tolist()),
        candidates=longest,
    )


def overlap(a: EntropyNeurons, b: EntropyNeurons) -> dict[str, float]:
    """How alike the entropy neurons of two models are.

    Returns:
        ``iou``: shared over all indices; ``iou_chance``: the same of sets drawn at random from as many candidates;
        ``ratio_a`` and ``ratio_b``: mean ``norm / ln(variance)``.

    Raises:
        ConfigError: layers of other width.
    """
    if (a.layer, a.width) != (b.layer, b.width):
        raise ConfigError(
            "The neurons are of other layers.", got=f"layer {a.layer} of {a.width}, layer {b.layer} of {b.width}"
        )
    shared = len(set(a.indices) & set(b.indices))
    expected = len(a.indices) * len(b.indices) / max(a.candidates, b.candidates)
    sizes = len(a.indices) + len(b.indices)
    return {
        "iou": shared / (sizes - shared),
        "iou_chance": expected / (sizes - expected),
        "ratio_a": _mean(a.ratios),
        "ratio_b": _mean(b.ratios),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _unit(rows: Tensor) -> Tensor:
    wide = rows.detach().cpu().double()
    length = wide.norm(dim=1, keepdim=True)
    return torch.where(length > 0, wide / length, torch.zeros_like(wide))
