"""Two models for ``infosteer compare``: what is read of them, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_DEFAULT_TEXTS = 64  # biographies of the lab


def read_models(
    first: str,
    second: str,
    texts: Path | None,
    statements: Path | None,
    requests: tuple[Path | None, Path | None],
    rows: int,
) -> dict[str, Any]:
    """Load and compare two models. Raises: InfoSteerError for files or models that cannot be used."""
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


def show_table(console: Console, title: str, columns: list[str], rows: list[list[str]], *, texts: int = 1) -> None:
    """A table whose first ``texts`` columns are text."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if number < texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def show_models(console: Console, found: dict[str, Any]) -> None:
    """The tables of a comparison of two models."""
    parts: dict[str, dict[int | None, float]] = {}
    for row in found["drift"]:
        parts.setdefault(row["part"], {})[row["layer"]] = row["relative"]
    layers = sorted({layer for by_layer in parts.values() for layer in by_layer if layer is not None})
    columns = ["weights", "outside", *map(str, layers)]
    rows = [
        [part, *(f"{100 * by_layer[key]:.2f}" if key in by_layer else "-" for key in (None, *layers))]
        for part, by_layer in parts.items()
    ]
    show_table(console, "Change of the weights by layer, |B - A| / |A| in %", columns, rows)
    shown = [[name, f"{v['a']:.4g}", f"{v['b']:.4g}", f"{v['b'] - v['a']:+.3g}"] for name, v in found["text"].items()]
    show_table(console, "The same text as each model reads it", ["measure", "A", "B", "B - A"], shown)
    concepts = [
        [str(row["layer"]), f"{row['kept']:.3f}", f"{row['same']:.3f}", f"{row['chance']:.4f}",
         f"{row['specificity_a']:.3f}", f"{row['specificity_b']:.3f}"]
        for row in found["concepts"]
    ]  # fmt: skip
    columns = ["layer", "kept of 10 tokens", "same first token", "by chance", "specificity A", "B"]
    show_table(console, "Concepts of the memories: what stays", columns, concepts)
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
        show_table(console, title, ["layer", "A", "B", "A's in B", "B's in A", "cosine", "shuffled"], rows)
