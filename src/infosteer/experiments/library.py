"""Where recipes are found, by path or by shipped name, and what one takes over from another with ``extends``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.core.config import nearest
from infosteer.errors import ConfigError
from infosteer.experiments.source import Source, read_recipe_file

_DEPTH = 8  # of recipes that extend one another; more is a mistake


def shipped_folder() -> Path:
    """Where shipped recipes lie: in the installed package, or in the repository of an editable install."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every shipped recipe; one in a folder is called ``folder/name``.

    Files whose name begins with an underscore are not recipes but what recipes extend.
    """
    root = shipped_folder()
    found = [path for path in sorted(root.rglob("*.yaml")) if not path.name.startswith("_")]
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in found}


def find_recipe(spec: str | Path) -> Path:
    """The file of a recipe given by path or by shipped name.

    Raises: ConfigError when there is neither, naming the nearest shipped recipe.
    """
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(spec) in shipped:
        return shipped[str(spec)]
    ends = {name.rpartition("/")[2]: name for name in shipped}
    close = nearest(str(spec), shipped) or nearest(path.stem, ends)
    raise ConfigError(
        "There is no such recipe.",
        where=spec,
        expected=f"a YAML file, or one of {', '.join(shipped) or 'no shipped recipes'}",
        fix=f"did you mean {ends.get(close, close)!r}?" if close else "list them with `infosteer ls --recipes`",
    )


def read_recipe(spec: str | Path) -> tuple[Any, Source, Path, str]:
    """Plain data of a recipe with all that it extends put in, its source, the folder of relative paths, and its name.

    Raises: ConfigError for a file that is missing or not plain YAML, and for ``extends`` in a circle.
    """
    path = find_recipe(spec)
    root = shipped_folder()
    shipped = path.resolve().is_relative_to(root.resolve())
    folder = root if shipped else path.resolve().parent
    name = path.resolve().relative_to(root.resolve()).with_suffix("").as_posix() if shipped else path.stem
    data, source = read_recipe_file(path)
    return _extended(data, source, path, ()), source, folder, name


def _extended(data: Any, source: Source, path: Path, below: tuple[Path, ...]) -> Any:
    """``data`` put over what it extends, mapping by mapping; a null takes a key away."""
    if not isinstance(data, Mapping) or "extends" not in data:
        return data
    here = (*below, path.resolve())
    base = data["extends"]
    if not isinstance(base, str) or not base:
        raise ConfigError(
            "extends names another recipe.",
            where=source.at(("extends",)),
            got=base,
            expected="a shipped recipe's name, or a file beside this one",
        )
    beside = path.parent / base
    found = beside if beside.is_file() else find_recipe(base)
    if found.resolve() in here or len(here) >= _DEPTH:
        raise ConfigError(
            "Recipes extend one another in a circle.",
            where=source.at(("extends",)),
            got=" -> ".join(one.name for one in (*here, found)),
        )
    below_data, below_source = read_recipe_file(found)
    lower = _extended(below_data, below_source, found, here)
    if not isinstance(lower, Mapping):
        raise ConfigError("A recipe is a mapping of keys to values.", where=found, got=type(lower).__name__)
    own = {key: value for key, value in data.items() if key != "extends"}
    return put_over({key: value for key, value in lower.items() if key not in ("name", "description")}, own)


def put_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` put in, mapping by mapping; a null takes a key away, anything else replaces it."""
    both = dict(base)
    for key, value in changes.items():
        if value is None:
            both.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(both.get(key), Mapping):
            both[key] = put_over(both[key], value)
        else:
            both[key] = value
    return both
