"""``infosteer show``: the card of a method or a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import typer


def show(
    method: Annotated[
        str, typer.Argument(help="Name, or surface/name, as `infosteer ls` prints it; or a task, as `ls tasks` does.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print facts and settings as JSON.")] = False,
    recipe: Annotated[bool, typer.Option("--recipe", help="Print the method's recipe instead.")] = False,
) -> None:
    """Show what a method does, its formula, settings and measured effect; or what a task asks, and its pitfalls."""
    from infosteer.core.registry import method_info, read_card
    from infosteer.errors import ConfigError

    try:
        info = method_info(method)
    except ConfigError:
        task = None if recipe else _task(method)
        if task is None:
            raise
        _print(*task, json)
        return
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
        from infosteer.cli.console import print_json

        print_json({"name": info.key, **facts, "settings": settings, "card": str(info.card)})
        return
    _print({"method": info.key, **facts}, body, json)


def _print(facts: Mapping[str, object], body: str, json: bool) -> None:
    from rich.markdown import Markdown
    from rich.table import Table

    from infosteer.cli.console import make_console, print_json

    if json:
        print_json(dict(facts))
        return
    console = make_console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts.items():
        table.add_row(str(name), str(value))
    console.print(table)
    console.print(Markdown(body))


def _task(name: str) -> tuple[dict[str, object], str] | None:
    """Facts and card of a task, or None where there is none of this name."""
    from infosteer.errors import ConfigError
    from infosteer.evaluation.tasks import task_info

    try:
        info = task_info(name)
    except ConfigError:
        return None
    facts: dict[str, object] = {
        "task": info.name,
        "title": info.title,
        "about": info.about,
        "group": info.folder,
        "source": info.source,
        "licence": info.licence,
        "rows": info.rows,
        "chance": info.chance,
        "scoring": info.scoring,
        "local data": info.local,
        "hub": " ".join(part for part in (info.hub.get("path"), info.hub.get("name"), info.hub.get("test")) if part),
        "under lm-eval": info.lm_eval_name,
        "card": str(info.card),
    }
    return facts, info.card.read_text(encoding="utf-8")


def _default(field: dataclasses.Field[object]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
