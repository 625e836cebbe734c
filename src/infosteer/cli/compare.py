"""``infosteer compare``: two models before and after training, or runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

_DEFAULT_TEXTS = 64  # biographies of the lab


def compare(
    things: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...", help="Two models (`embedded`, a folder, a hub id), or runs (folders, results.json)."
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
    rows: Annotated[int, typer.Option("--rows", min=10, help="Texts of each class or topic, at most.")] = 200,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for compare.json, which holds all numbers.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two models weight by weight and text by text, or runs by their results and settings."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.cli.logs import show_log

    if len(things) < 2:
        raise typer.BadParameter("name two models, or two runs", param_hint="A B...")
    if (harmful is None) != (harmless is None):
        raise typer.BadParameter("--harmful and --harmless go together", param_hint="--harmful")
    show_log()
    from infosteer.inspection.compare_runs import compare_runs, is_run

    runs = [is_run(Path(thing)) for thing in things]
    if any(runs) and not all(runs):
        named = things[runs.index(False)]
        raise typer.BadParameter(f"runs are compared with runs, and {named} is none", param_hint="A B...")
    if all(runs):
        if any(option is not None for option in (texts, statements, harmful)):
            raise typer.BadParameter("runs are compared by their results: texts and statements are for models")
        found = compare_runs([Path(thing) for thing in things])
    else:
        if len(things) > 2:
            raise typer.BadParameter("models are compared two at a time", param_hint="A B...")
        found = _models(things[0], things[1], texts, statements, (harmful, harmless), rows)
    if output is not None:
        _write(output / "compare.json", found)
    if json:
        print_json(found)
    else:
        console = make_console()
        (_show_runs if all(runs) else _show_models)(console, found)
        if output is not None:
            typer.echo(str(output / "compare.json"))


def _models(
    first: str,
    second: str,
    texts: Path | None,
    statements: Path | None,
    requests: tuple[Path | None, Path | None],
    rows: int,
) -> dict[str, Any]:
    import torch

    from infosteer.errors import ConfigError
    from infosteer.inspection.compare_models import compare_directions, compare_models
    from infosteer.inspection.directions import group_folds, random_folds
    from infosteer.inspection.labelled import read_requests, read_statements, read_texts
    from infosteer.lab.catalogue import load
    from infosteer.training.loading import load_model, load_tokenizer, merge_adapters

    # Whatever files there are, they are read before the models: a mistake in them costs no loading.
    truth = read_statements(statements, limit=rows) if statements is not None else None
    harm = read_requests(*(path for path in requests if path), limit=rows) if all(requests) else None
    read = read_texts(texts) if texts is not None else [row["text"] for row in load("facts/biographies")]
    tokenizer, other = load_tokenizer(first), load_tokenizer(second)
    if tokenizer.get_vocab() != other.get_vocab():
        raise ConfigError(
            "The two models have other vocabularies, so what they say cannot be compared.",
            where=f"{first} and {second}",
            got=f"{len(tokenizer)} and {len(other)} tokens",
            expected="the same model before and after training",
        )
    a, b = (merge_adapters(load_model(name)) for name in (first, second))
    found = {"models": {"a": first, "b": second}, **compare_models(a, b, tokenizer, read[:_DEFAULT_TEXTS])}
    directions = {}
    if truth is not None:
        labels = torch.tensor(truth[1])
        folds = group_folds(truth[2]) if len(set(truth[2])) > 1 else random_folds(labels)
        directions["truth"] = compare_directions(a, b, tokenizer, truth[0], truth[1], folds)
    if harm is not None:
        directions["refusal"] = compare_directions(a, b, tokenizer, *harm, random_folds(torch.tensor(harm[1])))
    return {**found, "directions": directions}


def _write(path: Path, found: dict[str, Any]) -> None:
    import json

    from infosteer.errors import RunError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError("The comparison cannot be written.", where=path, got=error.strerror or error) from None


def _table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _show_runs(console: Console, found: dict[str, Any]) -> None:
    reference = found["runs"][0]["run"]
    means = {(row["run"], row["arm"], row["metric"]): row["mean"] for row in found["summary"]}

    def cells(row: dict[str, Any]) -> list[str]:
        old, new = (
            means.get((reference, row["reference_arm"], row["metric"])),
            means.get((row["run"], row["arm"], row["metric"])),
        )
        spread = "" if row["low"] is None else f" ({row['low']:+.3f} to {row['high']:+.3f})"
        tested = "" if row["p_value"] is None else f"{row['p_value']:.3f} / {row['p_holm']:.3f}"
        shown = ["-" if value is None else f"{value:.3f}" for value in (old, new)]
        name = row["arm"] if row["arm"] == row["reference_arm"] else f"{row['arm']} for {row['reference_arm']}"
        return [name, row["metric"], *shown, f"{row['difference']:+.3f}{spread}", tested, str(row["n"])]

    for run in found["runs"][1:]:
        rows = [cells(row) for row in found["comparisons"] if row["run"] == run["run"]]
        title = f"{run['run']} against {reference}: means, paired difference (95 % interval), p and Holm's p"
        _table(console, title, ["arm", "metric", reference, run["run"], "difference", "p / Holm", "seeds"], rows)
    for row in found["settings"]:
        console.print(f"settings of {row['run']} that differ from {row['reference']}:", markup=False)
        for line in row["differences"] or ["none"]:
            console.print(f"  {line}", markup=False, soft_wrap=True)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False, style="dim")


def _show_models(console: Console, found: dict[str, Any]) -> None:
    parts: dict[str, dict[int | None, float]] = {}
    for row in found["drift"]:
        parts.setdefault(row["part"], {})[row["layer"]] = row["relative"]
    layers = sorted({layer for by_layer in parts.values() for layer in by_layer if layer is not None})
    columns = ["weights", "outside", *map(str, layers)]
    rows = [
        [part, *(f"{100 * by_layer[key]:.2f}" if key in by_layer else "-" for key in (None, *layers))]
        for part, by_layer in parts.items()
    ]
    _table(console, "Change of the weights by layer, |B - A| / |A| in %", columns, rows)
    shown = [[name, f"{v['a']:.4g}", f"{v['b']:.4g}", f"{v['b'] - v['a']:+.3g}"] for name, v in found["text"].items()]
    _table(console, "The same text as each model reads it", ["measure", "A", "B", "B - A"], shown)
    concepts = [
        [str(row["layer"]), f"{row['kept']:.3f}", f"{row['same']:.3f}", f"{row['chance']:.4f}",
         f"{row['specificity_a']:.3f}", f"{row['specificity_b']:.3f}"]
        for row in found["concepts"]
    ]  # fmt: skip
    columns = ["layer", "kept of 10 tokens", "same first token", "by chance", "specificity A", "B"]
    _table(console, "Concepts of the memories: what stays", columns, concepts)
    neurons = found["entropy_neurons"]
    console.print(
        f"Entropy neurons: {100 * neurons['iou']:.0f} % shared ({100 * neurons['iou_chance']:.1f} % by chance)\n",
        markup=False,
    )
    for name, parts_of in found["directions"].items():
        rows = [
            [str(a["layer"]), f"{a['accuracy']:.3f} ({a['low']:.3f} to {a['high']:.3f})",
             f"{b['accuracy']:.3f} ({b['low']:.3f} to {b['high']:.3f})", f"{forth['accuracy']:.3f}",
             f"{back['accuracy']:.3f}", f"{forth['cosine']:+.3f}", f"{forth['cosine_null']:.3f}"]
            for a, b, forth, back in zip(*(parts_of[k] for k in ("own_a", "own_b", "a_to_b", "b_to_a")), strict=True)
        ]  # fmt: skip
        chance = parts_of["own_a"][0]["chance"]
        title = (
            f"Direction of {name}, held-out accuracy (chance {chance:.3f}); cosine of the two, and with shuffled labels"
        )
        _table(console, title, ["layer", "A", "B", "A's in B", "B's in A", "cosine", "shuffled"], rows)
