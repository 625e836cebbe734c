"""GaLore (Zhao et al., arXiv 2403.03507, ICML 2024): moments in a low-rank projection of each gradient."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers.trainer_utils import check_target_module_exists

from infosteer.core.config import setting, suggestion
from infosteer.core.contract import SiteMethod
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.errors import AttachError, ConfigError
from infosteer.methods.params.galore.low_rank import LowRank, Settings
from infosteer.methods.params.galore.projection import MODES, SOLVERS, compresses, is_tensor
from infosteer.models import PARTS, Placed, place_parameters

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"


@dataclasses.dataclass(kw_only=True)
class GaLore(SiteMethod, ParamMethod):
    """All weights learn, but the optimizer sees each matrix's gradient through a basis of rank r.

    Formula, around the step of any optimizer, at a parameter's step t from 0: where t is a multiple of T, (P, Q) become
    the first r singular directions of the gradient G; the optimizer steps from 0 on ``R = P^T G Q^T``, which gives an
    update u of R's shape; ``W <- W + scale P u Q``, then ``W <- W - lr wd W``. One of P, Q is the identity, unless both
    sides are projected (``full``).

    Symbols: G (m, n); P (m, r); Q (r, n); T ``update_proj_gap``; wd the optimizer's decoupled weight decay (decay
    within the gradient is part of G).

    Raises:
        ConfigError: a value out of range, a strength that is neither 0 nor 1, parts or layers that do not exist.
        AttachError: no matrix that is larger than the rank, an optimizer that cannot step in the projection, or with
            ``per_layer`` a loop that needs all gradients at once.
        NoEffectError: at the first optimizer step, when nothing that would be projected is being trained.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"rank": 128, "update_proj_gap": 200, "scale": 0.25},
        "fine-tuning": {"rank": 4, "update_proj_gap": 500, "scale": 4.0},
    }

    rank: float = setting(0.25, "directions that are kept; below 1: share of the smaller dimension", low=1e-6)
    update_proj_gap: int = setting(200, "steps between two bases (T)", low=1)
    scale: float = setting(0.25, "what the update is multiplied by behind the projection (alpha)", low=0)
    proj_type: str = setting(
        "std", "which side is projected: std the smaller one, reverse_std the other", choices=MODES
    )
    parts: str | Sequence[str] = dataclasses.field(
        default=("attention", "ffn"),
        metadata={"help": f"parts whose matrices are projected: {', '.join(PARTS)}, as a list or joined by +"},
    )
    target_modules: str | Sequence[str] = dataclasses.field(
        default=(),
        metadata={
            "help": "instead of parts: pieces of module names, or one pattern for whole names, as Trainer has it"
        },
    )
    solver: str = setting("exact", "how bases are found: exact SVD, or a randomized one", choices=SOLVERS)
    rotate: bool = setting(False, "turn the first moment into a new basis instead of reading it in new coordinates")
    per_layer: bool = setting(False, "step each parameter within the backward pass and free its gradient")
    seed: int = setting(0, "of the randomized solver", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank >= 1 and self.rank != int(self.rank):
            raise ConfigError("a rank is a whole number, or a share below 1", where="galore.rank", got=self.rank)
        given = self.parts.split("+") if isinstance(self.parts, str) else self.parts
        self.parts = [part.strip() if isinstance(part, str) else part for part in given]
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(
                "unknown part of a model" + suggestion(str(unknown[0]), PARTS) if unknown else "no part is named",
                where="galore.parts",
                got=unknown or self.parts,
                expected=", ".join(PARTS),
            )
        named = [self.target_modules] if isinstance(self.target_modules, str) else list(self.target_modules)
        for piece in named:
            _check_pattern(piece)
        self.target_modules = self.target_modules if isinstance(self.target_modules, str) else named

    def rank_of(self, shape: Sequence[int]) -> int:
        """The rank for a parameter of this shape; a share is of a matrix's smaller dimension, or of a tensor's largest:
        dimensions below the rank stay whole."""
        size = max(shape) if is_tensor(shape) else min(shape[-2:])
        return int(self.rank) if self.rank >= 1 else max(1, round(self.rank * size))

    def wants(self, item: Placed) -> bool:
        """Whether a parameter is among those that are named."""
        if not self.target_modules:
            return bool(set(item.parts) & set(self.parts))
        if self.target_modules == ALL_LINEAR:
            return "embeddings" not in item.parts
        return bool(check_target_module_exists(self.target_modules, item.name.rpartition(".")[0]))

    def apply(self, target: ParamTarget) -> Handle:
        if target.fixed_strength != 1.0:
            raise ConfigError(
                "GaLore is on or off: moments of a shape in between do not exist",
                where="galore.strength",
                got=self.strength if target.fixed_strength is not None else "a schedule",
                expected="1, or 0 for the plain optimizer",
                fix="set scale for smaller or larger steps",
            )
        layers = {None, *(site.layer for site in self.select(target.sites))}
        wanted = [
            item
            for item in place_parameters(target.model, target.sites)
            if item.parameter.requires_grad and is_matrix(item) and item.layer in layers and self.wants(item)
        ]
        if self.target_modules and not wanted:
            raise ConfigError(
                "no trained matrix has such a name", where="galore.target_modules", got=self.target_modules
            )
        ranks = [(p, self.rank_of(p.shape)) for p in (item.parameter for item in wanted)]
        ranks = [(p, rank) for p, rank in ranks if compresses(p.shape, rank)]
        if wanted and not ranks:
            raise AttachError(
                "no trained matrix is larger than the rank",
                where="galore.rank",
                got=f"rank {self.rank:g}, matrices of {sorted({tuple(item.parameter.shape) for item in wanted})}",
                expected="a rank below the smaller dimension",
                fix="lower the rank, or train whole matrices instead of adapters",
            )
        logger.info("galore: %d of %d trained matrices are projected", len(ranks), len(wanted))
        return LowRank(
            ranks,
            Settings(
                proj_type=self.proj_type,
                update_proj_gap=self.update_proj_gap,
                scale=self.scale,
                solver=self.solver,
                rotate=self.rotate,
                seed=self.seed,
            ),
            trained=[p for p in target.model.parameters() if p.requires_grad],
            per_layer=self.per_layer,
        )


def is_matrix(item: Placed) -> bool:
    """Whether a parameter is a weight matrix, a stack of them (experts) or a tensor; biases of experts are none."""
    return item.parameter.dim() >= 2 and not item.name.rpartition(".")[2].endswith("bias")


def _check_pattern(piece: object) -> None:
    try:
        re.compile(piece)  # type: ignore[call-overload]  # what is no text is an error too
    except (re.error, TypeError) as error:
        raise ConfigError(
            f"these are no names of modules: {error}",
            where="galore.target_modules",
            got=piece,
            expected='["attn", "mlp"]',
        ) from error
