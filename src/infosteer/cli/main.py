"""The ``infosteer`` command: one file a verb, and one place that turns errors into exit codes.

Nothing heavy is imported here: ``infosteer --help`` must not wait for torch.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from infosteer.cli import compare, demo, env, eval, inspect, locate, ls, memory, new, report, run, show, sweep, validate

app = typer.Typer(
    name="infosteer",
    help="Steer how language models use the knowledge in their feed-forward layers while they are post-trained.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("sweep")(sweep.sweep)
app.command("demo")(demo.demo)
app.command("report")(report.report)
app.command("eval")(eval.evaluate)
app.command("inspect")(inspect.inspect)
app.command("memory")(memory.memory)
app.command("compare")(compare.compare)
app.command("validate")(validate.validate)
app.command("locate")(locate.locate)
app.command("ls")(ls.ls)
app.command("show")(show.show)
app.command("new")(new.new)
app.command("env")(env.env)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("infosteer"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show full tracebacks (also: INFOSTEER_DEBUG=1).")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every verb."""
    if debug:
        os.environ["INFOSTEER_DEBUG"] = "1"


def main() -> None:
    """Entry point: exit code 0 on success, 1 on errors, 2 on bad usage, 130 when interrupted."""
    from infosteer.errors import InfoSteerError

    # Before torch loads its thread library: threads that spin long while they wait make small models 4 times slower as
    # soon as another process wants the same cores, threads that never spin make them a third slower on idle ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app(prog_name="infosteer")
    except InfoSteerError as error:
        _fail(f"Error: {error}")
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away, as `infosteer ls | head` does
        raise SystemExit(1) from None
    except Exception as error:
        _fail(
            f"Unexpected error ({type(error).__name__}): {error}\n  This should not happen: please report it, with the "
            "traceback that `infosteer --debug ...` or INFOSTEER_DEBUG=1 shows."
        )


def _fail(text: str) -> None:
    if os.environ.get("INFOSTEER_DEBUG", "") not in ("", "0"):
        raise  # called from an except block only
    typer.echo(text, err=True)
    raise SystemExit(1) from None
