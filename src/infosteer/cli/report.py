"""``infosteer report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="The run's folder, as `infosteer run` wrote it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page's file [default: report.html in the run's folder].")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="A folder for every chart as PNG and SVG (needs the extra plots).")
    ] = None,
) -> None:
    """Write a run as one self-contained HTML page, or the table and pages of a recipe in parts; print their paths."""
    from infosteer.cli.run import print_study
    from infosteer.experiments.study import FILE, write_table
    from infosteer.inspection.report import write_report

    if (run / FILE).is_file():
        if output is not None or figures is not None:
            raise typer.BadParameter("--output and --figures are for the run of a single part")
        write_table(run)
        print_study(run, json=False)
        return

    path = write_report(run, output, figures=figures)
    typer.echo(str(path))
    if figures is not None:
        typer.echo(str(figures))


def write_report_of(run: Path, *, json: bool = False) -> None:
    """Write the report of a run that just ended and say where it lies; a failure is a warning, the run is done.

    Args:
        run: the run's folder.
        json: stdout belongs to JSON, so the path goes to stderr.
    """
    from infosteer.inspection.report import write_report

    try:
        path = write_report(run)
    except Exception as error:  # whatever it is, it must not make a finished run look failed
        typer.echo(f"The report was not written: {error}", err=True)
    else:
        typer.echo(f"report: {path}", err=json)
