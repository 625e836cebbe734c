"""``infosteer compare``: two models before and after training, or runs and evaluations against each other."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


class Format(StrEnum):
    """Names of ``inspection.comparison.formats.WRITERS``, without loading them."""

    markdown = "markdown"
    csv = "csv"
    latex = "latex"


class Correction(StrEnum):
    """Names of ``evaluation.multiple.METHODS``."""

    holm = "holm"
    bh = "bh"


def compare(
    things: Annotated[
        list[str],
        typer.Argument(
            metavar="A [B...]",
            help="Two models (`embedded`, a folder, a hub id), or runs and evaluations (folders, results.json).",
        ),
    ],
    texts: Annotated[
        Path | None, typer.Option("--texts", help="Models: a file of texts to read [default: the lab's biographies].")
    ] = None,
    statements: Annotated[
        Path | None, typer.Option("--statements", help="Models: rows {statement, label, set}: the truth direction.")
    ] = None,
    harmful: Annotated[
        Path | None, typer.Option("--harmful", help="Models: a file of requests, for the refusal direction.")
    ] = None,
    harmless: Annotated[Path | None, typer.Option("--harmless", help="Models: the other requests.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=10, help="Models: texts of each class or topic, at most.")] = 200,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="A single run: the arm that the others are compared with.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="Runs: NAME=SET,SET: sets to average over; may be repeated [default: all]."),
    ] = None,
    correction: Annotated[
        Correction, typer.Option("--correction", help="Runs: of p-values, within each measure.")
    ] = Correction.holm,
    format: Annotated[Format | None, typer.Option("--format", "-f", help="Runs: print tables as this instead.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder for compare.json, and of runs compare.md, .csv and .tex."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two models weight by weight and text by text, a run's arms with its baseline, or runs with each other."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.cli.logs import show_log

    if (harmful is None) != (harmless is None):
        raise typer.BadParameter("--harmful and --harmless go together", param_hint="--harmful")
    if json and format is not None:
        raise typer.BadParameter("choose one of --json and --format", param_hint="--format")
    show_log()
    from infosteer.inspection.comparison.read import is_run

    runs = [is_run(Path(thing)) for thing in things]
    if any(runs) and not all(runs):
        named = things[runs.index(False)]
        raise typer.BadParameter(f"runs are compared with runs, and {named} is none", param_hint="A B...")
    if all(runs):
        if any(option is not None for option in (texts, statements, harmful)):
            raise typer.BadParameter("runs are compared by their results: texts and statements are for models")
        found = _runs(things, baseline, group or [], correction.value)
    else:
        if len(things) != 2:
            raise typer.BadParameter("name two models, or runs; models are compared two at a time", param_hint="A B...")
        if baseline or group or format:
            raise typer.BadParameter("--baseline, --group and --format are for runs")
        from infosteer.cli.compare_models import read_models

        found = read_models(things[0], things[1], texts, statements, (harmful, harmless), rows)
    written = _write(output, found, runs=all(runs)) if output is not None else []
    if json:
        print_json(found)
        return
    if format is not None:
        from infosteer.inspection.comparison.formats import WRITERS

        typer.echo(WRITERS[format.value][1](found), nl=False)
        return
    console = make_console()
    if all(runs):
        _show_runs(console, found)
    else:
        from infosteer.cli.compare_models import show_models

        show_models(console, found)
    for file in written:
        typer.echo(str(file))


def _runs(things: list[str], baseline: str | None, named: list[str], correction: Any) -> dict[str, Any]:
    from infosteer.inspection.comparison.compare import compare_runs

    groups = {}
    for one in named:
        name, _, sets = one.partition("=")
        if not name.strip() or not sets.strip():
            raise typer.BadParameter(f"{one!r} is not NAME=SET,SET", param_hint="--group")
        groups[name.strip()] = [part.strip() for part in sets.split(",") if part.strip()]
    paths = [Path(thing) for thing in things]
    return compare_runs(paths, baseline=baseline, groups=groups or None, correction=correction)


def _write(folder: Path, found: dict[str, Any], *, runs: bool) -> list[Path]:
    """Write compare.json, and of runs the tables in every format. Returns: the files."""
    import json

    from infosteer.errors import RunError
    from infosteer.inspection.comparison.formats import WRITERS

    texts = {"json": json.dumps(found, indent=1, default=str) + "\n"}
    texts |= {suffix: write(found) for suffix, write in WRITERS.values()} if runs else {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            (folder / f"compare.{suffix}").write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError("The comparison cannot be written.", where=folder, got=error.strerror or error) from None
    return [folder / f"compare.{suffix}" for suffix in texts]


def _show_runs(console: Console, found: dict[str, Any]) -> None:
    from infosteer.cli.compare_models import show_table
    from infosteer.inspection.comparison.sheet import legend, sheets
    from infosteer.inspection.report.markup import visible

    for sheet in sheets(found):
        rows = [list(map(visible, row)) for row in sheet.rows]
        show_table(console, visible(sheet.title), list(map(visible, sheet.columns)), rows, texts=sheet.texts)
    for row in found["settings"]:
        console.print(visible(f"settings of {row['run']} that differ from {row['reference']}:"), markup=False)
        for line in row["differences"] or ["none"]:
            console.print(f"  {visible(line)}", markup=False, soft_wrap=True)
    for note in legend(found):
        console.print(f"note: {visible(note)}", markup=False, style="dim")
