"""A clear refusal of second derivatives for functions with a closed-form first one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for ``Function.backward``: its first result may be used, but not differentiated again.

    ``once_differentiable`` alone refuses only where the incoming gradient needs a gradient. A result that depends on
    the saved input itself would come back as a constant, and a second derivative would silently lack a term.
    The first saved tensor must be the one that the result depends on.
    """
    once: Callable[..., Any] = once_differentiable(backward)

    @wraps(backward)
    def guarded(ctx: Any, *grads: Tensor) -> Any:
        results = once(ctx, *grads)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or results[0].requires_grad:
            return results
        return _Refuse.apply(results[0], ctx.saved_tensors[0]), *results[1:]

    return guarded


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, source: Tensor) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("this function has a closed-form first derivative only (see once_differentiable in torch)")
