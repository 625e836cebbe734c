"""Writes requirements.lock from what is installed: ``python benchmarks/lock.py``, after the tests passed with it.

The lock holds the closure of the package's dependencies and its ``dev`` extra, markers evaluated here, without local
version tags (``2.13.0``, not ``2.13.0+cpu``), which other machines cannot find.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
HEADER = """\
# What `make` installs and CI tests: runtime and dev, exact versions, made by benchmarks/lock.py from a tested ./.venv.
# torch is installed first and on its own (see the Makefile), so that TORCH_INDEX_URL can choose its build.
"""


def wanted() -> list[Requirement]:
    """The requirements that pyproject.toml states: runtime, and the dev extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Canonical name -> installed version without local tag, of the roots and all that they require here.

    Raises: PackageNotFoundError for a requirement that is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = list(roots)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(name)
        found[name] = Version(distribution.version).public
        for line in distribution.requires or []:
            inner = Requirement(line)
            extras = {"", *requirement.extras}
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append(inner)
    return dict(sorted(found.items()))


def lock_text() -> str:
    """What the lock should say in this environment."""
    return HEADER + "".join(f"{name}=={version}\n" for name, version in closure(wanted()).items())


if __name__ == "__main__":
    LOCK.write_text(lock_text(), encoding="utf-8")
