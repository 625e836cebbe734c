"""``infosteer show``: a method's card."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer


def show(
    method: Annotated[str, typer.Argument(help="Name, or surface/name, as `infosteer ls` prints it.")],
    json: Annotated[bool, typer.Option("--json", help="Print facts and settings as JSON.")] = False,
    recipe: Annotated[bool, typer.Option("--recipe", help="Print the method's recipe instead.")] = False,
) -> None:
    """Show what a method does, its formula, settings and measured effect."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.core.registry import method_info, read_card

    info = method_info(method)
    if recipe:
        typer.echo(info.recipe.read_text(encoding="utf-8"), nl=False)
        return
    facts, body = read_card(info.card)
    if json:
        settings = {
            field.name: {"default": _default(field), "help": field.metadata.get("help", "")}
            for field in dataclasses.fields(info.cls)
            if field.init
        }
        print_json({"name": info.key, **facts, "settings": settings, "card": str(info.card)})
        return
    from rich.markdown import Markdown
    from rich.table import Table

    console = make_console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in {"method": info.key, **facts}.items():
        table.add_row(str(name), str(value))
    console.print(table)
    console.print(Markdown(body))


def _default(field: dataclasses.Field[object]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
