"""Recipe text with the line of every key, so that an error can point at it; core.config reads the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infosteer.core.config import parse_yaml
from infosteer.errors import ConfigError

MAX_BYTES = 1_000_000
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a mapping came from: a name to print, and the line of every key path that has one."""

    name: str
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def at(self, path: KeyPath) -> str:
        """``file.yaml:12, key train.learning_rate``, with the nearest line known."""
        place = self.name
        for cut in range(len(path), -1, -1):
            if path[:cut] in self.lines:
                place = f"{self.name}:{self.lines[path[:cut]]}"
                break
        return f"{place}, key {dotted(path)}" if path else self.name


def dotted(path: KeyPath) -> str:
    """``('arms', 'plain', 0, 'weight')`` as ``arms.plain[0].weight``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def read_recipe_file(path: Path) -> tuple[Any, Source]:
    """Plain data of a YAML file and where each key stands.

    Raises: ConfigError with file and line for anything that is not plain, bounded, UTF-8 YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("The recipe is not UTF-8 text.", where=path, expected="a YAML file") from None
    except OSError as error:
        raise ConfigError("The recipe cannot be read.", where=path, got=error.strerror or error) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError("The recipe is too large.", where=path, expected=f"<= {MAX_BYTES} bytes")
    return parse_recipe(text, str(path))


def parse_recipe(text: str, name: str) -> tuple[Any, Source]:
    """As ``read_recipe_file``, from text."""
    source = Source(name)
    try:
        data = parse_yaml(text, where=name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _note_lines(node, (), source.lines)
    except RecursionError:
        raise ConfigError("The recipe is nested too deeply.", where=name) from None
    return data, source


def _note_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            lines[here] = key.start_mark.line + 1
            _note_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _note_lines(value, (*path, index), lines)
