"""The edit itself, in place, with what is needed to take it back.

Legend: M memories (FFN width), D hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from infosteer.errors import ArchitectureError, AttachError
from infosteer.models import Site, is_adapted, key_degree, memory_axes
from infosteer.models.sites import RoleName

LARGEST = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Edit:
    """What was done to one parameter: its slices along ``axis`` at ``indices`` were multiplied by ``factors``."""

    name: str
    parameter: nn.Parameter
    axis: int
    indices: Tensor
    factors: Tensor


def scales(usage: Tensor, percentile: float = 50.0, q: float = 1.0, strength: float = 1.0) -> Tensor:
    """What the coefficient of each memory of a layer is to be multiplied by.

    Formula (Kim et al., arXiv 2410.01380, Algorithm 1): ``u_i = q mean(C) / C_i`` where ``C_i <= percentile(C)``, else
    1; clamped to 100; 1 where C_i = 0. At strength s: ``1 + s (u_i - 1)``.

    Args:
        usage: (M,) C, mean magnitudes of the coefficients on a text.

    Returns:
        (M,) float64.
    """
    used = usage.double()
    chosen = (used <= torch.quantile(used, percentile / 100)) & (used > 0)
    wanted = torch.where(chosen, q * used.mean() / used.clamp(min=torch.finfo(used.dtype).tiny), 1.0)
    return 1 + strength * (wanted.clamp(max=LARGEST) - 1)


@torch.no_grad()
def resuscitate(
    model: nn.Module,
    sites: Sequence[Site],
    usage: Mapping[int, Tensor],
    percentile: float = 50.0,
    q: float = 1.0,
    strength: float = 1.0,
    edit: RoleName = "keys",
) -> list[Edit]:
    """Multiplies, in place, what memory i has of its own in the role, so that its coefficient grows by ``scales``.

    Keys: the row of W_up with its bias (of a fused projection the half that is not gated); with squared ReLU the square
    root of the scale. Values: the row of W_down.

    Raises:
        ArchitectureError: a plain FFN whose activation does not let the scale through (GELU), with ``edit`` keys.
        AttachError: adapters on the projection.
    """
    done: list[Edit] = []
    plans = [(site, scales(usage[site.layer], percentile, q, strength), _power(model, site, edit)) for site in sites]
    for site, wanted, power in plans:
        factors = wanted**power
        indices = (factors != 1).nonzero()[:, 0]
        for name, parameter, axis, first in memory_axes(site, edit):
            made = Edit(
                name=name,
                parameter=parameter,
                axis=axis,
                indices=(indices + first).to(parameter.device),
                factors=factors[indices].to(parameter.device),
            )
            _multiply(made, made.factors)
            done.append(made)
    return done


@torch.no_grad()
def revert(edits: Sequence[Edit]) -> None:
    """Divides the edited slices by their factors: without training in between the old weights up to rounding; what was
    learnt since is divided too."""
    for made in edits:
        _multiply(made, 1 / made.factors)


def _multiply(made: Edit, factors: Tensor) -> None:
    shape = [1] * made.parameter.dim()
    shape[made.axis] = len(factors)
    part = made.parameter.index_select(made.axis, made.indices).double() * factors.view(shape)
    made.parameter.index_copy_(made.axis, made.indices, part.to(made.parameter.dtype))


def _power(model: nn.Module, site: Site, edit: RoleName) -> float:
    if is_adapted(site, edit):
        raise AttachError(
            "resuscitation edits weights that an adapter does not save",
            where=site.name,
            got=f"adapters on the {edit}",
            fix="train all weights, or leave this projection out of target_modules and save the edited base yourself",
        )
    if edit == "values":
        return 1.0
    degree = key_degree(model, site)
    if degree is None:
        raise ArchitectureError(
            "scaling the keys of this FFN does not scale its coefficients",
            where=site.name,
            got="a plain FFN whose activation is not homogeneous, such as GELU",
            expected="a gated FFN, or ReLU or squared ReLU",
            fix="set edit: values, which rescales the memory vectors instead",
        )
    return 1 / degree
