"""``infosteer sweep``: grids and random search over a recipe's settings, with the same tuning budget for every arm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infosteer.cli.run import check_overrides

if TYPE_CHECKING:
    from rich.console import Console


def sweep(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe's name (`infosteer ls --recipes`).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, e.g. sweep.trials=8.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The sweep's folder [default: runs/<recipe's name>].")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, help="Processes on this machine [default: sweep.workers].")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Go on in the folder of another recipe; equal trials are kept.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Do the trials on a Ray cluster: its address, auto, or local."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print how many trials there are, and how long they will take.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print results.json (or the dry run) instead of tables.")
    ] = False,
) -> None:
    """Do every trial of the recipe's sweep once, choose, and compare. The same command goes on where it stopped."""
    from infosteer.cli.logs import show_log
    from infosteer.cli.sweep_progress import make_sweep_reporter
    from infosteer.errors import RunError
    from infosteer.experiments.sweep.drive import plan_of
    from infosteer.experiments.sweep.drive import sweep as run_sweep

    changes = check_overrides(overrides)
    show_log()
    if dry_run:
        from infosteer.experiments.sweep.forecast import forecast

        _print_forecast(forecast(*plan_of(recipe, output, changes), workers=workers), json=json)
        return
    try:
        path = run_sweep(
            recipe,
            output,
            overrides=changes,
            workers=workers,
            update=update,
            ray=ray,
            reporter=make_sweep_reporter(),
        )
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished trials are kept; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    except RunError as error:
        if isinstance(error.where, Path) and error.where.name == "results.json":
            print_sweep(error.where, json=json)
        raise
    print_sweep(path / "results.json", json=json)


def print_sweep(file: Path, *, json: bool) -> None:
    """The chosen cells of a sweep's results.json, its tables as those of a run, and its report."""
    from infosteer.cli.console import make_console
    from infosteer.cli.report import write_report_of
    from infosteer.cli.run import print_results
    from infosteer.experiments.results import read_results

    if not json:
        _print_chosen(read_results(file)["sweep"], make_console())
    print_results(file.parent, json=json)
    write_report_of(file.parent, json=json)


def _print_chosen(facts: dict[str, Any], console: Console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from infosteer.experiments.sweep.cells import label

    tuning, chosen = facts["tuning"], facts["chosen"]
    if tuning is None or chosen is None:
        return
    seeds = ", ".join(map(str, tuning["seeds"]))
    console.print(
        Text(f"chosen by {' + '.join(tuning['metrics'])} on tuning seeds {seeds}", style="bold"), soft_wrap=True
    )
    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(("arm", "cell", "score", "cells", "tuning trials", "tuning steps")):
        table.add_column(column, justify="left" if index < 2 else "right", overflow="fold")
    for arm, budget in facts["budget"].items():
        best = chosen.get(arm)
        shown = (label(best["cell"]), f"{best['score']:.4f}") if best else ("none: trials failed", "-")
        counts = (budget["cells"], budget.get("tune_trials", 0), budget.get("tune_steps", 0))
        table.add_row(escape(arm), escape(shown[0]), shown[1], *map(str, counts))
    console.print(table)


def _print_forecast(facts: dict[str, Any], *, json: bool) -> None:
    from infosteer.cli.console import make_console, print_json

    if json:
        print_json(facts)
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = "; ".join(f"{key}: {item}" for key, item in value.items())
        table.add_row(name.replace("_", " "), "unknown until a trial was timed" if value is None else str(value))
    make_console().print(table)
