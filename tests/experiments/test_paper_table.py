"""The published table with ours beside it: cells, averages, gains and notes, against tables made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from infosteer.errors import ConfigError
from infosteer.experiments.figures import Figures, load_figures
from infosteer.experiments.paper_table import markdown, read_cells
from infosteer.experiments.parts import Reproduces

PAPER = "2507.05158"
# averages as the reading notes on the paper give them: base, vanilla, intervention, regularisation
NOTED = {
    "Qwen/Qwen2.5-1.5B": (73.4, 78.1, 80.2, 79.6),
    "meta-llama/Llama-3.2-1B": (72.8, 77.6, 79.7, 78.9),
    "google/gemma-2-2b": (74.6, 79.2, 81.8, 81.0),
}
FIGURES = Figures(
    paper="A Paper",
    number=9,
    title="a title",
    sets=("one", "two"),
    averages={"average": ("one", "two")},
    rows={"base": "base", "plain": "vanilla", "lift": "lifting"},
    models={
        "m/known": {"base": {"one": 40.0, "two": 50.0}, "plain": {"one": 50.0, "two": 60.0}, "lift": {"one": 60.0}}
    },
    unnamed={},
    cautions=("beware",),
)


def row(arm: str, metric: str, mean: float, half: float, n: int = 2, key: str = "mean") -> dict[str, Any]:
    return {
        "arm": arm,
        "metric": metric,
        key: mean,
        "low": mean - half,
        "high": mean + half,
        "n": n,
        "baseline": "plain",
    }


def results(*summary: dict[str, Any], comparisons: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"summary": list(summary), "comparisons": list(comparisons), "failures": [], "notes": []}


def test_a_table_made_by_hand() -> None:
    first = results(
        row("base", "one/exact_match", 0.41, 0.03, n=0),
        row("plain", "one/exact_match", 0.55, 0.03),
        row("plain", "one/answer_nll", 1.5, 0.1),
        row("up", "one/exact_match", 0.60, 0.04),
        row("own", "one/exact_match", 0.10, 0.01),
        comparisons=(row("up", "one/exact_match", 0.05, 0.02, key="difference"),),
    )
    second = results(row("plain", "two/exact_match", 0.65, 0.04))
    cells = read_cells([("m/known", first), ("m/known", second)], FIGURES, {"up": "lift"})
    text = markdown(FIGURES, cells)
    assert text == EXPECTED


EXPECTED = """\
# Table 9: a title

Beside the figures of A Paper.

## m/known

| | | one | two | average |
|---|---|---|---|---|
| base | ours | 41.0 (38.0 to 44.0) |  | 41.0 (38.0 to 44.0)* |
| base | paper | 40.0 | 50.0 | 40.0 |
| base | difference | +1.0 |  | +1.0 |
| vanilla | ours | 55.0 (52.0 to 58.0) | 65.0 (61.0 to 69.0) | 60.0 (57.5 to 62.5) |
| vanilla | paper | 50.0 | 60.0 | 55.0 |
| vanilla | difference | +5.0 | +5.0 | +5.0 |
| lifting | paper | 60.0 |  |  |
| up (beside lifting) | ours | 60.0 (56.0 to 64.0) |  | 60.0 (56.0 to 64.0)* |
| up (beside lifting) | paper | 60.0 |  | 60.0 |
| up (beside lifting) | difference | +0.0 |  | +0.0 |
| own | ours | 10.0 (9.0 to 11.0) |  | 10.0 (9.0 to 11.0)* |

Gain over plain training, paired by seed and example:

| | | one | two | average |
|---|---|---|---|---|
| up (beside lifting) | ours | +5.0 (+3.0 to +7.0) |  | +5.0 (+3.0 to +7.0)* |
| up (beside lifting) | paper | +10.0 |  | +10.0 |
| up (beside lifting) | difference | -5.0 |  | -5.0 |

