"""A run's folder in, ``report.html`` out, and the figures for papers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from infosteer.errors import RunError
from infosteer.inspection.report.answer import answer
from infosteer.inspection.report.charts import save
from infosteer.inspection.report.gather import gather
from infosteer.inspection.report.page import render
from infosteer.inspection.report.palette import looks
from infosteer.inspection.report.section import Context
from infosteer.inspection.report.sections import SECTIONS

NAME = "report.html"


def write_report(run_dir: Path, output: Path | None = None, *, figures: Path | None = None) -> Path:
    """Write a run as one self-contained HTML page; the page is written whole or not at all.

    Args:
        run_dir: the run's folder.
        output: the page's file; ``report.html`` in the run's folder unless given.
        figures: a folder that gets every chart as PNG and SVG.

    Raises: RunError for a folder that is no run, for damaged results or inspection files, when a file cannot be
        written, and for ``figures`` without matplotlib.
    """
    run = gather(run_dir)
    context = Context(run=run, looks=looks(run.arms, run.baseline))
    sections = [make(context) for make in SECTIONS]
    page = render(context, answer(run), sections)
    path = output or run_dir / NAME
    _write(path, page)
    if figures is not None:
        save([chart for section in sections for chart in section.charts], figures)
    return path


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError("The report cannot be written.", where=path, got=error.strerror or error) from None
