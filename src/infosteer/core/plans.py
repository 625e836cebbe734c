"""What happens at each site, worked out once when steering begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from infosteer.core.contract import Method
from infosteer.core.ledger import Call
from infosteer.core.surfaces import InterventionMethod, Observer, PenaltyMethod, ProbeMethod
from infosteer.errors import AttachError, SiteError
from infosteer.models import Site
from infosteer.models.walk import base_linear


@dataclasses.dataclass(kw_only=True, eq=False)
class SitePlan:
    """What happens at one site: edits, observers, then penalties with their coefficient, by index of the method."""

    site: Site
    edits: list[tuple[int, InterventionMethod]] = dataclasses.field(default_factory=list)
    observers: list[tuple[int, Observer]] = dataclasses.field(default_factory=list)
    penalties: list[tuple[int, PenaltyMethod, float]] = dataclasses.field(default_factory=list)

    @property
    def shields(self) -> bool:
        """Whether an edit here holds the memory vectors constant that it edits the coefficients of."""
        return any(method.shields for _, method in self.edits)

    @property
    def fusible(self) -> bool:
        """Whether a kernel may do all of it inside the gated activation: one edit, one penalty, or one of each."""
        edits, penalties = self.edits, self.penalties
        return (
            not self.shields
            and len(edits) + len(penalties) > 0
            and len(edits) <= 1
            and len(penalties) <= 1
            and all(method.edit_gated is not None for _, method in edits)
            and all(method.entropy_normalization is not None for _, method, _ in penalties)
        )


def make_plans(methods: Sequence[Method], sites: Sequence[Site], observers: Mapping[int, Observer]) -> list[SitePlan]:
    """Plans of the sites where something happens; of all sites, to be measured, where nothing happens at any.

    Raises:
        ConfigError: layers that the model does not have.
        AttachError: a shield around a projection with adapters.
    """
    plans = {site.layer: SitePlan(site=site) for site in sites}
    for index, method in enumerate(methods):
        if isinstance(method, InterventionMethod):
            if method.edits_states:
                continue
            for site in method.select(sites):
                plans[site.layer].edits.append((index, method))
                if method.shields and base_linear(site.module) is not site.module:
                    raise AttachError(
                        "memory vectors cannot be shielded where an adapter sits on the down projection",
                        where=site.name,
                        got=type(site.module).__name__,
                        fix="leave down projections out of the adapter's target_modules",
                    )
        elif isinstance(method, PenaltyMethod):
            chosen = method.select(sites)
            for site in chosen:
                coefficient = method.coefficient(len(chosen), site.width)
                plans[site.layer].penalties.append((index, method, coefficient))
        elif isinstance(method, ProbeMethod) and index in observers:
            for site in method.select(sites):
                plans[site.layer].observers.append((index, observers[index]))
    busy = [plan for plan in plans.values() if plan.edits or plan.penalties or plan.observers]
    return busy or list(plans.values())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StateEdit:
    """An edit of what layers put out: number of the method, and the layers that it acts on."""

    index: int
    method: InterventionMethod
    layers: tuple[int, ...]


def state_edits(methods: Sequence[Method], sites: Sequence[Site]) -> dict[int, list[StateEdit]]:
    """Layer -> edits of its output, in recipe order.

    Raises:
        ConfigError: layers that the model does not have.
    """
    found: dict[int, list[StateEdit]] = {}
    for index, method in enumerate(methods):
        if isinstance(method, InterventionMethod) and method.edits_states and not method.off:
            layers = tuple(site.layer for site in method.select(sites))
            for layer in layers:
                found.setdefault(layer, []).append(StateEdit(index=index, method=method, layers=layers))
    return found


def refuse_silent(plans: Sequence[SitePlan], call: Call) -> None:
    """Refuses a finished training call in which a site did not fire.

    Raises:
        SiteError: naming the sites.
    """
    silent = [plan.site.name for plan in plans if call.fired[plan.site.layer] == 0 and not call.compiled]
    if silent:
        raise SiteError(
            "sites that fired when steering began are silent now",
            where=", ".join(silent[:4]) + (" ..." if len(silent) > 4 else ""),
            got=f"{len(silent)} of {len(plans)} sites did not fire in a training forward",
            fix="attach after PEFT and kernel patches, before torch.compile; take fused MLP kernels off",
        )


def edits_training(methods: Sequence[Method], strengths: Sequence[float]) -> bool:
    """Whether any method with an effective strength edits training forwards."""
    return any(
        strength != 0 and isinstance(method, InterventionMethod) and method.scope != "evaluation"
        for strength, method in zip(strengths, methods, strict=True)
    )
