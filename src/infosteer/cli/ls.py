"""``infosteer ls``: which methods, recipes and evaluation sets there are."""

from __future__ import annotations

from typing import Annotated

import typer


def ls(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, e.g. 'penalties/*'; or 'tasks'.")] = "*",
    recipes: Annotated[bool, typer.Option("--recipes", help="List shipped recipes instead of methods.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List methods by surface and name, the shipped recipes, or ('tasks') what models can be evaluated on."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.core.config import nearest
    from infosteer.errors import ConfigError

    rows = _tasks() if pattern == "tasks" else _recipes(pattern) if recipes else _methods(pattern)
    if not rows and pattern != "*":
        known = [row["name"] for row in (_recipes("*") if recipes else _methods("*"))]
        close = nearest(pattern, [*known, *(name.split("/")[-1] for name in known)])
        raise ConfigError(
            f"No {'recipe' if recipes else 'method'} matches this pattern.",
            got=pattern,
            expected=", ".join(known),
            fix=f"did you mean {close!r}?" if close else None,
        )
    if json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in rows[0] if rows else ["name"]:
        table.add_column(heading, no_wrap=heading == "name")
    for row in rows:
        table.add_row(*map(str, row.values()))
    make_console().print(table)


def _tasks() -> list[dict[str, object]]:
    """Tasks, groups of tasks, and data sets of the lab."""
    from infosteer.evaluation.tasks import expand, group_info, list_groups, list_tasks, task_info
    from infosteer.lab.catalogue import KEYS

    def row(name: str, group: str, rows: object, chance: str, wording: str, source: str) -> dict[str, object]:
        return {"name": name, "group": group, "rows": rows, "chance": chance, "wording": wording, "source": source}

    infos = [task_info(name) for name in list_tasks()]
    groups = [group_info(name) for name in list_groups()]
    return [
        *(row(i.name, i.folder, i.rows, i.chance, i.wording, i.source) for i in infos),
        *(row(g.name, "(group)", len(expand([g.name])), "", "", f"{g.title}: {', '.join(g.members)}") for g in groups),
        *(row(f"lab:{key}", "lab", "", "", "lab", what) for key, what in KEYS.items()),
    ]


def _methods(pattern: str) -> list[dict[str, str]]:
    from infosteer.core.registry import list_methods, method_info

    infos = [method_info(name) for name in list_methods(pattern)]
    return [{"name": i.key, "status": i.status, "paper": i.paper, "summary": i.summary} for i in infos]


def _recipes(pattern: str) -> list[dict[str, str]]:
    import fnmatch

    from infosteer.core.config import load_yaml
    from infosteer.experiments.library import shipped_recipes

    rows = []
    for name, path in shipped_recipes().items():
        if fnmatch.fnmatch(name, pattern):
            description = str((load_yaml(path) or {}).get("description", "")).strip()
            rows.append({"name": name, "description": " ".join(description.split())})
    return rows
