"""Where a model keeps a fact: hidden states of one prompt put into the run of another, place by place.

A pair of prompts of equal length differs in its subject only; each has its own answer. The *clean* prompt runs in the
source model, the *corrupt* one in the target model (the same one, or one before and after training) with the state of
one layer and token replaced by the clean run's. What the replacement does to ``logit(clean answer) - logit(corrupt
answer)`` says whether that place carries what tells the two apart.

All layers and tokens of a pair run as rows of one batch. Positions are averaged by their place relative to the subject
(the tokens in which the prompts differ), so pairs of any lengths share one map.

Source: arXiv 2504.02904, section 3 (its code); causal tracing: arXiv 2202.05262.
Legend: L layers, T time, P pairs, R rows of a batch, D hidden, C columns of a map.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.model_state import device_of, evaluating, forward_parameters
from infosteer.inspection.activations import same_length_batches
from infosteer.models import decoder_blocks, select_layers, visiting_blocks

Array = npt.NDArray[np.float64]
COLUMNS = ("before", "subject, first", "subject, middle", "subject, last", "after", "last token")
BATCH_ROWS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Token ids of two prompts of one length, and the token that answers each."""

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    clean_answer: int
    corrupt_answer: int

    def columns(self) -> list[str]:
        """The place of every token relative to those in which the prompts differ, as in ``COLUMNS``."""
        different = [t for t, (a, b) in enumerate(zip(self.clean, self.corrupt, strict=True)) if a != b]
        first, last = different[0], different[-1]
        names = ["before"] * first + ["subject, middle"] * (last - first + 1) + ["after"] * (len(self.clean) - last - 1)
        names[first] = "subject, first"
        names[last] = "subject, last"
        if last < len(names) - 1:
            names[-1] = "last token"
        return names


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchMap:
    """What replacing one state does.

    Attributes:
        layers, columns: what rows and columns of the map stand for.
        values: (L, C) mean of the logit difference with one state replaced.
        restored: (L, C) the same as a share of the way from corrupt (0) to clean (1), over the pairs of the column.
        clean, corrupt: mean logit difference of the target model on the prompts as they are.
        places: tokens behind each column, over all pairs.
        pairs: number of pairs.
        right: share of pairs in which the target model prefers the right answer on both prompts.
    """

    layers: tuple[int, ...]
    columns: tuple[str, ...]
    values: Array
    restored: Array
    clean: float
    corrupt: float
    places: tuple[int, ...]
    pairs: int
    right: float


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Refuses pairs that cannot be patched.

    Raises:
        DataError: none, unequal lengths, equal prompts, or equal answers; it names the pair.
    """
    if not pairs:
        raise DataError("There are no pairs of prompts.", expected="at least one pair")
    for number, pair in enumerate(pairs):
        where = f"pair {number}"
        if len(pair.clean) != len(pair.corrupt) or not pair.clean:
            raise DataError(
                "The prompts of a pair differ in length, so their tokens do not stand for each other.",
                where=where,
                got=f"{len(pair.clean)} and {len(pair.corrupt)} tokens",
                expected="the same number of tokens",
            )
        if pair.clean == pair.corrupt:
            raise DataError("The prompts of a pair are the same.", where=where)
        if pair.clean_answer == pair.corrupt_answer:
            raise DataError("The answers of a pair begin with the same token.", where=where, got=pair.clean_answer)


def patch_map(
    source: Any,
    target: Any,
    pairs: Sequence[Pair],
    *,
    layers: str | Sequence[int] = "all",
    match_norms: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> PatchMap:
    """The map of a target model under states of a source model; ``source is target`` shows where it keeps the facts.

    Args:
        source: runs the clean prompts.
        target: runs the corrupt prompts; of the same depth and width.
        pairs: of token ids that mean the same in both models.
        layers: layers whose output is replaced.
        match_norms: scale each state put in to the norm of the one that it replaces, for models whose norms drifted.
        batch_rows: rows (pair, layer, token) in one forward.

    Raises:
        DataError: as ``check_pairs``, or prompts longer than the context.
        ConfigError: models of other depth or width.
        ArchitectureError: a family that is not in the table.
    """
    check_pairs(pairs)
    depth = len(decoder_blocks(target))
    if len(decoder_blocks(source)) != depth:
        raise ConfigError(
            "The models differ in depth.", got=f"{len(decoder_blocks(source))} and {depth} layers", expected="the same"
        )
    chosen = select_layers(layers, depth)
    columns = [name for name in COLUMNS if any(name in pair.columns() for pair in pairs)]
    sums, ends = np.zeros((len(chosen), len(columns))), np.zeros((2, len(columns)))
    places = np.zeros(len(columns), dtype=np.int64)
    plain: list[tuple[float, float]] = []
    with evaluating(source), evaluating(target):
        for batch in same_length_batches(target, [pair.clean for pair in pairs], batch_rows):
            group = [pairs[i] for i in batch]
            states = _states(source, group, chosen)
            clean, corrupt = (_differences(target, _ids(target, group, which), group) for which in ("clean", "corrupt"))
            plain += zip(clean.tolist(), corrupt.tolist(), strict=True)
            cells = list(itertools.product(range(len(group)), range(len(chosen)), range(len(group[0].clean))))
            named = [[columns.index(name) for name in pair.columns()] for pair in group]
            for start in range(0, len(cells), batch_rows):
                part = cells[start : start + batch_rows]
                for (p, row, t), value in zip(
                    part, _patched(target, group, states, chosen, part, match_norms).tolist(), strict=True
                ):
                    sums[row, named[p][t]] += value
            for names, both in zip(named, zip(corrupt.tolist(), clean.tolist(), strict=True), strict=True):
                np.add.at(places, names, 1)
                for end, value in zip(ends, both, strict=True):
                    np.add.at(end, names, value)
    span = ends[1] - ends[0]
    return PatchMap(
        layers=chosen,
        columns=tuple(columns),
        values=sums / places,
        restored=np.divide(sums - ends[0], span, out=np.full_like(sums, np.nan), where=span != 0),
        clean=float(np.mean([clean for clean, _ in plain])),
        corrupt=float(np.mean([corrupt for _, corrupt in plain])),
        places=tuple(int(count) for count in places),
        pairs=len(pairs),
        right=float(np.mean([clean > 0 > corrupt for clean, corrupt in plain])),
    )


def compare_maps(a: PatchMap, b: PatchMap) -> dict[str, float]:
    """How alike two maps of ``restored`` shares are.

    Returns:
        ``pearson`` and ``spearman`` of all cells; ``pearson_binned`` after the thresholding of the source's code (20
        bins of equal width, the lower half set to 0), which inflates correlations; ``pearson_position``: of b with a's
        means by column, so what the position alone explains; ``max_difference``.

    Raises:
        ConfigError: maps of other layers or columns.
    """
    if a.layers != b.layers or a.columns != b.columns:
        raise ConfigError("The maps have other layers or columns.", got=f"{a.values.shape} and {b.values.shape}")
    x, y = a.restored, b.restored
    by_position = np.broadcast_to(x.mean(axis=0), x.shape)
    return {
        "pearson": _correlation(x, y),
        "spearman": _correlation(_ranks(x), _ranks(y)),
        "pearson_binned": _correlation(_binned(x), _binned(y)),
        "pearson_position": _correlation(by_position, y),
        "max_difference": float(np.abs(x - y).max()),
    }


def _ids(model: Any, group: Sequence[Pair], which: str) -> Tensor:
    return torch.tensor([getattr(pair, which) for pair in group], device=device_of(model))


def _states(model: Any, group: Sequence[Pair], layers: Sequence[int]) -> dict[int, Tensor]:
    """layer -> (..., P, T, D) states of the clean prompts."""
    kept: dict[int, Tensor] = {}
    with visiting_blocks(model, lambda layer, states: kept.__setitem__(layer, states), layers):
        model(input_ids=_ids(model, group, "clean"), use_cache=False)
    return kept


def _patched(
    model: Any,
    group: Sequence[Pair],
    states: dict[int, Tensor],
    layers: Sequence[int],
    cells: Sequence[tuple[int, int, int]],
    match_norms: bool,
) -> Tensor:
    """Logit differences (R,) of rows, each a corrupt prompt with one state replaced: (pair, number of layer, token)."""
    owner, row_layer, token = (torch.tensor(column, device=device_of(model)) for column in zip(*cells, strict=True))

    def replace(layer: int, here: Tensor) -> Tensor | None:
        rows = (row_layer == layers.index(layer)).nonzero().squeeze(1)
        if not len(rows):
            return None
        given = states[layer][..., owner[rows], token[rows], :].to(here)
        if given.shape[-1] != here.shape[-1]:
            raise ConfigError(
                "The models differ in width.", got=f"{given.shape[-1]} and {here.shape[-1]}", expected="the same"
            )
        if match_norms:
            old = here[..., rows, token[rows], :].norm(dim=-1, keepdim=True)
            given = given * (old / given.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(given.dtype).tiny))
        changed = here.clone()
        changed[..., rows, token[rows], :] = given
        return changed

    with visiting_blocks(model, replace, layers):
        return _differences(model, _ids(model, group, "corrupt")[owner], [group[p] for p, *_ in cells])


def _differences(model: Any, ids: Tensor, rows: Sequence[Pair]) -> Tensor:
    """``logit(clean answer) - logit(corrupt answer)`` at the last token, (R,) float64."""
    last = {"logits_to_keep": 1} if "logits_to_keep" in forward_parameters(model) else {}
    logits = model(input_ids=ids, use_cache=False, **last).logits[:, -1].double()
    answers = torch.tensor([[row.clean_answer, row.corrupt_answer] for row in rows], device=logits.device)
    found = logits.gather(1, answers)
    return (found[:, 0] - found[:, 1]).cpu()


def _binned(values: Array) -> Array:
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros_like(values)
    number = np.minimum(((values - low) / (high - low) * 20).astype(int), 19)
    return np.where(number < 10, 0.0, (number - 9) / 10)


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse].reshape(values.shape)


def _correlation(x: Array, y: Array) -> float:
    """Pearson's, NaN where one side is constant."""
    dx, dy = x - x.mean(), y - y.mean()
    size = float(np.sqrt((dx**2).sum() * (dy**2).sum()))
    return float((dx * dy).sum() / size) if size > 1e-12 else float("nan")
