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
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.model_state import device_of, evaluating, forward_parameters
from infosteer.inspection.activations import same_length_batches
from infosteer.inspection.patch_maps import PatchMap
from infosteer.models import decoder_blocks, select_layers, visiting_blocks
from infosteer.models.walk import root_model

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
    noise: float | None = None,
    seed: int = 0,
    batch_rows: int = BATCH_ROWS,
) -> PatchMap:
    """The map of a target model under states of a source model; ``source is target`` shows where it keeps the facts.

    Args:
        source: runs the clean prompts.
        target: runs the corrupt prompts; of the same depth and width.
        pairs: of token ids that mean the same in both models.
        layers: layers whose output is replaced.
        match_norms: scale each state put in to the norm of the one that it replaces, for models whose norms drifted.
        noise: corrupt by noise instead: the target runs the clean prompts too, with Gaussian noise of this share of the
            embedding's norm on every number of the subject's embeddings (the source's code takes 0.05).
        seed: of the noise.
        batch_rows: rows (pair, layer, token) in one forward.

    Raises:
        DataError: as ``check_pairs``, or prompts longer than the context.
        ConfigError: models of other depth or width, or a share of noise that is none.
        ArchitectureError: a family that is not in the table.
    """
    check_pairs(pairs)
    if noise is not None and not 0 < noise < float("inf"):
        raise ConfigError("The share of noise is no positive number.", where="noise", got=noise)
    generator = torch.Generator().manual_seed(seed)
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
            ruin = None if noise is None else _Noise(target, group, noise, generator)
            clean = _differences(target, _ids(target, group, "clean"), group)
            corrupt = _corrupt_differences(target, group, range(len(group)), ruin)
            plain += zip(clean.tolist(), corrupt.tolist(), strict=True)
            cells = list(itertools.product(range(len(group)), range(len(chosen)), range(len(group[0].clean))))
            named = [[columns.index(name) for name in pair.columns()] for pair in group]
            for start in range(0, len(cells), batch_rows):
                part = cells[start : start + batch_rows]
                for (p, row, t), value in zip(
                    part, _patched(target, group, states, chosen, part, match_norms, ruin).tolist(), strict=True
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
    ruin: _Noise | None,
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
        return _corrupt_differences(model, group, [p for p, *_ in cells], ruin)


class _Noise:
    """Forward hook of the input embeddings: noise on the subjects of the pairs whose rows are being run."""

    def __init__(self, model: Any, group: Sequence[Pair], share: float, generator: torch.Generator) -> None:
        found = root_model(model)
        assert found is not None, "its decoder was located"
        self.module = found[1].get_input_embeddings()
        width = int(cast(Tensor, self.module.weight).shape[1])
        subject = torch.tensor([[name.startswith("subject") for name in pair.columns()] for pair in group])
        drawn = torch.randn(*subject.shape, width, generator=generator)
        self._noise = share * drawn * subject[:, :, None]
        self.rows: Sequence[int] = ()

    def __call__(self, module: Any, args: Any, output: Tensor) -> Tensor:
        return output + self._noise[list(self.rows)].to(output) * output.norm(dim=-1, keepdim=True)


def _corrupt_differences(model: Any, group: Sequence[Pair], rows: Sequence[int], ruin: _Noise | None) -> Tensor:
    """Logit differences (R,) of the corrupt runs of these pairs of the group."""
    chosen = list(rows)
    pairs = [group[p] for p in chosen]
    if ruin is None:
        return _differences(model, _ids(model, group, "corrupt")[chosen], pairs)
    ruin.rows = chosen
    handle = ruin.module.register_forward_hook(ruin)
    try:
        return _differences(model, _ids(model, group, "clean")[chosen], pairs)
    finally:
        handle.remove()


def _differences(model: Any, ids: Tensor, rows: Sequence[Pair]) -> Tensor:
    """``logit(clean answer) - logit(corrupt answer)`` at the last token, (R,) float64."""
    last = {"logits_to_keep": 1} if "logits_to_keep" in forward_parameters(model) else {}
    logits = model(input_ids=ids, use_cache=False, **last).logits[:, -1].double()
    answers = torch.tensor([[row.clean_answer, row.corrupt_answer] for row in rows], device=logits.device)
    found = logits.gather(1, answers)
    return (found[:, 0] - found[:, 1]).cpu()
