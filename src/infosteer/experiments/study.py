"""A recipe in parts, run: every part in a folder of its own, and the table that all of them fill together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from infosteer.core.config import load_yaml
from infosteer.errors import DataError, InfoSteerError, RunError
from infosteer.evaluation.tasks import list_tasks, task_info
from infosteer.experiments.bench import Bench
from infosteer.experiments.estimate import estimate_parts, in_words
from infosteer.experiments.figures import Figures, load_figures
from infosteer.experiments.paper_table import Cells, markdown, read_cells
from infosteer.experiments.parts import Parts, Reproduces
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import Run
from infosteer.experiments.rundir import RunDir, disk_errors, refuse_strangers, write_atomic
from infosteer.experiments.schema import build, to_plain
from infosteer.experiments.source import Source

FILE, TABLE = "study.yaml", "table.md"


def run_parts(parts: Parts, path: Path, reporter: Reporter, *, stands_for: Mapping[str, str] | None = None) -> Path:
    """Run the chosen parts one after another; what is finished stays finished.

    Before the first step everything that a part reads is read once, and the expected cost is told.

    Args:
        stands_for: of a dry run, folder of a tiny model -> the model it stands for.

    Raises: InfoSteerError for whatever would stop a part; RunError at the end when arms failed.
    """
    main = int(os.environ.get("RANK", "0")) == 0
    figures = load_figures(parts.reproduces) if parts.reproduces is not None else None
    open_study(path, parts, stands_for or {}, write=False)
    check_inputs(parts, Bench(Reporter()).check)
    open_study(path, parts, stands_for or {}, write=main)
    if figures is not None and main and not stands_for:
        for line in _expected_cost(parts):
            reporter.note(line)
    failures = []
    for number, part in enumerate(parts.chosen, start=1):
        if main:
            reporter.note(f"part {number} of {len(parts.chosen)}: {part.name}")
        folder = path / part.name
        try:
            Run(part.recipe, folder, reporter).run()
        except RunError as error:
            if error.where != RunDir(folder).results_file:  # the folder or the disk, not an arm
                raise
            failures.append(f"{part.name}: {error.got}")
        if main:
            write_table(path)
    if failures:
        raise RunError(
            f"{len(failures)} of {len(parts.chosen)} parts have arms that failed; the results hold the others.",
            where=path / FILE,
            got="; ".join(failures),
            fix="the same command tries the failed ones again",
        )
    return path


def _expected_cost(parts: Parts) -> list[str]:
    """The estimate in words; where a model or setting has none, why: that stops no run."""
    try:
        return in_words(estimate_parts(parts))
    except InfoSteerError as error:
        return [f"no estimate of the cost: {error.what} ({error.got})"]


def open_study(path: Path, parts: Parts, stands_for: Mapping[str, str], *, write: bool = True) -> None:
    """Create or reopen the folder of the parts' runs.

    Raises: RunError for a folder that holds something else, or parts of another recipe.
    """
    file = path / FILE
    refuse_strangers(path, file)
    own = {"name": parts.name, "axes": list(parts.axes), "reproduces": to_plain(parts.reproduces)}
    if stands_for:
        own["dry_run"] = dict(stands_for)
    if file.is_file():
        if (before := load_yaml(file)) != own:
            raise RunError(
                "This folder holds the parts of another recipe.",
                where=path,
                got=before.get("name") if isinstance(before, dict) else before,
                expected=parts.name,
                fix="choose another --output",
            )
    elif write:
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        write_atomic(file, yaml.safe_dump(own, sort_keys=False))


def check_inputs(parts: Parts, check: Callable[[Recipe], object]) -> None:
    """Call ``check`` for every different model, set of rows and arm of the chosen parts.

    Raises: DataError that lists every part whose rows are missing or unusable; InfoSteerError for all else.
    """
    seen: set[str] = set()
    missing: dict[str, DataError] = {}
    for part in parts.chosen:
        plain = to_plain(part.recipe)
        rows, model = _rows_key(part.recipe), json.dumps([plain["model"], plain["arms"]], sort_keys=True)
        if rows in missing or {rows, model} <= seen:
            continue
        seen |= {rows, model}
        try:
            check(part.recipe)
        except DataError as error:
            missing[rows] = error
    if missing:
        raise _missing_rows(parts, missing)


def _rows_key(recipe: Recipe) -> str:
    """What a recipe reads, as text."""
    plain = to_plain(recipe)
    own = {name: arm["data"] for name, arm in plain["arms"].items()}
    return json.dumps([plain["data"], plain["evaluate"], own], sort_keys=True)


def _missing_rows(parts: Parts, missing: Mapping[str, DataError]) -> DataError:
    """The error for parts whose rows are missing, with the way to do without them where there is one."""
    lacking = [part for part in parts.chosen if _rows_key(part.recipe) in missing]
    first = next(iter(missing.values()))
    fix = "get the rows, see docs/reproduce.md"
    for axis in parts.axes:
        bad = {part.place[axis] for part in lacking}
        rest = list(dict.fromkeys(p.place[axis] for p in parts.chosen if p.place[axis] not in bad))
        if rest:
            fix += f", or leave them out: {axis}=[{','.join(rest)}]"
            break
    return DataError(
        f"{len(lacking)} of {len(parts.chosen)} parts cannot be read, so none was begun.",
        where=", ".join(part.name for part in lacking),
        got="; ".join(f"{error.what} ({error.where}: {error.got})" for error in missing.values()),
        expected=first.expected,
        fix=fix,
    )


def read_study(path: Path) -> tuple[Figures, Cells] | None:
    """The published figures and our cells, or None where the study reproduces nothing.

    Raises: RunError for a folder that is no study's.
    """
    file = path / FILE
    if not file.is_file():
        raise RunError("This folder holds no recipe in parts.", where=path, expected=FILE)
    own = load_yaml(file)
    told = own.get("reproduces") if isinstance(own, dict) else None
    if not told:
        return None
    reproduces = build(Reproduces, told, ("reproduces",), Source(str(file)))
    figures, stands_for = load_figures(reproduces), own.get("dry_run", {})
    runs = [(stands_for.get(model, model), results) for model, results in _runs(path)]
    cells = read_cells(runs, figures, reproduces.rows)
    cells.notes += _sizes(path)
    if stands_for:
        cells.warning = "A dry run on tiny random models: these numbers mean nothing."
    return figures, cells


def write_table(path: Path) -> Path | None:
    """Write ``table.md`` from whatever parts have results. None where the study reproduces nothing."""
    found = read_study(path)
    if found is None:
        return None
    write_atomic(path / TABLE, markdown(*found))
    return path / TABLE


def part_folders(path: Path) -> list[Path]:
    """The folders of the parts that have results."""
    return sorted(file.parent for file in path.rglob("results.json") if (file.parent / "recipe.yaml").is_file())


def _runs(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Model and results of every part."""
    for folder in part_folders(path):
        recipe = load_yaml(folder / "recipe.yaml")
        yield str(recipe["model"]), json.loads((folder / "results.json").read_text(encoding="utf-8"))


def _sizes(path: Path) -> list[str]:
    """A note on the sets of which not all published questions were asked."""
    asked: dict[str, int] = {}
    for folder in part_folders(path):
        outcome = next(iter(sorted(folder.glob("outcomes/*/*.json"))), None)
        examples = json.loads(outcome.read_text(encoding="utf-8")).get("examples", {}) if outcome else {}
        asked |= {name: max(map(len, measures.values())) for name, measures in examples.items() if measures}
    known = set(list_tasks())
    parts = [
        f"{name} {count:,} of {task_info(name).rows:,}"
        for name, count in asked.items()
        if name in known and count < task_info(name).rows
    ]
    return [f"test questions asked of those published: {', '.join(parts)}"] if parts else []
