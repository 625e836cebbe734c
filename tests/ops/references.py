"""Plain float64 statements of the formulas, differentiated by autograd; they share no code with the package."""

from __future__ import annotations

import torch


def smallest_mask(k, m, order):
    values = k.detach().abs() if order == "magnitude" else k.detach()
    index = torch.sort(values, dim=-1, stable=True).indices[..., :m]
    return torch.zeros(k.shape, dtype=torch.bool).scatter(-1, index, True)


def intervene(k, m, alpha, order, reference, detach=False, strength=1.0):
    mean = (k.abs() if reference == "magnitude_mean" else k).mean(-1, keepdim=True)
    target = alpha * (mean.detach() if detach else mean)
    if reference == "magnitude_mean":
        target = torch.where(k < 0, -target, target)
    return torch.where(smallest_mask(k, m, order), k + strength * (target - k), k)


def entropy(k, normalization):
    if normalization == "softmax":
        p = torch.softmax(k, -1)
    else:
        weight = k.abs() if normalization == "magnitude" else k.square()
        p = weight / weight.sum(-1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(-1)