- right answers, %; ours with 95 % intervals; the paper gives none
- seeds of ours: 2; the paper's: 3
- * over the sets that have results, beside the same sets of the paper where it has them
- caution: beware
"""


def test_the_interval_of_an_average_joins_those_of_its_sets() -> None:
    found = results(row("plain", "one/exact_match", 0.5, 0.03), row("plain", "two/exact_match", 0.7, 0.04))
    cell = read_cells([("m", found)], FIGURES, {}).means["m"]["plain"]["average"]
    assert cell.mean == pytest.approx(60)
    assert cell.high - cell.mean == pytest.approx(math.hypot(3, 4) / 2)
    assert cell.of == 2


def test_models_without_figures_failures_and_no_results() -> None:
    failed = results(row("plain", "one/exact_match", 0.5, 0.1))
    failed["failures"] = [{"arm": "lift", "seed": 3, "error": "The loss is not finite.\n  where: step 2"}]
    text = markdown(FIGURES, read_cells([("other", failed)], FIGURES, {}))
    assert "The paper has no figures of this model." in text
    assert "- failed: other, lift, seed 3: The loss is not finite.\n" in text
    assert "paper |" not in text
    assert "No part has results yet." in markdown(FIGURES, read_cells([], FIGURES, {}))


def test_figures_of_a_model_that_is_not_named_stand_beside_every_model() -> None:
    figures = load_figures(Reproduces(paper=PAPER, table=4))
    found = results(row("plain", "gsm8k/exact_match", 0.6, 0.01), row("plain", "svamp/exact_match", 0.8, 0.01))
    text = markdown(figures, read_cells([("any/model", found)], figures, {}))
    assert "The paper does not say which model its figures are of." in text
    assert "| vanilla SFT | difference | -5.7 |" in text
    line = next(line for line in text.splitlines() if line.startswith("| vanilla SFT | paper"))
    assert line.rstrip(" |").endswith("83.7")
    difference = next(line for line in text.splitlines() if line.startswith("| vanilla SFT | difference"))
    assert difference.endswith("|  |"), "one of five sets is not the paper's average"


def test_the_figures_average_to_what_the_notes_on_the_paper_say() -> None:
    table = load_figures(Reproduces(paper=PAPER, table=1))
    for model, expected in NOTED.items():
        rows = table.models[model]
        for arm, mean in zip(("base", "plain", "intervention", "regularisation"), expected, strict=True):
            assert len(rows[arm]) == 8
            assert sum(rows[arm].values()) / 8 == pytest.approx(mean, abs=0.051)
    assert table.models["Qwen/Qwen2.5-7B"]["intervention"] == {"average": 83.6}


def test_the_cautions_are_true_of_the_figures() -> None:
    rows = load_figures(Reproduces(paper=PAPER, table=1)).models["Qwen/Qwen2.5-1.5B"]
    gains = {name: rows["intervention"][name] - rows["plain"][name] for name in rows["plain"]}
    assert sum(gains.values()) / 8 == pytest.approx(2.1, abs=0.05)
    assert (sum(gains.values()) - gains["hellaswag"]) / 7 == pytest.approx(1.2, abs=0.05)
    assert gains["openbookqa"] < 0
    three, four = (load_figures(Reproduces(paper=PAPER, table=n)).unnamed for n in (3, 4))
    assert {arm: row["math"] for arm, row in three.items()} == {arm: row["gsm8k"] for arm, row in four.items()}


@pytest.mark.parametrize("table", [1, 2, 3, 4, 8])
def test_every_figure_has_a_row_and_a_column(table: int) -> None:
    figures = load_figures(Reproduces(paper=PAPER, table=table))
    for rows in [*figures.models.values(), figures.unnamed]:
        assert set(rows) <= set(figures.rows)
        assert all(set(row) <= set(figures.columns) and row for row in rows.values())
        assert all(0 < value < 100 for row in rows.values() for value in row.values())
    assert bool(figures.models) != bool(figures.unnamed)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        (Reproduces(paper="1234.56789", table=1), "2507.05158"),
        (Reproduces(paper=PAPER, table=5), "1, 2, 3, 4, 8"),
        (Reproduces(paper=PAPER, table=1, rows={"x": "interventoin"}), "intervention"),
    ],
)
def test_unknown_papers_tables_and_rows_are_refused(told: Reproduces, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_figures(told)
