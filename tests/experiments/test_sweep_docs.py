"""The recipes on the page about sweeps are valid and come to what the page says."""

from __future__ import annotations

import re
from pathlib import Path

from infosteer.experiments.sweep.drive import plan_of
from infosteer.experiments.sweep.plan import distinct

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sweeps.md"


def test_the_recipes_on_the_page(tmp_path: Path) -> None:
    plans = []
    for index, block in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)):
        path = tmp_path / f"r{index}.yaml"
        path.write_text(block)
        plans.append(plan_of(path)[0])
    doses, tuned, drawn = plans
    assert {arm: len(cells) for arm, cells in doses.cells.items()} == {"plain": 1, "lift": 4, "entropy": 4}
    assert len(distinct(doses.final())) == 27
    assert tuned.budget() == {"plain": 18, "lift": 18, "protection": 18}
    assert tuned.final_count() == 3 * 8
    assert tuned.tune_sets["new_form"].limit == 100
    assert len(drawn.cells["plain"]) == 8
    assert drawn.cells["plain"] == drawn.cells["lift"]
