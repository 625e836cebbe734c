"""``infosteer run``: train and evaluate every arm of a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe's name (`infosteer ls --recipes`).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, e.g. train.learning_rate=1e-4.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run's folder [default: runs/<recipe's name>].")
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Count unusable training rows instead of stopping.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what it will cost: trainings, memory, hours on a card.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try everything on tiny random models; the numbers mean nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Train every arm from every seed, evaluate, and compare. The same command again goes on where it stopped."""
    changes = check_overrides(overrides)
    if skip_bad_rows:
        changes.append("data.skip_bad_rows=true")
    if estimate and dry_run:
        raise typer.BadParameter("--estimate and --dry-run do not go together")
    if estimate:
        print_estimate(recipe, changes, json=json)
    elif dry_run:
        try_out(recipe, changes, output, json=json)
    else:
        execute(recipe, changes, output, json=json)


def check_overrides(overrides: list[str] | None) -> list[str]:
    """The overrides, or bad usage (exit code 2) when one has no ``=``."""
    for item in overrides or []:
        if "=" not in item:
            raise typer.BadParameter(f"{item!r} is not of the form key=value, e.g. train.learning_rate=1e-4")
    return list(overrides or [])


def execute(recipe: str | dict[str, Any], overrides: list[str], output: Path | None, *, json: bool) -> None:
    """Run and print what came out; also when an arm failed, since the others' results are there."""
    from infosteer.cli.logs import show_log
    from infosteer.cli.progress import make_reporter
    from infosteer.cli.report import write_report_of
    from infosteer.errors import RunError
    from infosteer.experiments.run import run as run_recipe

    main = int(os.environ.get("RANK", "0")) == 0
    show_log(main)
    try:
        path = run_recipe(recipe, output, overrides=overrides, reporter=make_reporter())
    except KeyboardInterrupt:
        typer.echo("Interrupted. What is finished is kept; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    except RunError as error:
        failed = error.where if isinstance(error.where, Path) and error.where.name == "results.json" else None
        if main and isinstance(error.where, Path) and error.where.name == "study.yaml" and error.where.is_file():
            print_study(error.where.parent, json=json)
        if failed is not None and main:
            print_results(failed.parent, json=json)
            write_report_of(failed.parent, json=json)
        raise
    if main and not print_study(path, json=json):
        print_results(path, json=json)
        if (path / "results.json").is_file():  # pretraining leaves a model and nothing to report on
            write_report_of(path, json=json)


def print_estimate(recipe: str, overrides: list[str], *, json: bool) -> None:
    """The expected cost, one entry a model."""
    from dataclasses import asdict

    from infosteer.cli.console import make_console, print_json
    from infosteer.experiments.estimate import estimate_recipe, in_words

    estimates = estimate_recipe(recipe, overrides)
    if json:
        print_json([asdict(one) for one in estimates])
        return
    console = make_console()
    for line in in_words(estimates):
        console.print(line, markup=False, soft_wrap=True)


def try_out(recipe: str, overrides: list[str], output: Path | None, *, json: bool) -> None:
    """Run the recipe on tiny random models, in ``output`` or in a folder that is removed."""
    import tempfile

    from infosteer.cli.console import print_json
    from infosteer.cli.logs import bars_on_terminals_only, show_log
    from infosteer.cli.progress import make_reporter
    from infosteer.experiments.dry_run import dry_run

    show_log(True)
    bars_on_terminals_only()
    with tempfile.TemporaryDirectory(prefix="infosteer-") as folder:
        done = dry_run(recipe, output or Path(folder) / "run", overrides=overrides, reporter=make_reporter())
    if json:
        print_json(done)
        return
    typer.echo(f"The dry run went through: {done['parts']} recipes, {done['trainings']} trainings of tiny models.")
    typer.echo("The models were random: the numbers mean nothing.")
    for line in done["missing"]:
        typer.echo(f"made up, since it is not here: {line}")


def print_study(path: Path, *, json: bool) -> bool:
    """The table that a recipe in parts reproduces, and where everything lies; False for other folders."""
    from infosteer.cli.console import print_json
    from infosteer.cli.report import write_report_of
    from infosteer.experiments.study import FILE, TABLE, part_folders, read_study

    if not (path / FILE).is_file():
        return False
    found, folders = read_study(path), part_folders(path)
    if json:
        from dataclasses import asdict

        facts: dict[str, Any] = {"folder": str(path), "parts": [str(one.relative_to(path)) for one in folders]}
        print_json(facts if found is None else {**facts, "figures": asdict(found[0]), "cells": asdict(found[1])})
    elif found is not None:
        typer.echo((path / TABLE).read_text(encoding="utf-8"))
    for folder in folders:
        write_report_of(folder, json=json)
    if not json:
        typer.echo(f"table: {path / TABLE}" if found is not None else f"results: {path}")
    return True


def print_results(path: Path, *, json: bool) -> None:
    """The tables of a run's results.json and where it lies; a pretraining run has none."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.experiments.results import read_results

    file = path / "results.json"
    if not file.is_file():
        if json:
            print_json({"folder": str(path)})
        else:
            typer.echo(str(path))
        return
    results = read_results(file)
    if json:
        print_json(results)
        return
    from rich.text import Text

    from infosteer.experiments.table import tables

    console = make_console()
    for part in tables(results):
        console.print(part, soft_wrap=isinstance(part, Text))
    console.print(f"results: {file}", markup=False, soft_wrap=True)
