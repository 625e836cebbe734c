"""Settings of pretraining, read from a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from infosteer.errors import ConfigError
from infosteer.lab.facts import PEOPLE, WORLD_SEED
from infosteer.lab.tokenizer import VOCABULARY


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of ``train`` and ``data`` in a recipe of stage ``pretrain``; lengths in tokens, times in minutes.

    Every ``long_every``-th step trains on rows of ``long_length`` tokens (as many tokens in all), so that the model has
    seen all positions of its context. The learning rate rises over ``warmup_steps``, stays, and falls linearly to 0
    over the last ``decay_share`` of the steps.
    """

    seed: int = 1
    steps: int = 2750
    batch_size: int = 16
    sequence_length: int = 256
    long_every: int = 12
    long_length: int = 1024
    lab_share: float = 0.55
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.4
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    bf16: bool = True
    threads: int | None = None
    max_minutes: float | None = None
    logging_steps: int = 50
    save_steps: int = 250
    people: int = PEOPLE
    world_seed: int = WORLD_SEED
    vocabulary: int = VOCABULARY
    tokenizer_rounds: int = 24
    recall_people: int = 250
    architecture: Mapping[str, int] = field(
        default_factory=lambda: {
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
        }
    )
    lab: str = "facts"
    general_text: str | None = None
    general_files: tuple[str, ...] = ()
    general_megabytes_per_file: float = 5.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "long_every", "long_length", "people", "vocabulary"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1.", got=getattr(self, name))
        for name in ("lab_share", "decay_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share.", where=name, got=getattr(self, name), expected="0 to 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(
                "The learning rate must be positive.", where="train.learning_rate", got=self.learning_rate
            )
        if self.lab != "facts":
            raise ConfigError("Unknown world.", where="data.lab", got=self.lab, expected="facts")


def config_from_recipe(recipe: Mapping[str, Any]) -> PretrainConfig:
    """Read ``train`` and ``data`` of a resolved recipe; raises ConfigError for an unknown key, naming the nearest."""
    settings: dict[str, Any] = {}
    known = {f.name for f in fields(PretrainConfig)}
    for section in ("train", "data"):
        for key, value in (recipe.get(section) or {}).items():
            if section == "train" and key in ("stage", "output_dir"):
                continue
            if key not in known:
                near = difflib.get_close_matches(key, sorted(known), n=1)
                raise ConfigError(
                    "Unknown setting of pretraining.",
                    where=f"{section}.{key}",
                    got=key,
                    expected=", ".join(sorted(known)),
                    fix=f"did you mean {near[0]}?" if near else None,
                )
            settings[key] = tuple(value) if isinstance(value, list) else value
    return PretrainConfig(**settings)
