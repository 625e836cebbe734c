"""Grafting after training (Panigrahi et al., arXiv 2302.06600, ICML 2023): keep the weights that carry the skill."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from infosteer.core.config import setting, suggestion
from infosteer.core.contract import SiteMethod
from infosteer.core.hooks import adapter_layers
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.errors import AttachError, ConfigError
from infosteer.methods.params.grafting.graft import KINDS, Graft, graft, set_weights
from infosteer.methods.params.grafting.learn import OPTIMIZERS, ROUNDINGS, Search
from infosteer.models import PARTS, place_parameters

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class Grafting(SiteMethod, ParamMethod):
    """When training ends, puts all trained weights back but a share ``density``, chosen so that the task is kept.

    Formula: ``theta <- gamma theta_1 + (1 - gamma) ((1 - s) theta_1 + s theta_0)``, gamma in {0, 1}.

    Symbols: theta_0 the weights when steering began, theta_1 those at the end; s strength at the last step; gamma from
    :func:`graft`, learnt on rows of the training data.

    Raises:
        ConfigError: a value out of range, parts or layers that do not exist; at the start, no batches of the task.
        AttachError: a model with adapters, whose factors are no weights of the model.
        NoEffectError: at the first optimizer step, when nothing of it is being trained.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"density": 1e-5, "optimizer": "sgd", "rate": 1e7, "bias": 10.0, "batches": 128, "accumulate": 0}
    }

    density: float = setting(
        0.01, "share of the trained weights in the mask that the search begins with", low=0, high=1
    )
    mask: str = setting("learned", "which: learned, or without a search movement, random, magnitude", choices=KINDS)
    inverted: bool = setting(False, "keep everything but the mask")
    parts: str | Sequence[str] = dataclasses.field(
        default=("attention", "ffn", "norms"),
        metadata={"help": f"parts that may be grafted: {', '.join(PARTS)}; the others keep what they learnt"},
    )
    epochs: int = setting(10, "rounds of the search over its batches", low=0)
    batches: int = setting(16, "batches of training rows that it sees", low=1)
    held_out: float = setting(0.25, "share of them that only chooses between epochs", low=0, high=0.9)
    rate: float = setting(1.0, "step size of the search", low=0)
    optimizer: str = setting(
        "ranked", "of the search: descent in units of its own, adam, or plain sgd", choices=OPTIMIZERS
    )
    strongest: float = setting(0.05, "ranked: entries that move by the whole rate, as a share of the base mask", low=0)
    bias: float = setting(5.0, "how sure the first mask is of the base mask: its flips have sigma(-bias)", low=0)
    accumulate: int = setting(1, "batches for one step of the search; 0 for all", low=0)
    l1: float = setting(0.0, "weight of the mean of gamma in the search's loss", low=0)
    rounding: str = setting("threshold", "gamma > 1/2, or a budget: as many as the base mask has", choices=ROUNDINGS)
    keep: str = setting("model", "where theta_0 is kept: on the model's devices, or the cpu", choices=("model", "cpu"))
    seed: int = setting(0, "of the search's start and of a random mask", low=0, high=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.parts.split("+") if isinstance(self.parts, str) else self.parts
        self.parts = [part.strip() if isinstance(part, str) else part for part in given]
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(
                "unknown part of a model" + suggestion(str(unknown[0]), PARTS) if unknown else "no part is named",
                where="grafting.parts",
                got=unknown or self.parts,
                expected=", ".join(PARTS),
            )

    @property
    def search(self) -> Search:
        """The settings of the search."""
        return Search(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Search)})

    @property
    def idle(self) -> bool:
        return self.density == 1 and self.mask != "learned" and not self.inverted

    def apply(self, target: ParamTarget) -> Handle:
        if adapter_layers(target.model):
            raise AttachError(
                "grafting needs the weights themselves, not an adapter's factors",
                where="grafting",
                fix="merge the adapter (merge_and_unload) and call infosteer.methods.params.grafting.graft",
            )
        if self.mask == "learned":
            target.task(1)  # an error now rather than when training has ended
        layers = {None, *(site.layer for site in self.select(target.sites))}
        chosen = {
            item.name: item.parameter
            for item in place_parameters(target.model, target.sites)
            if item.parameter.requires_grad and item.layer in layers and set(item.parts) & set(self.parts)
        }
        return Grafted(target.model, chosen, self, target.task)


class Grafted(Handle):
    """Holds theta_0 until the end."""

    def __init__(
        self,
        model: nn.Module,
        chosen: Mapping[str, nn.Parameter],
        settings: Grafting,
        task: Callable[[int], Sequence[Mapping[str, Any]]],
    ) -> None:
        self.model, self.chosen, self.settings, self.task = model, dict(chosen), settings, task
        self.start: dict[str, Tensor] = {name: _kept(p, settings.keep) for name, p in chosen.items()}
        self.result: Graft | None = None
        self._stepped = False

    def parameters(self) -> list[nn.Parameter]:
        return list(self.chosen.values())

    def before_step(self, strength: float) -> None:
        self._stepped = True

    def after_step(self, strength: float) -> None:
        """Nothing: all happens at the end."""

    def finish(self, strength: float) -> None:
        self._stepped = False
        if strength == 0:
            return
        settings = self.settings
        trained = {name: p.detach().clone() for name, p in self.chosen.items()}
        batches = self.task(settings.batches) if settings.mask == "learned" else []
        held = min(round(settings.held_out * len(batches)), max(len(batches) - 1, 0))
        self.result = graft(
            self.model,
            self.start,
            trained,
            batches[: len(batches) - held],
            held_out=batches[len(batches) - held :],
            density=settings.density,
            mask=settings.mask,
            inverted=settings.inverted,
            search=settings.search,
            seed=settings.seed,
        )
        if strength != 1:
            set_weights(self.model, self.start, trained, self.result.mask, strength)
        logger.info("grafting: %.4g of the weights keep what they learnt", self.result.density)
        self.start = {}

    def undo(self) -> None:
        if self._stepped:
            logger.warning("grafting: the session ends without session.finish(); nothing is grafted")
        self.chosen, self.start = {}, {}

    def touched(self) -> bool:
        return bool(self.chosen)

    def metrics(self) -> dict[str, float]:
        """Once training has ended: ``density`` of the graft, and what its search gained over the base mask."""
        if self.result is None:
            return {}
        scores = [entry["score"] for entry in self.result.history]
        gained = {"gained": max(scores) - scores[0]} if scores else {}
        return {"density": self.result.density, **gained}


@torch.no_grad()
def _kept(parameter: nn.Parameter, keep: str) -> Tensor:
    found = parameter.detach()
    return found.to("cpu", copy=True) if keep == "cpu" else found.clone()
