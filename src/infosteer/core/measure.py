"""What a session sums up at its sites: entropies, penalty values, and how much an edit changed.

Everything here runs without gradient and in chunks of rows, so that a measured step needs no second copy of k.

Shape letters: N rows, M memories, D hidden.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from infosteer.core.ledger import Call
from infosteer.core.surfaces import PenaltyMethod
from infosteer.errors import SiteError
from infosteer.models import Site, memory_vectors
from infosteer.ops.entropy import key_entropy

logger = logging.getLogger(__name__)

CHUNK_ROWS = 64
Sample = tuple[Tensor, Tensor, Tensor, Tensor]
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
    for rows in _chunks(before):
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
    for rows in _chunks(flat):
        add_penalty(call, index, coefficient, method.rows(flat[rows]), None if weight is None else weight[rows])


def add_penalty(call: Call, index: int, coefficient: float, values: Tensor, weight: Tensor | None) -> None:
    """Adds ``coefficient * sum of values (N,)`` over rows that carry loss to the call's sum of this penalty."""
    call.sums[f"penalty/{index}"] += coefficient * (values if weight is None else values * weight).sum()


@dataclasses.dataclass(kw_only=True)
class FirstBatch:
    """How much the edits of the first training batch changed, by layer."""

    mass: dict[int, float] = dataclasses.field(default_factory=dict)
    output: dict[int, float] = dataclasses.field(default_factory=dict)
    changed: bool = False
    _waiting: list[tuple[Site, Sample]] = dataclasses.field(default_factory=list)

    @torch.no_grad()
    def add(self, site: Site, before: Tensor, after: Tensor, weight: Tensor | None) -> None:
        """Share of the |k| mass that was overwritten, and relative change of the FFN output, on a sample of rows.

        Symbols: mass = sum_{j: k'_j != k_j} |k_j| / sum_j |k_j|; output = ||(k' - k) W_down||_F / ||k W_down||_F.
        """
        found = sample(before, after, weight)
        if torch.compiler.is_compiling():
            self._waiting.append((site, found))  # numbers are read when the graph has run
        else:
            self._judge(site, found)

    def _judge(self, site: Site, found: Sample) -> None:
        changed_at_all, kept, k0, k1 = found
        self.changed = self.changed or bool(changed_at_all)
        k0, k1 = k0[kept].float(), k1[kept].float()
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
        with torch.no_grad():
            while self._waiting:
                self._judge(*self._waiting.pop(0))
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


def sample(before: Tensor, after: Tensor, weight: Tensor | None) -> Sample:
    """Some rows of the coefficients before and after the edits, evenly from those of weight > 0, without asking the
    device for a number.

    Returns:
        Whether anything changed (0-dim bool); which of the rows that follow count (S,) bool; k and k' (S, M), S less
        than twice ``CHUNK_ROWS``.
    """
    width = before.shape[-1]
    k0, k1 = before.detach().reshape(-1, width), after.detach().reshape(-1, width)
    counted = torch.ones(k0.shape[0], dtype=torch.bool, device=k0.device) if weight is None else weight != 0
    order, count = torch.argsort(~counted, stable=True), counted.sum()
    places = torch.arange(min(2 * CHUNK_ROWS, k0.shape[0]), device=k0.device) * (count // CHUNK_ROWS).clamp(min=1)
    rows = order[places.clamp(max=max(k0.shape[0] - 1, 0))]
    return (before != after).any(), places < count, k0[rows], k1[rows]


def _chunks(rows: Tensor) -> Iterator[slice]:
    """Slices of so many rows as fit a cache; all in one where a compiler fuses what is done with them."""
    step = max(rows.shape[0], 1) if torch.compiler.is_compiling() else CHUNK_ROWS
    return (slice(start, start + step) for start in range(0, rows.shape[0], step))


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2%} to {max(values):.2%}" if values else "an unmeasured share"
