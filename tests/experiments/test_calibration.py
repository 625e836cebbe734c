"""``data.calibration``: the text by which methods find out which memories are in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from infosteer.errors import ConfigError, DataError
from infosteer.experiments.inputs import calibration_texts, check_arms
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.run import run

USED = {"protected": [{"method": "protect_used", "profile": "share", "share": 1.0}]}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows: list[dict[str, Any]] = [{"text": f"text {i}"} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_are_read_and_limited(texts: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny.recipe(tmp_path / ".", data={"calibration": str(texts), "calibration_limit": 3}))
    assert calibration_texts(recipe.data) == ["text 0", "text 1", "text 2"]
    assert calibration_texts(load_recipe(tiny.recipe(tmp_path)).data) is None
    pairs = load_recipe(tiny.recipe(tmp_path, data={"calibration": str(tmp_path / "train.jsonl")})).data
    assert all(" -> " in text and text[-1].isupper() for text in calibration_texts(pairs) or [])
    lab = load_recipe(tiny.recipe(tmp_path, data={"calibration": "lab:facts/texts", "calibration_limit": 7})).data
    assert len(calibration_texts(lab) or []) == 7
    texts.write_text(json.dumps({"messages": [{"role": r, "content": "hi"} for r in ("user", "assistant")]}) + "\n")
    with pytest.raises(DataError, match="not chat messages"):
        calibration_texts(recipe.data)


def test_paths_are_resolved_and_arms_may_have_their_own(texts: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(texts.parent)
    arms = {"plain": [], "other": {"methods": USED["protected"], "data": {"calibration": "texts.jsonl"}}}
    recipe = load_recipe(tiny.recipe(tmp_path, arms=arms, data={"calibration": "texts.jsonl"}))
    assert recipe.data.calibration == str(texts)
    assert recipe.data_for("other").calibration == str(texts)
    assert load_recipe(recipe.to_config()) == recipe


def test_a_method_without_its_text_is_found_before_training(tmp_path: Path) -> None:
    recipe = load_recipe(tiny.recipe(tmp_path, arms={"plain": [], **USED}))
    with pytest.raises(ConfigError, match=r"protect_used needs a text(.|\n)*data\.calibration"):
        check_arms(recipe)
    check_arms(load_recipe(tiny.recipe(tmp_path, arms={"off": [{**USED["protected"][0], "strength": 0}]})))
    missing = tiny.recipe(tmp_path, arms=USED, data={"calibration": str(tmp_path / "none.jsonl")})
    with pytest.raises(DataError, match="no such data file"):
        check_arms(load_recipe(missing))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["q_proj", "up_porj"], r"no module of the model has this name(.|\n)*'up_porj'(.|\n)*did you mean 'up_proj'"),
        (["mlp"], r"cannot be adapted(.|\n)*'mlp'"),
        ([], "no module is named"),
        (r".*\.gates", r"no module of the model has this name(.|\n)*gates"),
        ("*", "no regular expression"),
        (".*", "cannot be adapted"),
    ],
    ids=str,
)
def test_modules_that_an_adapter_would_not_find_are_found_before_training(
    wanted: Any, said: str, tmp_path: Path
) -> None:
    def recipe(target: Any) -> Any:
        own = {"methods": [], "train": {"peft": {"r": 2, "target_modules": target}}}
        return load_recipe(tiny.recipe(tmp_path, arms={"plain": [], "adapted": own}))

    with pytest.raises(ConfigError, match=said) as caught:
        check_arms(recipe(wanted))
    assert "arms.adapted" in str(caught.value)
    for target in (["q_proj", "mlp.up_proj"], r".*\.(gate|up)_proj", "all-linear", "All-Linear"):
        check_arms(recipe(target))


def test_a_run_with_it(texts: Path, tmp_path: Path) -> None:
    arms = {"frozen": [{"method": "protect_memory"}], **USED}
    folder = run(tiny.recipe(tmp_path, arms=arms, seeds=[1], data={"calibration": str(texts)}), tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    by_arm = {row["arm"]: row["metrics"] for row in results["arms"]}
    assert by_arm["protected"] == by_arm["frozen"], "all memories protected is all memories frozen"
