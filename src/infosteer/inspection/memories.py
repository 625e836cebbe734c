"""What memory vectors say in vocabulary space: specificity, concepts, the memories that write a word.

A memory vector v_i is read as ``phi_i = v_i W_decode``, with the family's scale or cap of the logits and without the
head's bias; ``P_i = softmax(phi_i)``. With the final norm, as here unless told otherwise, v_i goes through it first, as
if it were all that the residual stream held: its length is taken away, and its dimensions are weighed as for the head.
The paper reads it without; then the short vectors of real models say nearly the same of every token, and only the
ranking is of use.

Shape letters: m memories, M memories of a layer, D hidden, V vocabulary, K tokens of a concept.
Source: arXiv 2507.05158, section 4.3 (surrogate, specificity, concepts).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.errors import ConfigError
from infosteer.models import Site, final_norm, memory_vectors, output_head, vocabulary_reading

_ELEMENTS_AT_ONCE = 1 << 24  # numbers of m * V: 64 MiB in fp32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Concepts:
    """Memories of a layer in vocabulary space.

    Attributes:
        layer: the layer's number.
        indices: (m,) which memories, int64.
        specificity: (m,) ``1 - H(P_i) / ln V``: 0 says nothing in particular, 1 one token; fp64.
        tokens: (m, K) the most likely tokens, best first, int64.
        probabilities: (m, K) their probabilities.
        lowered: (m, K) the least likely tokens, lowest first: what a negative coefficient writes.
    """

    layer: int
    indices: Tensor
    specificity: Tensor
    tokens: Tensor
    probabilities: Tensor
    lowered: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A memory that writes a word: with which probability, at which rank (0: nothing is likelier)."""

    layer: int
    index: int
    probability: float
    rank: int


