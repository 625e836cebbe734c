"""Printing: JSON for programs, rich tables for people, plain text where the output is not a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 140  # of tables in files and pipes, where no terminal says how wide it is


def print_json(data: Any) -> None:
    """Plain data as indented JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def make_console(*, stderr: bool = False) -> Console:
    """A console that keeps tables whole when the output is not a terminal."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)
