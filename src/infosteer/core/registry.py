"""Methods are folders: ``methods/<surface>/<name>/``. This module walks them; nothing is listed by hand.

A third party adds methods through the entry point group ``infosteer.methods``: the entry's name is
``<surface>/<name>``, its value the package that holds ``method.py``, ``card.md`` and ``recipe.yaml``.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.core.config import parse_yaml, suggestion
from infosteer.errors import ConfigError

ENTRY_POINTS = "infosteer.methods"
SURFACE_NAMES = ("interventions", "penalties", "losses", "params", "data", "probes")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodInfo:
    """Facts about one method folder, read from its place and the front matter of its card."""

    name: str
    surface: str
    title: str
    paper: str
    status: str
    summary: str
    folder: Path
    package: str

    @property
    def key(self) -> str:
        """``surface/name``, unique."""
        return f"{self.surface}/{self.name}"

    @property
    def card(self) -> Path:
        """The method's card."""
        return self.folder / "card.md"

    @property
    def recipe(self) -> Path:
        """The method's runnable setting."""
        return self.folder / "recipe.yaml"

    @property
    def cls(self) -> type[Any]:
        """The method's class; importing it brings in torch."""
        return method_class(self)

    @property
    def fields(self) -> dict[str, str]:
        """Setting -> help text."""
        return {field.name: field.metadata.get("help", "") for field in dataclasses.fields(self.cls) if field.init}


def list_methods(pattern: str = "*") -> list[str]:
    """Keys ``surface/name`` of the methods that match a shell pattern, sorted: ``list_methods("penalties/*")``."""
    if not isinstance(pattern, str):
        raise ConfigError("a pattern is text", got=pattern, expected="for example 'penalties/*'")
    return sorted(
        key for key in _methods() if fnmatch.fnmatch(key, pattern) or fnmatch.fnmatch(key.split("/")[1], pattern)
    )


def method_info(name: str) -> MethodInfo:
    """Facts about a method, by ``surface/name`` or by a name that only one surface has.

    Raises:
        ConfigError: an unknown name (the nearest is named) or one that several surfaces share (all are listed).
    """
    known = _methods()
    if not isinstance(name, str):
        raise ConfigError("a method's name is text", got=name, expected=", ".join(sorted(known)))
    if name in known:
        return known[name]
    matches = [key for key in known if key.split("/")[1] == name]
    if len(matches) == 1:
        return known[matches[0]]
    if matches:
        raise ConfigError(
            f"'{name}' names a method on several surfaces", got=name, expected=" | ".join(sorted(matches))
        )
    candidates = [*known, *(key.split("/")[1] for key in known)]
    raise ConfigError(
        f"unknown method '{name}'" + suggestion(name, candidates),
        got=name,
        expected=", ".join(sorted(known)),
        fix="list them with: infosteer ls",
    )


def build_method(config: Mapping[str, Any], where: str = "method") -> Any:
    """Builds a method from a recipe's mapping such as ``{"method": "key_lift", "fraction": 0.01}``.

    Raises:
        ConfigError: no ``method`` key, an unknown method or setting, a value that does not fit.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("method"), str):
        raise ConfigError(
            "a method is a mapping with the key 'method'",
            where=where,
            got=config,
            expected="for example {method: key_lift, fraction: 0.01}",
        )
    info = method_info(config["method"])
    settings = {str(key): value for key, value in config.items() if key != "method"}
    return info.cls.from_config(settings, where=f"{where} ({info.key})")


def describe_method(method: Any) -> dict[str, Any]:
    """The mapping that ``build_method`` turns back into an equal method."""
    surface, name = key_of(type(method)).split("/")
    alone = sum(key.split("/")[1] == name for key in _methods()) <= 1
    return {"method": name if alone else f"{surface}/{name}", **method.to_config()}


def key_of(cls: type[Any]) -> str:
    """``surface/name`` of a method class, from where it lives."""
    for key, info in _methods().items():
        if cls.__module__ in (info.package, f"{info.package}.method"):
            return key
    surface = next((base for base, kind in _surface_bases().items() if issubclass(cls, kind)), "unknown")
    return f"{surface}/{cls.label()}"


def method_class(info: MethodInfo) -> type[Any]:
    """The one class in the folder's ``method.py`` that derives from its surface's base.

    Raises:
        ConfigError: none, or more than one, or a surface whose contract this version does not have.
    """
    base = _surface_bases().get(info.surface)
    if base is None:
        raise ConfigError(
            f"methods on the surface '{info.surface}' cannot be run by this version",
            where=info.folder,
            got=info.surface,
            expected=", ".join(_surface_bases()),
        )
    module = importlib.import_module(f"{info.package}.method")
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, base) and cls.__module__ == module.__name__ and not inspect.isabstract(cls)
    ]
    if len(found) != 1:
        raise ConfigError(
            f"method.py must define exactly one class derived from {base.__name__}",
            where=info.folder,
            got=[cls.__name__ for cls in found],
        )
    return found[0]


def read_card(path: Path) -> tuple[dict[str, Any], str]:
    """Front matter and body of a card.

    Raises:
        ConfigError: no card, or one without the keys title, paper, status and summary.
    """
    if not path.is_file():
        raise ConfigError("a method folder needs a card", where=path)
    _, _, rest = path.read_text(encoding="utf-8").partition("---\n")
    head, mark, body = rest.partition("\n---\n")
    facts = parse_yaml(head, where=str(path)) if mark else None
    needed = ("title", "paper", "status", "summary")
    if not isinstance(facts, dict) or any(not isinstance(facts.get(key), str) for key in needed):
        raise ConfigError("a card begins with front matter", where=path, expected=f"text for {', '.join(needed)}")
    return facts, body


def _surface_bases() -> dict[str, type[Any]]:
    from infosteer.core.surfaces import SURFACES  # imports torch, which listing methods must not

    return SURFACES


@functools.cache
def _methods() -> dict[str, MethodInfo]:
    root = Path(__file__).resolve().parent.parent / "methods"
    found: dict[str, MethodInfo] = {}
    for surface in SURFACE_NAMES:
        for folder in sorted((root / surface).glob("*/")):
            if (folder / "method.py").is_file():
                _add(found, surface, folder.name, folder, f"infosteer.methods.{surface}.{folder.name}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        surface, _, name = entry.name.partition("/")
        spec = importlib.util.find_spec(entry.value)
        if surface not in SURFACE_NAMES or not name or spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                "an installed method's entry point cannot be used",
                where=f"entry point {entry.name} = {entry.value}",
                expected=f"<surface>/<name> = a package; surfaces: {', '.join(SURFACE_NAMES)}",
            )
        _add(found, surface, name, Path(next(iter(spec.submodule_search_locations))), entry.value)
    return found


def _add(found: dict[str, MethodInfo], surface: str, name: str, folder: Path, package: str) -> None:
    facts, _ = read_card(folder / "card.md")
    if f"{surface}/{name}" in found:
        raise ConfigError("two methods have the same name", where=folder, got=f"{surface}/{name}")
    found[f"{surface}/{name}"] = MethodInfo(
        name=name,
        surface=surface,
        title=facts["title"],
        paper=facts["paper"],
        status=facts["status"],
        summary=facts["summary"],
        folder=folder,
        package=package,
    )
