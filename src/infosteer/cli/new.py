"""``infosteer new``: a method folder that runs, to be changed into one's own."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer


def new(
    surface: Annotated[str, typer.Argument(help="interventions, penalties, losses, params, data or probes.")],
    name: Annotated[str, typer.Argument(help="The folder's and the method's name, such as key_noise.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to put it in [default: the package's own methods/SURFACE]."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the files made as JSON.")] = False,
) -> None:
    """Create a method's folder: code, card and recipe, working from the start and found without registration."""
    from infosteer.cli.console import print_json
    from infosteer.core.registry import SURFACE_NAMES, list_methods
    from infosteer.errors import ConfigError, RunError

    if surface not in SURFACE_NAMES:
        raise typer.BadParameter(f"{surface!r} is not a surface; there are {', '.join(SURFACE_NAMES)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise typer.BadParameter(f"{name!r} is not a lower-case name with underscores, such as key_noise")
    if f"{surface}/{name}" in list_methods():
        raise ConfigError("There is such a method already.", got=f"{surface}/{name}", fix="choose another name")
    inside = output is None
    parent = output if output is not None else Path(__file__).resolve().parents[1] / "methods" / surface
    if inside and "site-packages" in parent.parts:
        raise ConfigError(
            "The installed package is no place for your method.", fix="give --output DIR, a folder of your own package"
        )
    folder = parent / name
    if folder.exists():
        raise RunError("The folder exists already.", where=folder, fix="choose another name or --output")
    package = f"infosteer.methods.{surface}.{name}" if inside else name
    files = render(surface, name, package)
    try:
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError("The folder cannot be written.", where=folder, got=error.strerror or error) from error
    if json:
        print_json({"folder": str(folder), "files": sorted(files), "method": f"{surface}/{name}"})
        return
    typer.echo(f"made {folder}: {', '.join(files)}")
    if inside:
        typer.echo(
            f"found as {surface}/{name}; try: infosteer show {name}, then: python -m pytest tests/contract -k {name}"
        )
    else:
        typer.echo(
            "make it known to InfoSteer in your package's pyproject.toml:\n"
            f'[project.entry-points."infosteer.methods"]\n"{surface}/{name}" = "your_package.{name}"'
        )


def render(surface: str, name: str, package: str) -> dict[str, str]:
    """File name -> text of a new method's folder."""
    words = {
        "@name@": name,
        "@Class@": "".join(part.capitalize() for part in name.split("_")),
        "@title@": name.replace("_", " ").capitalize(),
        "@surface@": surface,
        "@package@": package,
    }
    folder = Path(__file__).resolve().parent / "skeleton"
    texts = {
        "__init__.py": folder / f"{surface}_init.txt",
        "method.py": folder / f"{surface}.txt",
        "card.md": folder / f"{surface}_card.txt",
        "recipe.yaml": folder / "recipe.txt",
    }
    rendered = {}
    for file, template in texts.items():
        text = template.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        rendered[file] = text
    return rendered
