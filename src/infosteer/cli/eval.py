"""``infosteer eval``: models on benchmark tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="`embedded`, a folder, a hub id, or NAME=MODEL; again for further models."),
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            "-t",
            help="Tasks and groups (`infosteer ls tasks`), SOURCE or NAME=SOURCE, lm_eval:TASK.",
        ),
    ] = "commonsense,arithmetic",
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder that holds the tasks' folders [default: the hub's].")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First rows of each task only.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder [default: runs/eval].")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts in one forward.")] = 64,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ... [default: what there is].")] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="transformers, or vllm (plain models; decodes only).")
    ] = "transformers",
    template: Annotated[
        str | None, typer.Option("--template", help="sections, alpaca, plain, or a text with {instruction}.")
    ] = None,
    shots: Annotated[int, typer.Option("--shots", min=0, help="Worked examples before every question.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses worked examples and samples shown.")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer [default: the task's].")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Decode answers and read them.")] = True,
    options: Annotated[bool, typer.Option("--options/--no-options", help="Score options by likelihood.")] = True,
    check_batch_size: Annotated[
        int | None,
        typer.Option(
            "--check-batch-size",
            min=0,
            help="Ask so many rows a task again one by one: do answers change? [default: 8, in float32 0].",
        ),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", help="Training rows to look for the questions in; may be repeated.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of kept answers [default: cache in the output].")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Go on in the folder of other settings; answers that still hold are kept.")
    ] = False,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Count bad rows instead of stopping.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Evaluate models on tasks, with intervals, chance, failures. The same command again goes on where it stopped."""
    from infosteer.cli.eval_progress import make_suite_reporter
    from infosteer.cli.logs import show_log
    from infosteer.cli.report import write_report_of
    from infosteer.errors import RunError
    from infosteer.experiments.suite.run import run_suite
    from infosteer.experiments.suite.settings import SuiteSettings

    show_log()
    settings = SuiteSettings(
        models=tuple(model or ["embedded"]),
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        data=None if data is None else str(data),
        limit=limit,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        engine=engine,
        template=template,
        shots=shots,
        seed=seed,
        max_new_tokens=max_new_tokens,
        decode=decode,
        options=options,
        check_rows=check_batch_size,
        skip_bad_rows=skip_bad_rows,
        against=tuple(against or []),
    )
    reporter = make_suite_reporter()
    try:
        path = run_suite(settings, output, cache=cache, update=update, reporter=reporter)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Answers so far are kept; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    except RunError as error:
        failed = error.where if isinstance(error.where, Path) and error.where.name == "results.json" else None
        if failed is not None:
            print_evaluation(failed, json=json)
        raise
    print_evaluation(path / "results.json", json=json)
    write_report_of(path, json=json)


def print_evaluation(file: Path, *, json: bool) -> None:
    """The tables of an evaluation's results.json and where it lies."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.experiments.results import read_results

    results = read_results(file)
    if json:
        print_json(results)
        return
    from rich.text import Text

    from infosteer.experiments.suite.table import tables

    console = make_console()
    for part in tables(results):
        console.print(part, soft_wrap=isinstance(part, Text))
    console.print(f"results: {file}", markup=False, soft_wrap=True)
