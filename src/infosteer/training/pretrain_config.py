"""Settings of pretraining, read from a recipe: those of the loop, and those of each half of the lab."""

from __future__ import annotations

import abc
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from infosteer.core.config import check_keys
from infosteer.errors import ConfigError
from infosteer.lab.facts import PEOPLE, WORLD_SEED
from infosteer.lab.reasoning import Settings
from infosteer.lab.tokenizer import VOCABULARY

_KINDS: Mapping[Any, tuple[Any, str]] = {  # a field's type -> what recipes may give for it, in Python and in words
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    str: (str, "text"),
    tuple: (list | tuple, "a list"),
    Mapping: (Mapping, "a mapping"),
    type(None): (type(None), "null"),
}
FAMILIES = ("llama", "gemma", "qwen2", "gpt2")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(abc.ABC):
    """Settings of ``train`` and ``data`` in a recipe of stage ``pretrain``; lengths in tokens, times in minutes.

    ``optimizer`` is "adamw", or "muon" for the matrices inside the layers and AdamW for the rest (needs torch 2.9).
    ``family`` is the transformers model type, ``architecture`` its configuration in that type's own names.
    The learning rate rises over ``warmup_steps``, stays, and falls linearly to 0 over the last ``decay_steps`` steps.
    """

    STAGE: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "learning_rate")

    seed: int = 1
    stages: tuple[Mapping[str, Any], ...] = ()
    warmup_steps: int = 100
    decay_steps: int = 1900
    optimizer: str = "adamw"
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    bf16: bool = True
    threads: int | None = None
    max_minutes: float | None = None
    logging_steps: int = 50
    save_steps: int = 250
    family: str = "llama"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    lab: str = ""

    def __post_init__(self) -> None:
        self._at_least_one("decay_steps")
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(
                "Unknown optimizer.", where="train.optimizer", got=self.optimizer, expected="adamw or muon"
            )
        if self.family not in FAMILIES:
            raise ConfigError(
                "Pretraining does not know this family.",
                where="train.family",
                got=self.family,
                expected=", ".join(FAMILIES),
            )
        if not self.stages:
            raise ConfigError("Pretraining needs at least one stage.", where="train.stages")
        for number, stage in enumerate(self.stages):
            where = f"train.stages[{number}]"
            if set(stage) != set(self.STAGE):
                raise ConfigError(
                    f"A stage has exactly {len(self.STAGE)} settings.",
                    where=where,
                    got=", ".join(stage),
                    expected=", ".join(self.STAGE),
                )
            for name in self.STAGE:
                if name != "operations":
                    whole = name not in ("learning_rate", "lab_share")
                    _check_kind(int if whole else float, stage[name], f"{where}.{name}")
            if min(stage["steps"], stage["batch_size"]) < 1:
                raise ConfigError("A stage's steps and batch_size are at least 1.", where=where, got=dict(stage))
            if not 0 < stage["learning_rate"] < float("inf"):
                raise ConfigError("The learning rate must be positive.", where=where, got=stage["learning_rate"])
            self.check_stage(stage, where)

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1.", got=getattr(self, name))

    def check_stage(self, stage: Mapping[str, Any], where: str) -> None:  # noqa: B027 - not every half asks more
        """What a half of the lab asks of a stage. Raises: ConfigError."""

    @property
    @abc.abstractmethod
    def context(self) -> int:
        """Longest sequence of the model, in tokens."""

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage["steps"] for stage in self.stages)

    def stage_at(self, step: int) -> int:
        """Index of the stage that a step belongs to."""
        for index, stage in enumerate(self.stages):
            step -= stage["steps"]
            if step < 0:
                return index
        return len(self.stages) - 1


