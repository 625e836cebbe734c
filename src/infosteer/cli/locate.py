"""``infosteer locate``: where a model's key coefficients are."""

from __future__ import annotations

from typing import Annotated

import typer


def locate(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder, or a hub id.")] = "embedded",
    trust_structure: Annotated[
        bool, typer.Option("--trust-structure", help="Search by structure when the model type is unknown.")
    ] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Load the weights and prove that every site fires and matters.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the sites of a model: layer, module, FFN width. Reads the config only, unless --prove is given."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.cli.logs import show_log

    show_log()
    from infosteer import models
    from infosteer.training.loading import load_model, load_skeleton

    loaded = load_model(model) if prove else load_skeleton(model)
    sites = models.locate(loaded, trust_structure=trust_structure)
    if prove:
        models.prove(loaded, sites)
    rows = [
        {"layer": site.layer, "site": site.name, "width": site.width, "hidden": site.hidden, "gated": site.gated}
        for site in sites
    ]
    if json:
        print_json({"model": model, "type": loaded.config.model_type, "proven": prove, "sites": rows})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("layer", "site", "width M", "hidden D", "gated"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            *(str(value) if not isinstance(value, bool) else "yes" if value else "no" for value in row.values())
        )
    console = make_console()
    console.print(table)
    console.print(f"{len(sites)} sites in {type(loaded).__name__}" + (", every one proven to fire" if prove else ""))
