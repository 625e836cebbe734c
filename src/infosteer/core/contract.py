"""What a method is: one dataclass (its configuration) that derives from the base of the surface it touches.

The six surfaces and their hooks are in :mod:`infosteer.core.surfaces`. Methods get tensors and a read-only context,
never the trainer. The surface is the parent folder's name and the name is the folder's own: neither is declared in the
code.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch

from infosteer.core.config import check_keys, check_settings, suggestion
from infosteer.core.schedule import Schedule, as_strength
from infosteer.errors import ConfigError
from infosteer.models import Site, select_layers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What a method may know about the moment.

    Attributes:
        layer: zero-based; the number of layers for what comes after the last one.
        step: optimizer steps done; None at a site within a compiled graph, which is the same in every step.
        strength: the method's effective strength, never 0; a 0-dim tensor within a compiled graph, where a schedule
            moves it and the method says that it takes one.
        keys: (N,) int64, one for every row of k flattened to (N, M): equal for equal text up to that row, new in every
            optimizer step; random numbers are drawn from it (:mod:`infosteer.ops.counter`). None where the method
            does not set ``random``.
        counted: (N,) bool, the rows that carry loss; None where the method does not ask for it
            (``InterventionMethod.selects``) or the model was called without labels: then every row counts.
        base_entropy: (N,) fp32, nats, how uncertain the model before training is of the token after each row; None
            where the method does not ask for it (``InterventionMethod.reads_base``).
        layers: all layers that an edit of states acts on; empty for all else.
        marks: (N,) fp32, what the method marked the tokens of these rows with (:mod:`infosteer.core.marks`); None where
            it marks none or the model was called without them, and for losses, which get those of the next token.
    """

    layer: int
    step: int | None
    strength: Any
    keys: torch.Tensor | None = None
    counted: torch.Tensor | None = None
    base_entropy: torch.Tensor | None = None
    layers: tuple[int, ...] = ()
    marks: torch.Tensor | None = None


@dataclasses.dataclass(kw_only=True)
class Method(abc.ABC):  # noqa: B024 - each surface adds its own abstract hook
    """Base of every method. ``strength`` scales whatever it does; 0 switches it off without taking it out."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    random: ClassVar[bool] = False  # whether its context must hold keys to draw from

    strength: float | Schedule = dataclasses.field(
        default=1.0, metadata={"help": "scales the effect; a number >= 0 or a schedule over steps"}
    )

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Refuses unknown settings with the nearest one named, as a recipe does."""
        if cls.__init__ is not object.__init__:
            check_keys(settings, [field.name for field in dataclasses.fields(cls) if field.init], cls.label())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self.strength = as_strength(self.strength)
        check_settings(self, self.label())

    @classmethod
    def label(cls) -> str:
        """The method's folder name, as recipes write it."""
        return cls.__module__.removesuffix(".method").rpartition(".")[2]

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """An instance with named settings, for example ``Intervention.preset("paper")``.

        Raises:
            ConfigError: a name that the class does not offer.
        """
        if not isinstance(name, str) or name not in cls.presets:
            raise ConfigError(
                f"{cls.__name__} has no preset '{name}'" + suggestion(name, cls.presets),
                where=cls.label(),
                got=name,
                expected=", ".join(cls.presets) or "no presets",
            )
        return cls(**{**cls.presets[name], **changes})

    @classmethod
    def from_config(cls, settings: Mapping[str, Any], where: str | None = None) -> Self:
        """Builds the method from a mapping; unknown keys are refused with the nearest one named.

        Raises:
            ConfigError: an unknown key, or a value that does not fit.
        """
        names = [field.name for field in dataclasses.fields(cls) if field.init]
        if not isinstance(settings, Mapping):
            raise ConfigError("settings are a mapping", where=where or cls.label(), got=settings)
        settings = dict(settings)
        chosen = settings.pop("preset", None)
        check_keys(settings, [*names, "preset"] if cls.presets else names, where or cls.label())
        return cls.preset(str(chosen), **settings) if chosen is not None else cls(**settings)

    def to_config(self) -> dict[str, Any]:
        """The settings as plain data; ``from_config`` gives an equal method back."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        if isinstance(self.strength, Schedule):
            config["strength"] = self.strength.to_config()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}

    def strength_at(self, step: int, total_steps: int | None) -> float:
        """Strength at an optimizer step; 0 for a method whose settings ask for nothing."""
        if self.idle:
            return 0.0
        return self.strength.at(step, total_steps) if isinstance(self.strength, Schedule) else float(self.strength)

    @property
    def idle(self) -> bool:
        """Whether the settings ask for no effect at all (fraction 0, weight 0)."""
        return False

    @property
    def off(self) -> bool:
        """Whether the method can never have an effect: idle, or strength 0 at every step."""
        ever = self.strength.ever_positive if isinstance(self.strength, Schedule) else float(self.strength) > 0
        return self.idle or not ever


@dataclasses.dataclass(kw_only=True)
class SiteMethod(Method):
    """A method that works on the key coefficients of chosen layers."""

    layers: str | Sequence[int] = dataclasses.field(
        default="all",
        metadata={"help": "all, early, middle, late, early+middle, 0-15, or a list of zero-based layers"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, Sequence) and not isinstance(self.layers, str):
            self.layers = list(self.layers)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """The sites of the chosen layers.

        Raises:
            ConfigError: layers that the model does not have.
        """
        chosen = set(select_layers(self.layers, len(sites)))
        return [site for index, site in enumerate(sites) if index in chosen]