@dataclass(frozen=True, kw_only=True)
class FactsConfig(PretrainConfig):
    """Biographies and general English.

    Each stage tells of the last ``people`` of the world in rows packed from ``lab_share`` biographies; the rest of the
    rows is general English. A stage about few people, told of often, is meant to let recall begin early.

    Every ``long_every``-th step trains on rows of ``long_length`` tokens (as many tokens in all), so that the model has
    seen all positions of its context.
    """

    STAGE: ClassVar[tuple[str, ...]] = ("steps", "people", "lab_share", "batch_size", "learning_rate")

    stages: tuple[Mapping[str, Any], ...] = (
        {"steps": 500, "people": PEOPLE, "lab_share": 0.55, "batch_size": 16, "learning_rate": 3e-3},
        {"steps": 120, "people": 100, "lab_share": 0.9, "batch_size": 8, "learning_rate": 3e-3},
        {"steps": 330, "people": PEOPLE, "lab_share": 0.55, "batch_size": 8, "learning_rate": 3e-3},
        {"steps": 1900, "people": PEOPLE, "lab_share": 0.7, "batch_size": 8, "learning_rate": 2e-3},
    )
    sequence_length: int = 256
    long_every: int = 12
    long_length: int = 1024
    people: int = PEOPLE
    world_seed: int = WORLD_SEED
    vocabulary: int = VOCABULARY
    tokenizer_rounds: int = 24
    recall_people: int = 250
    architecture: Mapping[str, Any] = field(
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
        self._at_least_one("sequence_length", "long_every", "long_length", "people", "vocabulary")
        super().__post_init__()

    def check_stage(self, stage: Mapping[str, Any], where: str) -> None:
        if not 1 <= stage["people"] <= self.people:
            raise ConfigError(
                "A stage's people are at least 1, and at most the world's.", where=where, got=stage["people"]
            )
        if not 0 <= stage["lab_share"] <= 1:
            raise ConfigError("lab_share is a share.", where=where, got=stage["lab_share"], expected="0 to 1")

    @property
    def context(self) -> int:
        return max(self.long_length, self.sequence_length)

    @property
    def tokens(self) -> int:
        """Tokens of all stages together."""
        return sum(stage["steps"] * stage["batch_size"] * self.sequence_length for stage in self.stages)

    def rows_at(self, step: int) -> tuple[int, int]:
        """Rows of a step, and their length in tokens."""
        length = self.long_length if (step + 1) % self.long_every == 0 else self.sequence_length
        return max(2, self.stages[self.stage_at(step)]["batch_size"] * self.sequence_length // length), length


@dataclass(frozen=True, kw_only=True)
class ReasoningConfig(PretrainConfig):
    """Word problems with their solutions, one a row; only the solutions carry loss.

    Each stage draws problems of ``operations`` [fewest, most] in the ``contexts``. A share ``rare_share`` of problems
    is of the ``rare_context`` instead, with one operation only, so that its words are known but not yet worked with; a
    share ``reverse`` of the others asks for an unknown.
    """

    STAGE: ClassVar[tuple[str, ...]] = ("steps", "operations", "batch_size", "learning_rate")

    stages: tuple[Mapping[str, Any], ...] = (
        {"steps": 250, "operations": [1, 1], "batch_size": 32, "learning_rate": 4e-3},
        {"steps": 50, "operations": [1, 2], "batch_size": 32, "learning_rate": 4e-3},
        {"steps": 5700, "operations": [1, 4], "batch_size": 32, "learning_rate": 4e-3},
    )
    context_length: int = 512
    optimizer: str = "muon"
    weight_decay: float = 0.01
    warmup_steps: int = 50
    decay_steps: int = 2500
    contexts: str = "AB"
    rare_context: str = "C"
    rare_share: float = 0.03
    reverse: float = 0.1
    distractors: int = 2
    test_problems: int = 100
    architecture: Mapping[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 128,
            "intermediate_size": 800,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        }
    )
    lab: str = "reasoning"

    def __post_init__(self) -> None:
        self._at_least_one("context_length", "test_problems")
        if not 0 <= self.rare_share <= 1:
            raise ConfigError("rare_share is a share.", where="data.rare_share", got=self.rare_share, expected="0 to 1")
        super().__post_init__()
        self.rare()

    def check_stage(self, stage: Mapping[str, Any], where: str) -> None:
        operations = stage["operations"]
        if not isinstance(operations, list | tuple) or [type(count) for count in operations] != [int, int]:
            raise ConfigError(
                "A stage's operations are the fewest and the most.", where=where, got=operations, expected="e.g. [1, 4]"
            )
        self.common(stage)

    @property
    def context(self) -> int:
        return self.context_length

    def common(self, stage: Mapping[str, Any]) -> Settings:
        """The problems of a stage, but for the rare ones."""
        low, high = stage["operations"]
        return Settings(
            operations=(low, high), contexts=self.contexts, reverse=self.reverse, distractors=self.distractors
        )

    def rare(self) -> Settings:
        """The problems of the rare context."""
        return Settings(operations=(1, 1), contexts=self.rare_context, distractors=self.distractors)


_LABS: Mapping[str, type[PretrainConfig]] = {"facts": FactsConfig, "reasoning": ReasoningConfig}


def config_from_recipe(recipe: Mapping[str, Any]) -> PretrainConfig:
    """Read ``train`` and ``data`` of a resolved recipe; ``data.lab`` says which half of the lab it is.

    Raises: ConfigError for an unknown key, naming the nearest, or an impossible value.
    """
    check_keys(recipe, ("name", "description", "train", "data"), "a recipe of stage pretrain")
    for section in ("train", "data"):
        _check_kind(Mapping[str, Any] | None, recipe.get(section), section)
    lab = (recipe.get("data") or {}).get("lab", "facts")
    if not isinstance(lab, str) or lab not in _LABS:
        raise ConfigError("Unknown world.", where="data.lab", got=lab, expected=" or ".join(_LABS))
    settings: dict[str, Any] = {}
    known = {name: hint for name, hint in get_type_hints(_LABS[lab]).items() if get_origin(hint) is not ClassVar}
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
            _check_kind(known[key], value, f"{section}.{key}")
            settings[key] = tuple(value) if isinstance(value, list) else value
    return _LABS[lab](**settings)


def _check_kind(hint: Any, value: object, where: str) -> None:
    """Refuses a value of another kind than a field's type, and of its items where they are all of one type."""
    found = []
    for option in get_args(hint) if get_origin(hint) is UnionType else (hint,):
        kind = get_origin(option) or option
        accepted, words = _KINDS[kind]
        if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
            if kind is tuple:
                for number, item in enumerate(value):  # type: ignore[arg-type]  # a list or tuple
                    _check_kind(get_args(option)[0], item, f"{where}[{number}]")
            return
        found.append(words)
    raise ConfigError("This setting is of another kind.", where=where, got=repr(value), expected=" or ".join(found))
