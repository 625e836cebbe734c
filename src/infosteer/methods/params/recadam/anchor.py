"""The weights that RecAdam pulls to, where they are not the model's own: read from a saved model by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from infosteer.errors import ConfigError

_WHERE = "recadam.anchor"


def read_anchor(folder: str, named: Sequence[tuple[str, nn.Parameter]]) -> list[Tensor]:
    """The weights of these names in a saved model, in the parameters' types and on their devices.

    Args:
        folder: holds ``model.safetensors``, or its index and shards.

    Raises:
        ConfigError: no such file, names that it lacks, other shapes.
    """
    places = dict(_places(Path(folder).expanduser()))
    missing = [name for name, _ in named if name not in places]
    if missing:
        raise ConfigError(
            "the saved model lacks weights that would be pulled to it",
            where=_WHERE,
            got=f"{len(missing)} of {len(named)} are missing, first {missing[0]}",
            expected="a model of the same architecture; of adapters the start is the anchor",
            fix="name new parts in unanchored",
        )
    found = []
    for name, parameter in named:
        with safe_open(places[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        if tensor.shape != parameter.shape:
            raise ConfigError(
                "a weight of the saved model has another shape",
                where=f"{_WHERE}, {name}",
                got=tuple(tensor.shape),
                expected=tuple(parameter.shape),
            )
        found.append(tensor.to(parameter))
    return found


def _places(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name of a weight and the file that holds it."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
                yield name, folder / Path(file).name
            return
        with safe_open(whole, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, whole
    except (OSError, SafetensorError, KeyError, AttributeError, ValueError) as error:
        raise ConfigError(
            "the anchor is no saved model",
            where=_WHERE,
            got=f"{folder}: {error}",
            expected="a folder with model.safetensors, or with its index and shards",
        ) from error
