"""The paper's recipes: what they say, that they run on tiny models of every family, and what missing rows do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import suite_data
import tiny
from typer.testing import CliRunner

from infosteer.cli.main import app
from infosteer.errors import ConfigError, DataError, RunError
from infosteer.experiments.dry_run import dry_run
from infosteer.experiments.figures import load_figures
from infosteer.experiments.known import KNOWN
from infosteer.experiments.library import shipped_recipes
from infosteer.experiments.parts import Parts, parts_of
from infosteer.experiments.recipe import load_recipe, read_raw
from infosteer.experiments.run import run
from infosteer.experiments.study import _expected_cost, read_study

PAPER = [name for name in shipped_recipes() if name.startswith("paper/")]
SMALL = [name for name in PAPER if name.endswith("-small")]
REAL = Path(os.environ.get("INFOSTEER_DATA", "../shared/data"))
TWO_ARMS = "arms={plain: [], intervention: [{method: key_lift}]}"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite_data.make(tmp_path_factory.mktemp("data"))


@pytest.fixture
def suite(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFOSTEER_DATA", str(made_up))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return made_up


def parts(name: str, *overrides: str) -> Parts:
    return parts_of(*read_raw(name), overrides)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


# -- what they say --------------------------------------------------------------------------------------------------


def test_five_tables_in_two_sizes() -> None:
    assert sorted(PAPER) == sorted(f"paper/table{n}{size}" for n in (1, 2, 3, 4, 8) for size in ("", "-small"))


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_what_appendix_a_says(name: str) -> None:
    found = parts(name)
    models = {part.recipe.model for part in found.chosen}
    assert models == ({"Qwen/Qwen2.5-1.5B"} if name in SMALL else set(KNOWN))
    assert found.reproduces is not None
    figures = load_figures(found.reproduces)
    asked: set[str] = set()
    for part in found.chosen:
        recipe, train = part.recipe, part.recipe.train
        assert (train.learning_rate, train.num_train_epochs, train.warmup_steps) == (5e-5, 1, 100)
        assert (train.per_device_train_batch_size, train.gradient_accumulation_steps) == (4, 16)
        assert (train.weight_decay, train.max_grad_norm, train.max_length) == (0.01, 1.0, 256)
        assert train.gradient_checkpointing
        assert train.bf16 is None, "bf16 where there is a GPU"
        assert train.dtype == ("bfloat16" if recipe.model == "google/gemma-2-9b" else "float32")
        assert recipe.seeds == (1, 2, 3)
        assert recipe.evaluate_base
        assert recipe.baseline == "plain"
        assert {found.reproduces.rows.get(arm, arm) for arm in recipe.arms} | {"base"} == set(figures.rows)
        assert {one.max_new_tokens for one in recipe.evaluate.values()} <= {256, None}
        asked |= set(recipe.evaluate)
    columns = {*figures.sets, *(one for of in figures.averages.values() for one in of)}
    assert asked == (columns - {"hellaswag"} if name in SMALL else columns)


def test_the_tables_arms() -> None:
    arms = parts("paper/table2").chosen[0].recipe.arms
    (lift,) = arms["lift-p2-a5"].methods
    assert (lift["fraction"], lift["alpha"]) == (0.02, 5.0)
    assert arms["entropy-minus-0.01"].methods[0]["weight"] == -0.01
    eight = parts("paper/table8").chosen[0].recipe.arms
    assert eight["lift-early-middle"].methods[0]["layers"] == "early+middle"
    assert eight["entropy-middle-0.05"].methods[0]["weight"] == 0.05
    one = parts("paper/table1").chosen[0].recipe.arms
    assert (
        one["intervention-signed"].methods[0] | {"order": "signed", "reference": "mean"}
        == (one["intervention-signed"].methods[0])
    )
    assert one["intervention"].methods[0]["order"] == "magnitude"


def test_a_part_trains_on_a_task_and_is_asked_that_task() -> None:
    for part in parts("paper/table1").chosen:
        assert list(part.recipe.evaluate) == [part.place["task"]]
        assert part.recipe.evaluate[part.place["task"]].source == f"task:{part.place['task']}"
        assert part.recipe.name == f"paper/table1/{part.name}"
    assert len(parts("paper/table1").chosen) == 48
    assert len(parts("paper/table4").chosen) == 6


def test_they_are_listed_and_found_by_name() -> None:
    listed = invoke("ls", "--recipes", "paper/*", "--json")
    assert {row["name"] for row in json.loads(listed.output)} == set(PAPER)
    assert all(row["description"] for row in json.loads(listed.output))
    with pytest.raises(ConfigError, match="'paper/table1'"):
        read_raw("paper/tabel1")
    with pytest.raises(ConfigError, match="'paper/table4-small'"):
        read_raw("table4-smal")
    with pytest.raises(ConfigError, match="has parts"):
        load_recipe("paper/table4")


# -- validate and estimate ------------------------------------------------------------------------------------------


def test_a_recipe_validates_without_its_model(suite: Path) -> None:
    done = invoke("validate", "paper/table1-small", "--rows", "1")
    assert done.exit_code == 0, done.output
    assert "7; beside table 1 of arXiv 2507.05158" in done.output
    assert "12 training rows; steps: about 1 of 64 rows, on one device; the warm-up never ends" in done.output
    assert "not within reach" in done.output
    assert "The recipe is valid." in done.output


@pytest.mark.parametrize("name", ["paper/table4-small", "paper/table2-small", "paper/table8-small"])
def test_every_small_recipe_validates(name: str, suite: Path) -> None:
    done = invoke("validate", name, "--rows", "0", *([] if "4" in name else ["task=[boolq,arc_easy]"]))
    assert done.exit_code == 0, done.output


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "llm-adapters").is_dir(), reason="no ../shared/data")
def test_types_of_tasks_validate_on_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = invoke("validate", "paper/table3-small", "--rows", "0", "type=[math,reading]")
    assert done.exit_code == 0, done.output
    small = invoke("validate", "paper/table1-small", "--rows", "0", "task=[arc_challenge,arc_easy,openbookqa]")
    for steps in (18, 36, 78):  # as docs/reproduce.md says
        assert f"about {steps} of 64 rows, on one device; the warm-up never ends" in " ".join(small.output.split())


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not (REAL / "llm-adapters").is_dir(), reason="no ../shared/data")
@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_validate_on_real_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = invoke("validate", name, "--rows", "0")
    assert done.exit_code == 0, done.output


def test_the_estimate_counts_every_training(suite: Path) -> None:
    done = invoke("run", "paper/table1", "--estimate", "model=[qwen2.5-1.5b,gemma-2-9b]", "--json")
    assert done.exit_code == 0, done.output
    small, large = json.loads(done.output)
    assert small["trainings"] == large["trainings"] == 7 * 4 * 3
    assert small["unknown"] == ["qwen2.5-1.5b/hellaswag"]
    assert small["stand_in"]
    assert set(small["hours"]) > set(large["hours"]), "9 billion parameters do not fit 48 GB"
    told = invoke("run", "paper/table4", "--estimate", "model=qwen2.5-7b")
    assert "12 trainings" in told.output
    assert "train.dtype=bfloat16" in told.output
    assert "within a factor of two or three" in told.output


# -- runs -----------------------------------------------------------------------------------------------------------


def test_a_dry_run_of_every_family(suite: Path, tmp_path: Path) -> None:
    models = "model=[qwen2.5-1.5b,llama-3.2-1b,gemma-2-2b]"
    done = dry_run("paper/table1", tmp_path / "dry", overrides=[models, "task=boolq", TWO_ARMS])
    assert (done["parts"], done["trainings"], done["missing"]) == (3, 6, [])
    families = {file.parts[-3] for file in (tmp_path / "dry").rglob("results.json")}
    assert families == {"qwen2.5-1.5b", "llama-3.2-1b", "gemma-2-2b"}
    text = (tmp_path / "dry" / "table.md").read_text()
    assert "these numbers mean nothing" in text
    assert all(f"## {model}\n" in text for model in ("Qwen/Qwen2.5-1.5B", "google/gemma-2-2b"))
    assert "test questions asked of those published: boolq 4 of 3,270" in text
    with pytest.raises(RunError, match="another recipe"):
        run("paper/table1", tmp_path / "dry", overrides=["model=qwen2.5-1.5b", "task=boolq"])


def test_a_dry_run_makes_up_what_is_missing(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOSTEER_DATA", str(tmp_path / "nowhere"))
    words = ["paper/table3-small", "--dry-run", "type=linguistic", "arms={plain: []}"]
    done = invoke("run", *words)
    assert done.exit_code == 0, done.output
    assert "1 recipes, 1 trainings of tiny models" in done.output
    assert "the numbers mean nothing" in done.output
    assert done.output.count("made up, since it is not here") == 5
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, "paper/table4"])
def test_recipes_dry_run_whole(name: str, suite: Path, tmp_path: Path) -> None:
    done = dry_run(name, tmp_path / "dry")
    assert done["trainings"] >= 4
    found = read_study(tmp_path / "dry")
    assert found is not None
    figures, cells = found
    for arms in cells.means.values():
        assert {cells.rows[arm] for arm in arms} == set(figures.rows)


def test_a_run_fills_the_table_part_by_part(suite: Path, tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "tiny-one", max_position_embeddings=2048)
    out = tmp_path / "study"
    common = [
        f"model={model}", TWO_ARMS, "seeds=[1]", "train.max_steps=1", "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=1", "train.max_length=1024", "train.gradient_checkpointing=false",
    ]  # fmt: skip

    def go(task: str) -> Path:
        changes = [*common, f"task={task}", f"evaluate.{task}.max_new_tokens=4"]
        return run("paper/table2", out, overrides=changes)

    assert go("boolq") == out
    first = (out / "tiny-one" / "boolq" / "results.json").read_bytes()
    go("piqa")
    assert (out / "tiny-one" / "boolq" / "results.json").read_bytes() == first, "a finished part is left alone"
    results = [json.loads((out / "tiny-one" / task / "results.json").read_text()) for task in ("boolq", "piqa")]
    means = [
        next(row["mean"] for row in one["summary"] if row["arm"] == "plain" and row["metric"].endswith("exact_match"))
        for one in results
    ]
    found = read_study(out)
    assert found is not None
    (cells,) = found[1].means.values()
    assert cells["plain"]["average"].mean == pytest.approx(50 * sum(means))
    text = (out / "table.md").read_text()
    assert text.startswith("# Table 2: magnitude")
    assert "| vanilla SFT | paper | 72.6 |" in text
    assert "difference | " not in text, "two of eight tasks are not the paper's average"
    shown = invoke("report", str(out))
    assert shown.exit_code == 0, shown.output
    assert "# Table 2: magnitude" in shown.output
    assert (out / "tiny-one" / "boolq" / "report.html").is_file()
    with pytest.raises(RunError, match="another recipe"):
        run("paper/table1", out, overrides=["model=qwen2.5-1.5b", "task=boolq"])


def test_a_model_without_an_estimate_runs_all_the_same(suite: Path, tmp_path: Path) -> None:
    adapter = "train.peft={r: 2}"
    told = _expected_cost(parts("paper/table4", "model=qwen2.5-1.5b", adapter))
    assert told == ["no estimate of the cost: The cost of adapters is not modelled. (lora)"]
    assert invoke("run", "paper/table4", "--estimate", "model=qwen2.5-1.5b", adapter).exit_code == 1
    both = invoke("run", "paper/table4", "--estimate", "--dry-run")
    assert both.exit_code == 2


def test_missing_rows_stop_a_run_before_it_begins(suite: Path, tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", max_position_embeddings=2048)
    with pytest.raises(DataError, match=r"leave them out: task=\[boolq\]") as caught:
        run("paper/table1", tmp_path / "run", overrides=[f"model={model}", "task=[boolq,hellaswag]"])
    assert "model/hellaswag" in str(caught.value)
    assert "docs/reproduce.md" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_table_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    recipe = {
        "data": {"train": "nowhere"},
        "arms": {"plain": []},
        "evaluate": {"id": "lab:facts/new_people"},
        "parts": {"seed": {"one": {"seeds": [1]}}},
        "reproduces": {"paper": "2507.05158", "table": 7},
    }
    with pytest.raises(ConfigError, match="no figures of this table"):
        run(recipe, tmp_path / "run")
    with pytest.raises(ConfigError, match="quote it"):
        run({**recipe, "reproduces": {"paper": 2507.05158, "table": 1}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
