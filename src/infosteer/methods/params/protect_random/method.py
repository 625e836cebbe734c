"""Control of protection: random weights frozen, as many as freezing the FFN would freeze."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import SiteMethod
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.core.updates import ScaledUpdates, Share
from infosteer.errors import ConfigError
from infosteer.models import Site, parameters_of, place_parameters

logger = logging.getLogger(__name__)
ROLES = ("values", "keys", "gates")


@dataclasses.dataclass(kw_only=True)
class ProtectRandom(SiteMethod, ParamMethod):
    """Freezes n single weights drawn at random, n the number of weights that freezing the FFN roles would freeze.

    Formula: ``w <- w_before + (1 - s z) (w_step - w_before)`` after every optimizer step, z in {0, 1} with exactly n
    ones, spread over the parameters in proportion to their sizes; s strength.

    Raises:
        ConfigError: fewer trained weights than n to draw from, or layers that do not exist.
        NoEffectError: at the first optimizer step, when the FFN roles have no trained weight (n = 0).
    """

    values: bool = setting(True, "count W_down")
    keys: bool = setting(True, "count W_up (W_in in a plain FFN)")
    gates: bool = setting(True, "count W_gate")
    among: str = setting("all", "draw from all weights, or from those outside the FFN", choices=("all", "other"))
    seed: int = setting(0, "which weights are drawn", low=0, high=2**63 - 1)

    @property
    def idle(self) -> bool:
        return not (self.values or self.keys or self.gates)

    def apply(self, target: ParamTarget) -> Handle:
        count = count_of(self.select(target.sites), [role for role in ROLES if getattr(self, role)])
        drawn = [
            item
            for item in place_parameters(target.model, target.sites)
            if item.parameter.requires_grad and (self.among == "all" or "ffn" not in item.parts)
        ]
        available = sum(item.parameter.numel() for item in drawn)
        if count > available:
            raise ConfigError(
                "there are not as many other weights as freezing the FFN would freeze",
                where="protect_random.among",
                got=f"{available:,} trained weights outside the FFN, {count:,} in the roles and layers",
                fix="draw among: all, or name fewer roles or layers",
            )
        counts = _spread(count, [item.parameter.numel() for item in drawn])
        generator = torch.Generator().manual_seed(self.seed)
        shares = [
            Share(
                name=item.name,
                parameter=item.parameter,
                factor=~random_mask(tuple(item.parameter.shape), frozen, generator).to(item.parameter.device),
            )
            for item, frozen in zip(drawn, counts, strict=True)
            if frozen
        ]
        logger.info("protect_random: %d of %d trained weights are frozen", count, available)
        return ScaledUpdates(shares, fixed_strength=target.fixed_strength)


def random_mask(shape: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """A mask of the shape with exactly ``count`` entries True, every choice of entries equally likely."""
    mask = torch.zeros(torch.Size(shape).numel(), dtype=torch.bool)
    mask[torch.randperm(len(mask), generator=generator)[:count]] = True
    return mask.view(*shape)


def count_of(sites: Sequence[Site], roles: Sequence[str]) -> int:
    """Trained weights that belong to the roles; what a fused projection's halves share counts if both are named."""
    total = 0
    shared: dict[int, tuple[int, bool]] = {}
    for site in sites:
        for name, found in site.roles.items():
            for _, parameter, dim, rows in (entry for role in found for entry in parameters_of(role)):
                if not parameter.requires_grad:
                    continue
                if dim is not None and rows is not None:
                    start, stop, _ = rows.indices(parameter.shape[dim])
                    part = parameter.numel() // parameter.shape[dim] * (stop - start)
                    total += part if name in roles else 0
                else:
                    _, wanted = shared.get(id(parameter), (0, True))
                    shared[id(parameter)] = parameter.numel(), wanted and name in roles
    return total + sum(size for size, wanted in shared.values() if wanted)


def _spread(count: int, sizes: Sequence[int]) -> list[int]:
    """Whole shares of ``count`` in proportion to sizes that sum up to it; the largest remainders are rounded up."""
    total = max(sum(sizes), 1)
    counts = [count * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(count * sizes[i] % total))
    for index in by_remainder[: count - sum(counts)]:
        counts[index] += 1
    return counts
