"""``infosteer demo``: the whole promise on one screen, offline, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="One seed instead of three.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run's folder [default: runs/demo, runs/demo-quick].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Plain SFT, intervention, regularisation and protection on the lab's facts, with the embedded base model."""
    from infosteer.cli.run import execute

    name = "demo-quick" if quick else "demo"
    overrides = ["seeds=[1]", "name=demo-quick"] if quick else []
    execute("demo", overrides, output or Path("runs") / name, json=json)
