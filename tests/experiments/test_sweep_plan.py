"""What a sweep plans: cells, trials, budgets, which trials are one, and what it refuses."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from infosteer.errors import ConfigError
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.run import run
from infosteer.experiments.source import Source
from infosteer.experiments.sweep.cells import cells_of, label
from infosteer.experiments.sweep.drive import plan_of
from infosteer.experiments.sweep.plan import Plan, address, distinct
from infosteer.experiments.sweep.settings import Range, SweepSettings

LR, EPOCHS, FRACTION = "train.learning_rate", "train.num_train_epochs", "arms.lift[0].fraction"
TUNE: dict[str, Any] = {"seeds": [11, 12], "metric": "id/exact_match"}


def recipe(sweep: Any = None, **changes: Any) -> dict[str, Any]:
    return {
        "data": {"train": "lab:facts"},
        "arms": {"plain": [], "lift": [{"method": "key_lift"}], "frozen": [{"method": "protect_memory"}]},
        "seeds": [1, 2, 3],
        "evaluate": {"id": "lab:facts/new_people", "form": {"source": "lab:facts/new_form", "limit": 50}},
        **({} if sweep is None else {"sweep": sweep}),
        **changes,
    }


def plan(sweep: Any = None, **changes: Any) -> Plan:
    return plan_of(recipe(sweep, **changes))[0]


def test_without_a_section_arms_and_seeds_are_the_trials() -> None:
    found = plan()
    rows = found.final()
    assert [(row.name, row.seed) for row in rows] == [
        (arm, seed) for seed in (1, 2, 3) for arm in ("plain", "lift", "frozen")
    ]
    assert len(distinct(rows)) == 9
    assert found.tuning == []


def test_the_cells_are_all_combinations_in_order() -> None:
    found = plan({"grid": {LR: [1e-4, 2e-4], EPOCHS: [3, 6, 12]}})
    expected = [{LR: rate, EPOCHS: epochs} for rate, epochs in itertools.product([1e-4, 2e-4], [3, 6, 12])]
    assert found.cells == dict.fromkeys(("plain", "lift", "frozen"), expected)
    assert len(distinct(found.final())) == 3 * 6 * 3
    row = next(row for row in found.final() if row.arm == "lift" and row.cell == expected[4])
    assert (row.trial.recipe.train.learning_rate, row.trial.recipe.train.num_train_epochs) == (2e-4, 6)
    assert row.name == "lift learning_rate=0.0002, num_train_epochs=6"
    assert found.baseline_of(row.cell) == "plain learning_rate=0.0002, num_train_epochs=6"


def test_an_arms_own_keys_make_no_cells_for_others() -> None:
    found = plan({"grid": {FRACTION: [0.1, 0.5], LR: [1e-4, 2e-4], "arms.frozen[0].values": [0.0, 0.5, 1.0]}})
    assert {arm: len(cells) for arm, cells in found.cells.items()} == {"plain": 2, "lift": 4, "frozen": 6}
    row = next(row for row in found.final() if row.name == "lift fraction=0.5, learning_rate=0.0001")
    (method,) = row.trial.recipe.arms["arm"].methods
    assert method["fraction"] == 0.5
    assert found.baseline_of(row.cell) == "plain learning_rate=0.0001"


def test_draws_are_the_same_for_all_arms_and_stay_the_same() -> None:
    random: dict[str, tuple[Any, ...] | Range] = {
        LR: Range(low=1e-4, high=1e-2, log=True),
        EPOCHS: (3, 6, 12),
        "train.warmup_steps": Range(low=2.5, high=7.5, whole=True),
        FRACTION: Range(low=0.1, high=0.2),
    }
    sweep = SweepSettings(random=random, trials=200, seed=5)
    arms = ["plain", "lift"]
    plain, lift = (cells_of(sweep, arm, arms) for arm in arms)
    assert len(plain) == len(lift) == 200
    assert [{key: cell[key] for key in plain[0]} for cell in lift] == plain
    assert cells_of(sweep, "plain", arms) == plain
    rates = [cell[LR] for cell in plain]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-2
    assert 70 < sum(rate < 1e-3 for rate in rates) < 130, "half of the draws lie in the lower decade"
    assert {cell["train.warmup_steps"] for cell in plain} == {3, 4, 5, 6, 7}
    assert {cell[EPOCHS] for cell in plain} == {3, 6, 12}
    assert all(0.1 <= cell[FRACTION] <= 0.2 for cell in lift)
    other = SweepSettings(random=random, trials=200, seed=6)
    assert cells_of(other, "plain", arms) != plain


def test_repeated_draws_are_one_cell_and_draws_go_with_every_grid_cell() -> None:
    assert len(cells_of(SweepSettings(random={EPOCHS: (3, 6)}, trials=50), "plain", ["plain"])) == 2
    both = SweepSettings(grid={LR: (1e-4, 2e-4)}, random={"train.weight_decay": Range(low=0, high=1)}, trials=3)
    assert len(cells_of(both, "plain", ["plain"])) == 6


def test_every_arm_has_the_same_tuning_budget_on_seeds_of_its_own() -> None:
    found = plan({"grid": {LR: [1e-4, 2e-4], EPOCHS: [3, 6]}, "tune": TUNE})
    assert found.budget() == {"plain": 8, "lift": 8, "frozen": 8}
    assert {row.seed for row in found.tuning} == {11, 12}
    chosen = {arm: cells[1] for arm, cells in found.cells.items()}
    final = found.final(chosen)
    assert {row.seed for row in final} == {1, 2, 3}
    assert [row.name for row in final[:3]] == ["plain", "lift", "frozen"]
    assert not {row.trial.key for row in final} & {row.trial.key for row in found.tuning}
    assert set(found.tuning[0].trial.recipe.evaluate) == {"id"}, "tuning evaluates what the metric needs"
    assert set(final[0].trial.recipe.evaluate) == {"id", "form"}


def test_tuning_may_evaluate_less_and_other_sets() -> None:
    sets = {"id": {"limit": 20}, "dev": "lab:facts/new_attribute"}
    tune = {**TUNE, "metric": ["id/exact_match", "dev/exact_match"], "sets": sets}
    found = plan({"grid": {LR: [1e-4, 2e-4]}, "tune": tune})
    used = found.tuning[0].trial.recipe.evaluate
    assert (used["id"].source, used["id"].limit) == ("lab:facts/new_people", 20)
    assert used["dev"].source == "lab:facts/new_attribute"
    assert found.tuning[0].trial.recipe.train.save_model is False


def test_equal_trials_are_one() -> None:
    arms = {"plain": [], "also_plain": [], "rate": {"train": {LR.partition(".")[2]: 2e-4}}}
    rows = plan({"grid": {LR: [1e-4, 2e-4]}}, arms=arms).final()
    keys = {(row.name, row.seed): row.trial.key for row in rows}
    assert keys["plain learning_rate=0.0001", 1] == keys["also_plain learning_rate=0.0001", 1]
    assert keys["plain learning_rate=0.0002", 1] == keys["rate learning_rate=0.0001", 1], "its own rate stays"
    assert keys["plain learning_rate=0.0002", 1] != keys["plain learning_rate=0.0002", 2]
    assert len(distinct(rows)) == 2 * 3


def test_addresses_depend_on_what_decides_and_on_nothing_else(tmp_path: Path) -> None:
    sweep = {"grid": {LR: [1e-4, 3e-4]}, "tune": TUNE}
    first = plan(sweep)
    keys = [row.trial.key for row in first.tuning]
    renamed = plan({**sweep, "workers": 7, "primary": "form/exact_match"}, name="other", description="x", seeds=[5])
    assert [row.trial.key for row in renamed.tuning] == keys
    assert not set(keys) & {row.trial.key for row in plan(sweep, train={"weight_decay": 0.5}).tuning}
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(first.recipe.to_config(), sort_keys=False))
    again = Plan(load_recipe(path), Source("resolved"))
    assert again.recipe == first.recipe
    assert [row.trial.key for row in again.tuning] == keys, "workers that read the resolved recipe agree"
    assert [row.trial.key for row in again.final({"plain": {LR: 1e-4}})] == [
        row.trial.key for row in first.final({"plain": {LR: 1e-4}})
    ]


def test_addresses_do_not_depend_on_what_is_left_at_its_default() -> None:
    def keys(**changes: Any) -> list[str]:
        return [row.trial.key for row in plan(**changes).final()]

    arms = {"plain": [], "lift": [{"method": "key_lift", "fraction": 0.01, "strength": 1.0}], "frozen": []}
    bare = {"plain": [], "lift": [{"method": "key_lift"}], "frozen": []}
    assert keys(arms=arms, train={"weight_decay": 0.01, "peft": None}) == keys(arms=bare)
    adapters = {"r": 16, "dropout": 0.5}
    assert keys(train={"peft": adapters}) == keys(train={"peft": {"dropout": 0.5}}) != keys(train={"peft": {}})
    assert keys(train={"peft": {}}) != keys()
    first = plan(arms=bare).final()[1].trial
    text = address(first.recipe)
    assert text == first.key
    assert re.fullmatch("[0-9a-f]{20}", text)


def test_a_trials_own_recipe_is_one_that_run_takes() -> None:
    row = plan({"grid": {LR: [1e-4, 2e-4]}}, arms={"slow": {"train": {"weight_decay": 0.5}}}).final()[1]
    loaded = load_recipe(row.trial.recipe.to_config())
    assert loaded == row.trial.recipe
    assert (loaded.train.learning_rate, loaded.train.weight_decay, loaded.seeds) == (2e-4, 0.5, (1,))


def test_the_base_is_evaluated_once_for_all_that_share_it() -> None:
    rows = plan({"grid": {LR: [1e-4, 2e-4], "train.dtype": ["float32", "bfloat16"]}}, evaluate_base=True).final()
    bases = [trial for trial in distinct(rows) if trial.arm == "base"]
    assert len(bases) == 2, "one for each precision"
    assert distinct(rows)[:2] == bases, "before the arms"


def test_labels_are_short_where_they_can_be() -> None:
    assert label({"arms.a[0].fraction": 0.1, "train.bf16": None}) == "fraction=0.1, bf16=null"
    assert label({"arms.a[0].x": 1, "arms.a[1].x": 2}) == "arms.a[0].x=1, arms.a[1].x=2"


GRID = {LR: [1e-4, 2e-4]}


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"gird": GRID}, "'grid'"),
        ({"grid": {"train.learning_rat": [1, 2]}}, "'learning_rate'"),
        ({"grid": {"trian.learning_rate": [1, 2]}}, "'train'"),
        ({"grid": {"train.learning_rate.x": [1, 2]}}, "nothing inside"),
        ({"grid": {"arms.lift[3].fraction": [0.1]}}, "No such list entry"),
        ({"grid": {"arms.lift[0].fracton": [0.1]}}, "'fraction'"),
        ({"grid": {"arms.left[0].fraction": [0.1]}}, "'lift'"),
        ({"grid": {"arms.lift": [[], []]}}, "the whole of one"),
        ({"grid": {"arms.plain[0].fraction": [0.1]}}, "No such list entry"),
        ({"grid": {"evaluate.id.limit": [1, 2]}}, "judged alike"),
        ({"grid": {"seeds": [[1], [2]]}}, "sweep.tune.seeds"),
        ({"grid": {"..": [1]}}, "cannot vary"),
        ({"grid": {LR: []}}, "no values"),
        ({"grid": {}}, "Nothing varies"),
        ({"random": {}, "trials": 3}, "nothing to draw"),
        ({"grid": {LR: [1e-4, float("nan")]}}, "finite"),
        ({"grid": {"data.options": [{"people": float("inf")}]}}, "finite"),
        ({"grid": {LR: [1e-4, 2e-4, 1e-4]}}, "twice"),
        ({"grid": {LR: [1e-4, -1]}}, "> 0"),
        ({"grid": {LR: [1e-4, "fast"]}}, "a number"),
        ({"grid": {LR: 1e-4}}, "a list"),
        (
            {
                "grid": {
                    key: list(range(1, 1001)) for key in ("train.max_steps", "train.warmup_steps", "train.max_length")
                }
            },
            "9,000,000,000",
        ),
        ({"random": {LR: [1e-4]}}, "number of draws"),
        ({"trials": 3}, "nothing to draw"),
        ({"random": {LR: {"low": 1, "high": 1}}, "trials": 2}, "low < high"),
        ({"random": {LR: {"low": 0, "high": 1, "log": True}}, "trials": 2}, "above 0"),
        ({"random": {EPOCHS: {"low": 0.2, "high": 0.8, "whole": True}}, "trials": 2}, "whole number"),
        ({"random": {LR: {"low": 1, "high": 2, "logg": True}}, "trials": 2}, "'log'"),
        ({"random": {LR: {"low": 1}}, "trials": 2}, "'sweep.random.train.learning_rate.high' is missing"),
        ({"grid": GRID, "random": {LR: [1]}, "trials": 2}, "in the grid too"),
        ({"random": {LR: {"low": 1, "high": 2}}, "trials": 10**9}, "9,000,000,000"),
        ({"grid": GRID, "tune": {**TUNE, "seeds": [3, 4]}}, "cannot judge"),
        ({"grid": GRID, "tune": {**TUNE, "seeds": []}}, "Tuning seeds"),
        ({"grid": GRID, "tune": {**TUNE, "seeds": [11, 11]}}, "Tuning seeds"),
        ({"grid": GRID, "tune": {**TUNE, "metric": "exact_match"}}, "id/<measure>"),
        ({"grid": GRID, "tune": {**TUNE, "metric": []}}, "a metric"),
        ({"grid": GRID, "tune": {**TUNE, "metric": ["id/exact_match", "id/answer_nll"]}}, "means nothing"),
        ({"grid": GRID, "tune": {**TUNE, "sets": {"form": {}}}}, "form/<measure>"),
        ({"grid": GRID, "tune": {**TUNE, "sets": {"id": {"limt": 3}}}}, "'limit'"),
        ({"grid": GRID, "tune": {**TUNE, "sets": {"id": {}, "dev": {"limit": 3}}}}, "source"),
        ({"grid": GRID, "tune": {"seeds": [11]}}, "sweep.tune.metric"),
        ({"grid": GRID, "primary": "no/exact_match"}, "of no set"),
        ({"tune": TUNE}, "nothing to tune"),
        ({"grid": {**GRID, FRACTION: [0.1, 0.2]}, "tune": TUNE}, "plain: 4 tuning trials; lift: 8"),
        ({"grid": {FRACTION: [0.1, 0.2]}, "tune": {**TUNE, "per_arm": False}}, "take the baseline's cell"),
        ({"grid": GRID, "workers": 0}, "workers"),
        ({"grid": GRID, "ceiling": -1}, "ceiling"),
    ],
)
def test_what_cannot_be_meant_is_refused(sweep: dict[str, Any], words: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        plan(sweep)
    assert words in str(caught.value)
    assert "sweep" in str(caught.value.where or caught.value)
    assert time.monotonic() - started < 5


def test_unequal_budgets_can_be_allowed() -> None:
    found = plan({"grid": {**GRID, FRACTION: [0.1, 0.2]}, "tune": {**TUNE, "unequal_budget": True}})
    assert found.budget() == {"plain": 4, "lift": 8, "frozen": 4}


def test_an_arm_that_a_swept_key_does_not_reach_has_less_budget() -> None:
    with pytest.raises(ConfigError, match="slow: 2 tuning trials"):
        plan({"grid": GRID, "tune": TUNE}, arms={"plain": [], "slow": {"train": {"learning_rate": 1e-6}}})


def test_errors_name_the_line_in_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe(), sort_keys=False) + "sweep:\n  grid:\n    train.learning_rat: [1, 2]\n")
    line = path.read_text().splitlines().index("    train.learning_rat: [1, 2]") + 1
    with pytest.raises(ConfigError, match=rf"r\.yaml:{line}, key sweep\.grid\.train\.learning_rat"):
        plan_of(path)


def test_run_refuses_a_sweep_and_sweep_a_pretraining(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="infosteer sweep"):
        run(recipe({"grid": GRID}), tmp_path / "run")
    with pytest.raises(ConfigError, match="fine-tuning"):
        plan_of("lab-pretrain")


def test_paths_in_a_grid_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    found = plan({"grid": {"data.train": ["a.jsonl", "b.jsonl"]}})
    assert found.cells["plain"] == [{"data.train": str(tmp_path / name)} for name in ("a.jsonl", "b.jsonl")]