def surrogates(
    model: nn.Module, site: Site, indices: Sequence[int] | None = None, *, use_final_norm: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Readings of a layer's memory vectors, some at a time, so that memory stays bounded.

    Yields:
        indices (m,) and phi (m, V), fp32 (fp64 for models in fp64).

    Raises:
        SiteError: memory vectors that cannot be read, such as 4- or 8-bit ones.
        ArchitectureError: no language-model head, or no final norm where one is asked for.
        ConfigError: indices that the layer does not have.
    """
    vectors = memory_vectors(site)
    chosen = torch.arange(site.width) if indices is None else _checked(indices, site)
    wide = torch.float64 if vectors.dtype == torch.float64 else torch.float32
    # A copy, in the precision of the vectors: some norms take no input of another type than their own weight's.
    norm = copy.deepcopy(final_norm(model)).to(wide) if use_final_norm else nn.Identity()
    step = max(1, _ELEMENTS_AT_ONCE // output_head(model).shape[0])
    with torch.no_grad():
        for some in chosen.split(step):
            rows = vectors[some.to(vectors.device)].to(wide)
            yield some, vocabulary_reading(model, norm(rows))


def read_memories(
    model: nn.Module,
    site: Site,
    indices: Sequence[int] | None = None,
    *,
    top: int = 10,
    use_final_norm: bool = True,
) -> Concepts:
    """Specificity and concepts of a layer's memories.

    Args:
        indices: which memories; all unless given.
        top: K, at most V.
        use_final_norm: read them through the model's final norm.

    Raises:
        ConfigError: ``top`` below 1; otherwise as :func:`surrogates`.
    """
    if type(top) is not int or top < 1:
        raise ConfigError("not a number of tokens", where="top", got=top, expected="1 or more")
    parts: list[tuple[Tensor, ...]] = []
    for some, phi in surrogates(model, site, indices, use_final_norm=use_final_norm):
        count = min(top, phi.shape[1])
        log = phi.log_softmax(dim=-1)
        entropy = -(log.exp() * log).sum(dim=-1, dtype=torch.float64)
        best, tokens = log.topk(count, dim=-1)
        lowered = log.topk(count, dim=-1, largest=False).indices
        specificity = 1 - entropy / math.log(max(phi.shape[1], 2))
        parts.append(tuple(part.cpu() for part in (some, specificity, tokens, best.exp(), lowered)))
    found = [torch.cat(column) for column in zip(*parts, strict=True)]
    names = ("indices", "specificity", "tokens", "probabilities", "lowered")
    return Concepts(layer=site.layer, **dict(zip(names, found, strict=True)))


def search(
    model: nn.Module, sites: Sequence[Site], tokens: Sequence[int], *, top: int = 10, use_final_norm: bool = True
) -> list[Hit]:
    """The memories of these layers that give a word the highest probability, best first.

    Args:
        tokens: the word's spellings, one token each; their probabilities are added, the best rank of them counts.

    Raises:
        ConfigError: no token, or numbers that are no tokens; otherwise as :func:`surrogates`.
    """
    size = output_head(model).shape[0]
    if not tokens or not all(0 <= token < size for token in tokens):
        raise ConfigError(
            "these are no tokens of the model", where="tokens", got=[*tokens], expected=f"0 to {size - 1}"
        )
    hits: list[Hit] = []
    wanted = torch.tensor(sorted(set(tokens)))
    for site in sites:
        for some, phi in surrogates(model, site, use_final_norm=use_final_norm):
            own = phi[:, wanted.to(phi.device)]
            values = (own.logsumexp(-1) - phi.logsumexp(-1)).exp()
            best, rows = values.topk(min(top, len(values)))
            ranks = (phi[rows] > own[rows].amax(dim=-1, keepdim=True)).sum(dim=-1)
            hits += [
                Hit(layer=site.layer, index=int(some[row]), probability=float(value), rank=int(rank))
                for row, value, rank in zip(rows.tolist(), best, ranks, strict=True)
            ]
            hits = sorted(hits, key=lambda hit: -hit.probability)[:top]
    return hits


def overlap(first: Concepts, second: Concepts) -> Tensor:
    """How stable concepts are: the share of its K tokens that each memory has in both readings, (m,) fp64.

    By chance it would be K / V. Two readings of one memory: with and without the final norm, base and trained model.

    Raises:
        ConfigError: readings of different memories, or with a different K.
    """
    if not torch.equal(first.indices, second.indices) or first.tokens.shape != second.tokens.shape:
        raise ConfigError(
            "these are readings of different memories, or of concepts of different size",
            got=f"{tuple(first.tokens.shape)} and {tuple(second.tokens.shape)}",
        )
    same = (first.tokens[:, :, None] == second.tokens[:, None, :]).any(dim=-1)
    return same.double().mean(dim=-1)


def word_tokens(tokenizer: Any, word: str) -> list[int]:
    """The tokens that are this word, at the beginning of a text or after a space.

    Raises:
        ConfigError: no word, or one that the tokenizer always cuts in pieces; the pieces are named.
    """
    text = word.strip()
    if not text:
        raise ConfigError("there is no word to search for", where="search", got=repr(word))
    spellings = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in (text, f" {text}")]
    found = sorted({ids[0] for ids in spellings if len(ids) == 1} - {tokenizer.unk_token_id})
    # Some tokenizers write a space as a token of its own before a word that they know.
    if not found and len(spellings[1]) == 2 and str(tokenizer.decode(spellings[1][1:])).strip() == text:
        found = [spellings[1][1]]
    if not found:
        cut = " | ".join(tokenizer.convert_ids_to_tokens(min(spellings, key=len)))
        raise ConfigError(
            "the word is not one token of this model, and memories are read token by token",
            where="search",
            got=f"{word!r} is {cut}",
            expected="a word that is one token",
            fix="search for a shorter word, or for one of its pieces",
        )
    return found


def _checked(indices: Sequence[int], site: Site) -> Tensor:
    wrong = [index for index in indices if type(index) is not int or not 0 <= index < site.width]
    if wrong or not len(indices):
        raise ConfigError(
            "the layer has no such memory",
            where=f"layer {site.layer}",
            got=wrong[:5] if wrong else "no index",
            expected=f"whole numbers from 0 to {site.width - 1}",
        )
    return torch.tensor(list(indices), dtype=torch.long)
