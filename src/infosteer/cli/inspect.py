"""``infosteer inspect``: how many memories each token of a text draws on; or what the models of a run do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from infosteer.inspection.data import TokenReading

_SHADES = 10  # of a terminal
_DARK, _BRIGHT = (32, 36, 44), (255, 150, 40)  # red, green, blue
_EXTREMES = 5  # tokens named at either end


def inspect(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder, a hub id, or a run's folder.")],
    text: Annotated[
        str | None, typer.Argument(help="The text to read; - reads it from stdin. A run needs none.")
    ] = None,
    layers: Annotated[str, typer.Option("--layers", help="all, early, middle, late, 0-3, or numbers.")] = "all",
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Show every layer on its own.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the text as a self-contained HTML page.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of a run: whose models are read [first].")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a text's information flux by token, or leave what a run's models do for its report."""
    run = Path(model)
    if (run / "recipe.yaml").is_file():
        _inspect_run(run, text, layers, seed, output, json)
        return
    if text is None:
        raise typer.BadParameter("a text is needed: infosteer inspect MODEL TEXT", param_hint="TEXT")
    if seed is not None:
        raise typer.BadParameter("only a run has seeds", param_hint="--seed")
    words = sys.stdin.read() if text == "-" else text
    if not words.strip():
        raise typer.BadParameter("the text is empty", param_hint="TEXT")
    from infosteer.cli.logs import bars_on_terminals_only, show_log

    show_log()
    bars_on_terminals_only()
    from infosteer.inspection.reading import read_text
    from infosteer.training.loading import load_model, load_tokenizer, merge_adapters

    tokenizer = load_tokenizer(model)
    reading = read_text(merge_adapters(load_model(model)), tokenizer, words, name=model, layers=layers)
    if output is not None:
        from infosteer.inspection.heatmap import page

        write_page(output, page(reading, title=model))
    if json:
        from infosteer.cli.console import print_json
        from infosteer.inspection.decode import plain

        print_json({**plain(reading), "normalised": reading.normalised()})
    else:
        _show(reading, by_layer)
        if output is not None:
            typer.echo(str(output))


def write_page(path: Path, text: str) -> None:
    """Write one file. Raises: RunError when it cannot be written."""
    from infosteer.errors import RunError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError("The page cannot be written.", where=path, got=error.strerror or error) from None


def _inspect_run(run: Path, text: str | None, layers: str, seed: int | None, output: Path | None, json: bool) -> None:
    if output is not None:
        raise typer.BadParameter("what a run's models do goes into the run's own report", param_hint="--output")
    from infosteer.cli.console import print_json
    from infosteer.cli.logs import bars_on_terminals_only, show_log

    show_log()
    bars_on_terminals_only()
    from infosteer.cli.report import write_report_of
    from infosteer.experiments.inside import look_inside

    texts = None if text is None else {"text": sys.stdin.read() if text == "-" else text}
    files = look_inside(run, texts=texts, layers=layers, seed=seed, note=lambda line: typer.echo(line, err=True))
    if json:
        print_json({"files": [str(path) for path in files]})
    else:
        for path in files:
            typer.echo(str(path))
    write_report_of(run, json=json)


def _show(reading: TokenReading, by_layer: bool) -> None:
    from infosteer.cli.console import make_console
    from infosteer.inspection.report.markup import clip, visible

    console = make_console()
    tokens = [clip(visible(token), 60) for token in reading.tokens]
    means = reading.normalised()
    console.print(
        f"Information flux, {len(reading.layer_numbers)} layers: {min(reading.flux):.3f} to {max(reading.flux):.3f} "
        f"nats (mean {sum(reading.flux) / len(tokens):.3f}; {100 * sum(means) / len(means):.1f} % of ln M)\n",
        markup=False,
    )
    if console.is_terminal:
        console.print(_coloured(tokens, list(reading.flux)))
        if by_layer:
            for j, number in enumerate(reading.layer_numbers):
                values = [row[j] for row in reading.layers]
                console.print(f"\nlayer {number}: {min(values):.3f} to {max(values):.3f} nats")
                console.print(_coloured(tokens, values))
        order = sorted(range(len(tokens)), key=lambda t: reading.flux[t])
        ends = {"lowest": order[:_EXTREMES], "highest": order[::-1][:_EXTREMES]}
        console.print()
        for name, chosen in ends.items():
            listed = ", ".join(f"{tokens[t].strip() or repr(tokens[t])} {reading.flux[t]:.3f}" for t in chosen)
            console.print(f"{name}: {listed}", markup=False)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("token", "flux", "surprisal", *(f"layer {n}" for n in reading.layer_numbers if by_layer)):
        table.add_column(heading, justify="left" if heading == "token" else "right")
    for t, token in enumerate(tokens):
        said = reading.surprisal[t] if reading.surprisal is not None else None
        cells = [f"{reading.flux[t]:.3f}", "" if said is None else f"{said:.3f}"]
        cells += [f"{value:.3f}" for value in reading.layers[t] if by_layer]
        table.add_row(_literal(repr(token) if token.isspace() else token), *cells)
    console.print(table)


def _literal(text: str) -> Text:
    from rich.text import Text

    return Text(text)  # nothing in it is markup


def _coloured(tokens: list[str], values: list[float]) -> Text:
    """The tokens on grounds from dark to bright; a line break is shown and made."""
    from rich.text import Text

    from infosteer.inspection.heatmap import levels

    whole = Text()
    for token, level in zip(tokens, levels(values, _SHADES), strict=True):
        share = level / (_SHADES - 1)
        ground = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(_DARK, _BRIGHT, strict=True))
        whole.append(token.replace("\n", "\u21b5\n"), style=f"{'black' if share > 0.45 else 'white'} on {ground}")
    return whole
