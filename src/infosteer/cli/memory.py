"""``infosteer memory``: what memory vectors say, which of them write a word, and where a text uses them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator


def memory(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder, a hub id, or a run's checkpoint folder.")],
    layer: Annotated[
        int | None, typer.Option("--layer", "-l", help="The layer, from 0; --search looks at all without it.")
    ] = None,
    index: Annotated[int | None, typer.Option("--index", "-i", help="One memory of the layer.")] = None,
    search: Annotated[str | None, typer.Option("--search", "-s", help="Memories that write this word.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Memories listed; of one memory, contexts.")] = 10,
    words: Annotated[int, typer.Option("--words", min=1, help="Words shown of each memory.")] = 8,
    contexts: Annotated[
        str | None,
        typer.Option("--contexts", help="Texts (lines of a .txt, rows of any data source) in which to find its uses."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Read vectors without the final norm, as the paper writes it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read memory vectors in vocabulary space: the most specific ones of a layer, one of them, or those of a word."""
    if index is not None and search is not None:
        raise typer.BadParameter("give --index or --search, not both", param_hint="--index")
    if layer is None and search is None:
        raise typer.BadParameter("a layer is needed, unless a word is searched for", param_hint="--layer")
    if layer is None and contexts is not None:
        raise typer.BadParameter("contexts are looked for in one layer: give --layer", param_hint="--contexts")
    from infosteer.cli.logs import bars_on_terminals_only, show_log

    show_log()
    bars_on_terminals_only()
    from infosteer.inspection import memories
    from infosteer.models import locate, select_layers
    from infosteer.training.loading import load_model, load_tokenizer, merge_adapters

    tokenizer, loaded = load_tokenizer(model), merge_adapters(load_model(model))
    sites = locate(loaded)
    chosen = sites if layer is None else [sites[i] for i in select_layers([layer], len(sites))]
    found: list[dict[str, Any]] = []
    if search is not None:
        tokens = memories.word_tokens(tokenizer, search)
        for hit in memories.search(loaded, chosen, tokens, top=top, use_final_norm=not raw):
            site = next(site for site in chosen if site.layer == hit.layer)
            read = memories.read_memories(loaded, site, [hit.index], top=words, use_final_norm=not raw)
            found.append({**_row(tokenizer, read, 0), "probability": hit.probability, "rank": hit.rank})
    else:
        only = None if index is None else [index]
        read = memories.read_memories(loaded, chosen[0], only, top=words, use_final_norm=not raw)
        best = read.specificity.topk(min(top, len(read.indices))).indices.tolist()
        found = [_row(tokenizer, read, row) for row in best]
    if contexts is not None:
        from infosteer.inspection.contexts import top_contexts

        indices = [row["index"] for row in found]
        uses = top_contexts(loaded, tokenizer, texts_of(contexts), chosen[0], indices, top=top)
        for row in found:
            row["contexts"] = [
                {"coefficient": use.coefficient, "text": use.text, "position": use.position,
                 "before": list(use.before), "token": use.token}
                for use in uses[row["index"]]
            ]  # fmt: skip
    if json:
        from infosteer.cli.console import print_json

        print_json({"model": model, "final_norm": not raw, "search": search, "memories": found})
    else:
        _print(found, one=index is not None)


def texts_of(source: str) -> Iterator[str]:
    """Texts of a .txt file, a line each, or of any source of rows.

    Raises: DataError for a source that is missing, unreadable or empty.
    """
    from infosteer.errors import DataError

    path = Path(source).expanduser()
    if path.suffix == ".txt":
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                yield from (line.strip() for line in lines if line.strip())
        except OSError as error:
            raise DataError("The texts cannot be read.", where=path, got=error.strerror or error) from None
        return
    from infosteer.training.rows import read_rows

    for row in read_rows(source):
        if "text" in row:
            yield row["text"]
        elif isinstance(row["prompt"], str):
            yield row["prompt"] + row["completion"]
        else:
            yield "\n".join(str(turn["content"]) for turn in [*row["prompt"], *row["completion"]])


def _row(tokenizer: Any, read: Any, row: int) -> dict[str, Any]:
    from infosteer.inspection.reading import token_texts

    said = token_texts(tokenizer, read.tokens[row].tolist())
    return {
        "layer": read.layer,
        "index": int(read.indices[row]),
        "specificity": float(read.specificity[row]),
        "words": [{"token": t, "probability": p} for t, p in zip(said, read.probabilities[row].tolist(), strict=True)],
        "lowered": token_texts(tokenizer, read.lowered[row].tolist()),
    }


def _print(found: list[dict[str, Any]], *, one: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from infosteer.cli.console import make_console
    from infosteer.inspection.report.markup import clip, visible

    def shown(token: str) -> str:
        text = clip(visible(token), 30)
        return repr(text) if not text or text.isspace() else text.strip().replace("\n", "\u21b5")

    console = make_console()
    searched = bool(found) and "rank" in found[0]
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "memory", "specificity", *(("probability", "rank") if searched else ()), "writes"):
        table.add_column(heading, justify="left" if heading == "writes" else "right")
    for row in found:
        extra = [f"{row['probability']:.4f}", str(row["rank"])] if searched else []
        words = [f"{shown(word['token'])} {100 * word['probability']:.1f}%" for word in row["words"]]
        numbers = [str(row["layer"]), str(row["index"]), f"{row['specificity']:.3f}"]
        table.add_row(*numbers, *extra, Text(", ".join(words)))
    console.print(table)
    for row in found:
        if one:
            console.print(Text("with a negative coefficient: " + ", ".join(shown(token) for token in row["lowered"])))
        for use in row.get("contexts", []):
            line = Text(f"{row['index']:>6} {use['coefficient']:+9.3f}  ")
            line.append("".join(visible(token) for token in use["before"]).replace("\n", "\u21b5")[-80:], style="dim")
            line.append(shown(use["token"]) if use["token"].isspace() else visible(use["token"]), style="bold reverse")
            console.print(line)
