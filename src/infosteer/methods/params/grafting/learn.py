"""A mask that is learnt: which trained values keep the task's loss low, starting from a base mask.

Symbols: theta_0 the weights from before training, delta = theta_1 - theta_0 what training did, b the base mask, S one
number a weight, sigma the sigmoid, c ``bias``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.methods.params.grafting.masks import Mask, budget, density, top

Batch = Mapping[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]
OPTIMIZERS = ("ranked", "adam", "sgd")
ROUNDINGS = ("threshold", "budget")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How a mask is learnt.

    Attributes:
        epochs: rounds over the batches.
        rate: step size of S.
        optimizer: sgd as in the paper (whose rate is 1e7, for sigma' is about 1e-4), adam, or ranked: plain descent on
            gradients in units of the one that ranks ``strongest`` times the size of the base mask, clipped there.
        bias: c; the larger, the closer the first mask is to the base.
        accumulate: batches a step; 0 takes all.
        l1: weight of the mean of gamma in the loss.
        rounding: threshold (gamma > 1/2), or budget: the largest gammas, as many as the base mask has.
        seed: of S at the start.
        strongest: with ranked, how many entries move by the whole rate, as a share of the base mask.
    """

    epochs: int = 10
    rate: float = 1.0
    optimizer: str = "ranked"
    bias: float = 5.0
    accumulate: int = 1
    l1: float = 0.0
    rounding: str = "threshold"
    seed: int = 0
    strongest: float = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Learned:
    """The best mask of a search.

    Attributes:
        history: of the base mask and after every epoch: ``score`` (higher is better) and ``density``.
    """

    mask: Mask
    history: list[dict[str, float]]


def soft_mask(base: Tensor, s: Tensor, bias: float) -> Tensor:
    """``gamma = b + (1 - 2 b) sigma(S - c)``: sigma is the chance that an entry of the base mask is turned over."""
    return base.float() + (1 - 2 * base.float()) * torch.sigmoid(s - bias)


def learn_mask(
    parameters: Mapping[str, nn.Parameter],
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    gradient: Callable[[Sequence[Batch]], None],
    batches: Sequence[Batch],
    score: Callable[[Mask], float],
    search: Search,
) -> Learned:
    """Descends ``L(theta_0 + gamma(S) delta)`` over S; the rounded mask with the best score is kept.

    Formula: ``dL/dS = dL/dtheta * delta * (1 - 2 b) sigma'(S - c)``, the gradient of the weights being taken at the
    soft graft; S starts uniform in [0, 1], so that gamma is near b.

    Args:
        parameters: the model's own, which hold the soft graft while a gradient is taken; whoever calls sets them after.
        gradient: adds to ``.grad`` the gradient of the mean loss over batches.
        score: of a rounded mask; higher is better.

    Source: arXiv 2302.06600, section 2, and its code.
    """
    generator = torch.Generator().manual_seed(search.seed)
    delta = {name: trained[name].float() - start[name].float() for name in parameters}
    logits = {
        name: torch.rand(p.shape, generator=generator, dtype=torch.float32).to(p.device).requires_grad_(True)
        for name, p in parameters.items()
    }
    make = torch.optim.Adam if search.optimizer == "adam" else torch.optim.SGD
    optimizer = make(list(logits.values()), lr=search.rate)
    total = sum(p.numel() for p in parameters.values())
    kept = budget(base, density(base))

    def rounded() -> Mask:
        soft = {name: soft_mask(base[name], s.detach(), search.bias) for name, s in logits.items()}
        return top(soft, kept) if search.rounding == "budget" else {name: part > 0.5 for name, part in soft.items()}

    best: Mask = {name: part.clone() for name, part in base.items()}
    history = [{"score": score(best), "density": density(best)}]
    size = search.accumulate or len(batches)
    for _ in range(search.epochs):
        for first in range(0, len(batches), size):
            with torch.no_grad():
                for name, p in parameters.items():
                    soft = soft_mask(base[name], logits[name], search.bias)
                    p.copy_(start[name].float() + soft * delta[name])
                    p.grad = None
            gradient(batches[first : first + size])
            with torch.no_grad():
                for name, p in parameters.items():
                    sigma = torch.sigmoid(logits[name] - search.bias)
                    seen = torch.zeros_like(delta[name]) if p.grad is None else p.grad.float() * delta[name]
                    slope = (1 - 2 * base[name].float()) * sigma * (1 - sigma)
                    logits[name].grad = (seen + search.l1 / total) * slope
                    p.grad = None
            if search.optimizer == "ranked":
                clip_at_rank(list(logits.values()), max(round(search.strongest * kept), 1))
            optimizer.step()
        mask = rounded()
        history.append({"score": score(mask), "density": density(mask)})
        if history[-1]["score"] > max(entry["score"] for entry in history[:-1]):
            best = mask
    return Learned(mask=best, history=history)


@torch.no_grad()
def clip_at_rank(logits: Sequence[Tensor], rank: int) -> None:
    """Divides all gradients by the rank-th largest magnitude among them and clips them to [-1, 1]: so many move by the
    whole rate, the others in proportion, whatever the scale of the loss."""
    gradients = [s.grad for s in logits if s.grad is not None]
    sizes = torch.cat([g.abs().flatten() for g in gradients])
    limit = sizes.kthvalue(len(sizes) - min(rank, len(sizes)) + 1).values
    limit = limit if limit > 0 else sizes.max()
    for g in gradients if limit > 0 else ():
        g.div_(limit).clamp_(-1, 1)
