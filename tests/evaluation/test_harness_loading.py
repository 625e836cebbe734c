"""Saved models under lm-eval: by its registry, with a sidecar or a recipe, from its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.scripts import load_script

pytest.importorskip("lm_eval")

from lm_eval.api.registry import get_model

import infosteer
from infosteer.errors import ConfigError
from infosteer.evaluation import harness
from infosteer.evaluation.harness import SteeredLM
from infosteer.evaluation.harness.steered import load_steered
from infosteer.training.sidecar import write_sidecar

from .conftest import tiny
from .harness_tasks import CHOICES, LIFT, TASKS, write_task


@pytest.fixture
def saved(tmp_path: Path, tokenizer) -> Path:
    """A tiny model with its tokenizer in a folder."""
    place = tmp_path / "model"
    tiny("llama", len(tokenizer), seed=3).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def nats(lm: SteeredLM) -> list[float]:
    pairs = [("Q: where?\nA:", " in Paris."), ("a story", " fox")]
    return [total for total, _ in lm.loglikelihood([_Request(pair) for pair in pairs])]  # type: ignore[misc]


class _Request:
    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args


def test_lm_eval_knows_the_model_and_still_knows_its_own() -> None:
    assert get_model("infosteer") is SteeredLM
    assert get_model("dummy").__name__ == "DummyLM"
    harness.register()  # twice is once


def test_a_sidecar_steers_unless_told_otherwise(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = nats(SteeredLM(str(saved)))
    loaded = load_steered(str(saved))
    assert loaded.session is None
    with infosteer.steer(loaded.model, [LIFT, {"method": "key_entropy"}]) as session:
        write_sidecar(saved, session)
        expected = nats(SteeredLM(loaded.model, tokenizer=loaded.tokenizer))
    steered = SteeredLM(str(saved))
    assert nats(steered) == pytest.approx(expected)
    assert [method["method"] for method in steered.get_model_info()["infosteer_methods"]] == ["key_lift"]
    assert "penalties/key_entropy: nothing to do at evaluation" in caplog.text
    assert abs(expected[0] - plain[0]) > 1e-3
    assert nats(SteeredLM(str(saved), methods="none")) == plain


def test_methods_from_a_recipe_and_schedules_at_their_end(saved: Path, tmp_path: Path) -> None:
    plain = nats(SteeredLM(str(saved)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "arms:\n  trained: [{method: key_lift, fraction: 0.5}]\n"
        "  read: [{method: key_lift, fraction: 0.5, scope: evaluation}]\n"
        "  faded: [{method: key_lift, fraction: 0.5, scope: always, "
        "strength: {points: [[0.0, 1.0], [1.0, 0.0]], unit: fraction}}]\n"
    )
    assert nats(SteeredLM(str(saved), methods=str(recipe), arm="trained")) == plain
    assert nats(SteeredLM(str(saved), methods=str(recipe), arm="read")) != plain
    assert nats(SteeredLM(str(saved), methods=str(recipe), arm="faded")) == plain
    with pytest.raises(ConfigError, match="several arms"):
        SteeredLM(str(saved), methods=str(recipe))
    with pytest.raises(ConfigError, match="no such arm"):
        SteeredLM(str(saved), methods=str(recipe), arm="raed")
    with pytest.raises(ConfigError, match="recipe's file"):
        SteeredLM(str(saved), methods="recipe")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trust_remote_code": True}, "remote code is never trusted"),
        ({"colour": 1}, "colour"),
        ({"batch_size": 0}, "at least 1"),
        ({"pretrained": "no/such/folder/here"}, "no such model folder"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SteeredLM(**settings)


def test_without_lm_eval_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="infosteer\\[eval\\]"):
        harness.require()
    with pytest.raises(ConfigError, match="infosteer\\[eval\\]"):
        _ = harness.run_harness


def test_the_command_evaluates_a_saved_model_and_refuses_what_is_unsafe(
    saved: Path, task_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, since starting another costs seconds; lm-eval's own tasks are left out of the index, too."""
    import lm_eval.tasks

    from infosteer.evaluation.harness import __main__, vetting

    class Quick(vetting.VettedTaskManager):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings, include_defaults=False)

    monkeypatch.setattr(vetting, "VettedTaskManager", Quick)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lm_eval.tasks.TaskManager)  # put back afterwards
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    command = ["lm_eval", "--model", "infosteer", "--model_args", f"pretrained={saved},dtype=float32", "--tasks"]
    monkeypatch.setattr(sys, "argv", [*command, "tiny_blanks", "--include_path", str(task_folder), "--batch_size", "2"])
    assert __main__.main() == 0
    assert "|tiny_blanks|" in capsys.readouterr().out
    for flag in ("--trust_remote_code", "--confirm_run_unsafe_code"):
        monkeypatch.setattr(sys, "argv", [*command, "tiny_blanks", "--include_path", str(task_folder), flag])
        assert __main__.main() == 2
        assert "never runs model text" in capsys.readouterr().err
    write_task(task_folder, "marked", CHOICES, TASKS["tiny_choices"][1] | {"unsafe_code": True})
    monkeypatch.setattr(sys, "argv", [*command, "marked", "--include_path", str(task_folder)])
    assert __main__.main() == 2
    assert "marked unsafe_code" in capsys.readouterr().err


def test_importing_the_package_imports_neither_torch_nor_lm_eval_for_those_who_do_not_ask() -> None:
    code = "import sys, infosteer.errors, infosteer.cli.main; assert not {'lm_eval', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_shows_the_measured_throughput() -> None:
    module = load_script("render_evaluation")
    results = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.render(text, results) == text, "run: python benchmarks/render_evaluation.py"
    for name, task in results["tasks"].items():
        assert f"| {name} (" in text
        assert task["agreement"] == 1.0
        assert task["cpu"]["ratio_median"] >= 1.0, name
