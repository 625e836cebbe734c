"""What a session sums up at its sites: entropies, penalty values, and how much an edit changed.

Everything here runs without gradient and in chunks of rows, so that a measured step needs no second copy of k.

Shape letters: N rows, M memories, D hidden.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from infosteer.core.ledger import Call
from infosteer.core.surfaces import PenaltyMethod
from infosteer.errors import SiteError
from infosteer.models import Site, memory_vectors
from infosteer.ops.entropy import key_entropy

logger = logging.getLogger(__name__)

CHUNK_ROWS = 64
# An edit that overwrites more of the |k| mass, or moves the FFN output further than this, is no longer minor.
LARGE_CHANGE = 0.10


@torch.no_grad()
def measure_site(call: Call, site: Site, before: Tensor, after: Tensor, weight: Tensor | None) -> None:
    """Adds one site's sums to the call: entropy by layer, |change| of k, and share of coefficients that changed sign.

    Symbols: over the rows t that carry loss, ``entropy/i``: sum_t H(k'_t); ``change``: sum_t mean_j |k'_tj - k_tj|;
    ``signs``: sum_t share_j [sign k'_tj != sign k_tj]; ``sites``: number of measured sites.
    """
    width, edited = before.shape[-1], before is not after
    before, after = before.detach().reshape(-1, width), after.detach().reshape(-1, width)
    for start in range(0, before.shape[0], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        k0, k1 = before[rows].float(), after[rows].float()
        w = torch.ones(k0.shape[0], device=k0.device) if weight is None else weight[rows]
        call.sums[f"entropy/{site.layer}"] += (key_entropy(k1) * w).sum()
        if edited:
            call.sums["change"] += ((k1 - k0).abs().mean(-1) * w).sum()
            call.sums["signs"] += (((k1 < 0) != (k0 < 0)).float().mean(-1) * w).sum()
    call.sums["sites"] += 1


@torch.no_grad()
def measure_penalty(
    call: Call, index: int, method: PenaltyMethod, coefficient: float, k: Tensor, weight: Tensor | None
) -> None:
    """Adds ``coefficient * sum over rows that carry loss of rows(k)`` to the call's sum of this penalty."""
    flat = k.detach().reshape(-1, k.shape[-1])
    for start in range(0, flat.shape[0], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        values = method.rows(flat[rows])
        call.sums[f"penalty/{index}"] += coefficient * (values if weight is None else values * weight[rows]).sum()


@dataclasses.dataclass(kw_only=True)
class FirstBatch:
    """How much the edits of the first training batch changed, by layer."""

    mass: dict[int, float] = dataclasses.field(default_factory=dict)
    output: dict[int, float] = dataclasses.field(default_factory=dict)
    changed: bool = False

    @torch.no_grad()
    def add(self, site: Site, before: Tensor, after: Tensor, weight: Tensor | None) -> None:
        """Share of the |k| mass that was overwritten, and relative change of the FFN output, on a sample of rows.

        Symbols: mass = sum_{j: k'_j != k_j} |k_j| / sum_j |k_j|; output = ||(k' - k) W_down||_F / ||k W_down||_F.
        """
        self.changed = self.changed or not torch.equal(before, after)
        width = before.shape[-1]
        k0, k1 = before.detach().reshape(-1, width), after.detach().reshape(-1, width)
        if weight is not None:
            kept = weight.nonzero().squeeze(-1)
            k0, k1 = k0[kept], k1[kept]
        stride = max(1, k0.shape[0] // CHUNK_ROWS)
        k0, k1 = k0[::stride].float(), k1[::stride].float()
        changed = (k0 != k1) & ~(k0.isnan() & k1.isnan())
        total = k0.abs().sum()
        self.mass[site.layer] = float(k0.abs().mul(changed).sum() / total) if total > 0 else float(changed.any())
        if not changed.any():
            self.output[site.layer] = 0.0
            return
        try:
            values = memory_vectors(site).float()
        except SiteError as error:  # sharded or quantised weights: the mass alone is reported
            logger.info("the change of the FFN output of layer %d is not measured: %s", site.layer, error.what)
            return
        plain = (k0 @ values).norm()
        self.output[site.layer] = float(((k1 - k0) @ values).norm() / plain) if plain > 0 else float("inf")

    @torch.no_grad()
    def add_states(self, before: Tensor, after: Tensor) -> None:
        """Edits of what layers put out are meant to be large: whether they changed anything is all that is kept."""
        self.changed = self.changed or not torch.equal(before, after)

    def report(self) -> None:
        """Logs both shares, with a warning where they are large; nothing where no coefficient was edited."""
        if not self.mass:
            return
        mass, output = _span(list(self.mass.values())), _span(list(self.output.values()))
        logger.info("first batch: edits overwrote %s of the |k| mass and moved FFN outputs by %s", mass, output)
        if max([*self.mass.values(), *self.output.values()], default=0.0) > LARGE_CHANGE:
            logger.warning(
                "the interventions are not minor: on the first batch they overwrote %s of the |k| mass and moved the "
                "FFN outputs by %s (by layer, smallest to largest). In gated FFNs order='signed' picks large negative "
                "coefficients; order='magnitude' picks the small ones.",
                mass,
                output,
            )


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2%} to {max(values):.2%}" if values else "an unmeasured share"
