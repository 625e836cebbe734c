"""``infosteer validate``: check a recipe and show what a model would be trained on, before training."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def validate(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe's name.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Training rows to show with tokens and loss mask.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check recipe, data, evaluation sets and layers; print the first rows' tokens (bold: tokens that carry loss)."""
    from infosteer.cli.console import print_json
    from infosteer.cli.run import check_overrides
    from infosteer.experiments.figures import load_figures
    from infosteer.experiments.parts import parts_of
    from infosteer.experiments.preview import preview, preview_parts, preview_pretraining
    from infosteer.experiments.recipe import load_recipe, prepared, pretrains, read_raw
    from infosteer.experiments.sweep.drive import plan_of
    from infosteer.experiments.sweep.forecast import describe

    changes = check_overrides(overrides)
    data, source, folder = read_raw(recipe)
    if "parts" in data:
        parts = parts_of(data, source, folder, changes)
        if parts.reproduces is not None:
            load_figures(parts.reproduces)
        facts = preview_parts(parts, rows)
    elif pretrains(prepared(data, changes)):
        facts = preview_pretraining(data)
    else:
        loaded = load_recipe(recipe, changes)
        plan = plan_of(recipe, overrides=changes)[0] if loaded.sweep is not None else None
        facts = preview(loaded, rows)
        if plan is not None:
            facts["summary"] |= {f"sweep: {name}": value for name, value in describe(plan).items()}
    if json:
        print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from infosteer.cli.console import make_console

    console = make_console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts["summary"].items():
        table.add_row(name, str(value))
    console.print(table)
    for index, row in enumerate(facts["rows"]):
        text = Text(f"\nrow {index}: {row['tokens_total']} tokens, {row['tokens_with_loss']} with loss\n", style="dim")
        for token in row["tokens"]:
            style = "bold underline" if token["loss"] else "dim"
            # brackets mark the loss where no style is shown
            shown = f"[{token['text']}]" if token["loss"] and not console.is_terminal else token["text"]
            text.append(shown, style=style)
        console.print(text)
    console.print("\nThe recipe is valid.")
