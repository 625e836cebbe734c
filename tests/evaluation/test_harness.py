"""lm-eval's tasks and its command line with our models: what is loaded, what is refused, what is left as it was."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

import infosteer
from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.evaluation import harness
from infosteer.evaluation.harness import SteeredLM, run_harness
from infosteer.evaluation.harness.steered import load_steered
from infosteer.evaluation.harness.vetting import VettedTaskManager, _suspect, refusal
from infosteer.evaluation.harness.writing import style_of, write
from infosteer.training.sidecar import write_sidecar

from .conftest import tiny
from .harness_tasks import CHOICES, QUESTIONS, TASKS, write_task, write_tasks

LIFT = {"method": "key_lift", "fraction": 0.5, "scope": "always"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


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


# -- results --------------------------------------------------------------------------------------------------------


def test_every_example_has_its_score_and_the_measure_is_their_mean(random_model, tokenizer, folder: Path) -> None:
    results = run_harness(random_model, tokenizer, [f"lm_eval:{name}" for name in TASKS], include_path=folder)
    assert list(results) == [f"lm_eval:{name}" for name in TASKS]
    for key, result in results.items():
        assert result.name == key
        assert result.n == len(TASKS[key.removeprefix("lm_eval:")][0])
        for measure, values in result.per_example.items():
            assert result.measures[measure] == pytest.approx(float(np.mean(values)))
            assert len(values) in (1, result.n)
        assert result.settings["batch_size"] == 64
        assert result.settings["dtype"] == "float32"
        assert {"prompt", "answer", "prediction", "correct"} == set(result.samples[0])
        json.dumps(result.settings)
    assert len(results["lm_eval:tiny_shots"].per_example["mcc"]) == 1  # a measure of the set as a whole
    documents = results["lm_eval:tiny_documents"]
    bits = np.log2(documents.measures["byte_perplexity"])
    assert documents.measures["bits_per_byte"] == pytest.approx(bits)
    assert len(documents.per_example["bits_per_byte"]) == documents.n
    assert np.exp(documents.measures["log_word_perplexity"]) == pytest.approx(documents.measures["word_perplexity"])
    writing = results["lm_eval:tiny_writing"]
    assert 0 < writing.failures["unfinished"] <= writing.n
    assert writing.settings["generation"]["max_gen_toks"] == 12


def test_a_group_gives_its_tasks_and_their_examples_together(random_model, tokenizer, folder: Path) -> None:
    seen: list[str] = []
    results = run_harness(
        random_model, tokenizer, ["tiny_group"], include_path=folder, limit=2, done=lambda one: seen.append(one.name)
    )
    assert list(results) == ["lm_eval:tiny_choices", "lm_eval:tiny_blanks", "lm_eval:tiny_group"]
    assert seen == ["lm_eval:tiny_choices", "lm_eval:tiny_blanks"]
    whole = results["lm_eval:tiny_group"]
    assert whole.n == 4
    assert whole.per_example["acc"] == [v for name in seen for v in results[name].per_example["acc"]]


def test_shots_limit_progress_and_generators(random_model, tokenizer, folder: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    before = random.getstate(), torch.get_rng_state()
    results = run_harness(
        random_model,
        tokenizer,
        ["tiny_shots"],
        include_path=folder,
        num_fewshot=1,
        limit=3,
        batch_size=2,
        progress=lambda *news: heard.append(news),
    )
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    (result,) = results.values()
    assert result.n == 3
    assert result.settings["num_fewshot"] == 1
    assert all(sample["prompt"].count("Q: ") == 2 for sample in result.samples)
    assert heard[-1] == ("tiny_shots: likelihoods", 9, 9)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)


def test_a_steered_model_scores_otherwise_and_a_paused_one_as_before(random_model, tokenizer, folder: Path) -> None:
    def scores() -> list[float]:
        result = run_harness(random_model, tokenizer, ["tiny_last_words"], include_path=folder)
        return result["lm_eval:tiny_last_words"].per_example["log_perplexity"]

    plain = scores()
    with infosteer.steer(random_model, [LIFT]) as session:
        steered = scores()
        with session.pause():
            assert scores() == plain
    assert np.abs(np.array(steered) - plain).min() > 1e-4


def test_draws_are_seeded_and_the_batch_plays_no_part(random_model, tokenizer) -> None:
    style = style_of(
        {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "max_gen_toks": 8, "until": "x"}
    )
    asked = [("Q: where?\nA:", style), ("a story", style), ("Q: where?\nA:", style)]

    def draw(batch_size: int, seed: int) -> list[str]:
        found = write(random_model, tokenizer, asked, limit=128, batch_size=batch_size, seed=seed)
        return [one.text for one in found]

    assert draw(1, seed=1) == draw(3, seed=1)
    assert draw(3, seed=1) != draw(3, seed=2)
    assert draw(3, seed=1)[0] != draw(3, seed=1)[2]  # a repeat is another draw


# -- loading --------------------------------------------------------------------------------------------------------


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


# -- refused --------------------------------------------------------------------------------------------------------


def test_tasks_that_run_code_are_refused_by_name_and_their_helpers_are_not_run(
    random_model, tokenizer, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "helper.py").write_text(
        f"import pathlib\npathlib.Path({str(trap)!r}).touch()\n\ndef score(doc, found):\n    return eval(found[0])\n"
    )
    choices = TASKS["tiny_choices"][1]
    cases = {
        "marked": {"unsafe_code": True},
        "fetching": {"metric_list": [{"metric": "no_such_metric", "aggregation": "mean"}]},
        "remote": {"metric_list": [{"metric": "acc", "aggregation": "mean", "hf_evaluate": True}]},
    }
    for name, change in cases.items():
        write_task(tmp_path, name, CHOICES, choices | change)
    write_task(tmp_path, "helped", CHOICES, choices)
    file = tmp_path / "helped.yaml"
    file.write_text(file.read_text() + "process_results: !function helper.score\n")
    trusting = write_task(tmp_path, "trusting", CHOICES, choices)
    trusting.write_text(trusting.read_text().replace("dataset_kwargs:", "dataset_kwargs:\n  trust_remote_code: true"))
    (tmp_path / "all.yaml").write_text(f"group: all_of_them\ntask: {[*cases, 'helped', 'trusting']}\n")
    with pytest.raises(ConfigError) as caught:
        run_harness(random_model, tokenizer, ["all_of_them"], include_path=tmp_path)
    got = str(caught.value.got)
    assert "marked: marked unsafe_code" in got
    assert "helped: helper.py calls eval (helper.py:5)" in got
    assert "trusting: its data set asks for trust_remote_code" in got
    assert "fetching: its metric no_such_metric is code" in got
    assert "remote: its metric acc is code" in got
    assert not trap.exists()
    for name in cases:
        with pytest.raises(ConfigError, match=name):
            run_harness(random_model, tokenizer, [name], include_path=tmp_path)


@pytest.fixture(scope="module")
def shipped() -> Callable[[str], dict[str, Any]]:
    """Configurations that lm-eval ships, by folder and file, without indexing all of them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    root = Path(sys.modules[TaskManager.__module__].__file__ or "").parent
    return lambda name: load_yaml(root / name, resolve_func=False)


@pytest.mark.parametrize(
    "name", ["humaneval/humaneval.yaml", "mbpp/mbpp.yaml", "meqsum/meqsum.yaml", "cruxeval/cruxeval_input.yaml"]
)
def test_shipped_tasks_that_run_or_fetch_code_are_refused(name: str, shipped) -> None:
    try:
        config = shipped(name)
    except FileNotFoundError:
        pytest.skip(f"this lm-eval has no {name}")
    assert refusal(config), name


@pytest.mark.parametrize(
    "name",
    [
        "hellaswag/hellaswag.yaml",
        "gsm8k/gsm8k.yaml",
        "arc/arc_easy.yaml",
        "piqa/piqa.yaml",
        "super_glue/boolq/default.yaml",
        "truthfulqa/truthfulqa_mc2.yaml",
        "wikitext/wikitext.yaml",
        "minerva_math/minerva_math_algebra.yaml",
        "ifeval/ifeval.yaml",
    ],
)
def test_shipped_tasks_that_compare_are_not(name: str, shipped) -> None:
    assert refusal(shipped(name)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import subprocess", "imports subprocess"),
        ("from os import path\nimport os\nos.system('x')", "calls os.system"),
        ("import evaluate as e\ne.load('rouge')", "fetches metrics"),
        ("from evaluate import load", "fetches metrics"),
        ("import sympy\nsympy.parse_expr('x')", "calls sympy.parse_expr"),
        ("import other", "calls exec (other.py:1)"),
        ("from . import other", "calls exec (other.py:1)"),
        ("import re, ast\nre.compile('x'); ast.literal_eval('1'); model.eval()", None),
    ],
)
def test_what_reading_a_helper_finds(text: str, found: str | None, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("exec('1')\n")
    (tmp_path / "helper.py").write_text(text)
    reason = _suspect(tmp_path / "helper.py")
    assert (reason is None) if found is None else (found in str(reason))


def test_unknown_tasks_and_bad_data_say_which(random_model, tokenizer, folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "hollow", [{"q": "x", "options": [""], "gold": 0}], TASKS["tiny_choices"][1])
    write_task(tmp_path, "sparse", [{"other": 1}], TASKS["tiny_choices"][1])
    write_task(
        tmp_path,
        "greedy_for_room",
        QUESTIONS,
        TASKS["tiny_writing"][1] | {"generation_kwargs": {"until": ["x"], "max_gen_toks": 500}},
    )
    write_task(
        tmp_path,
        "beams",
        QUESTIONS,
        TASKS["tiny_writing"][1] | {"generation_kwargs": {"until": ["x"], "max_gen_toks": 5, "num_beams": 4}},
    )
    for name, kind, words in (
        ("hollow", InfoSteerError, "lm_eval:hollow"),
        ("sparse", DataError, "lm_eval:sparse"),
        ("greedy_for_room", ConfigError, "max_gen_toks"),
        ("beams", ConfigError, "num_beams=4"),
    ):
        with pytest.raises(kind, match=words):
            run_harness(random_model, tokenizer, [name], include_path=tmp_path)
    with pytest.raises(ConfigError, match=r"tiny_choises[\s\S]*tiny_choices"):
        VettedTaskManager(include_path=str(folder), include_defaults=False).load(["tiny_choises"])
    with pytest.raises(ConfigError, match="no such folder"):
        run_harness(random_model, tokenizer, ["tiny_choices"], include_path=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no lm-eval task"):
        run_harness(random_model, tokenizer, [])


def test_a_broken_model_gets_no_scores(tokenizer, folder: Path) -> None:
    model = tiny("llama", len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(InfoSteerError, match="not finite"):
        run_harness(model, tokenizer, ["tiny_choices"], include_path=folder)


def test_without_lm_eval_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="infosteer\\[eval\\]"):
        harness.require()
    with pytest.raises(ConfigError, match="infosteer\\[eval\\]"):
        _ = harness.run_harness


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_command_evaluates_a_saved_model_and_refuses_what_is_unsafe(
    saved: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr(sys, "argv", [*command, "tiny_blanks", "--include_path", str(folder), "--batch_size", "2"])
    assert __main__.main() == 0
    assert "|tiny_blanks|" in capsys.readouterr().out
    for flag in ("--trust_remote_code", "--confirm_run_unsafe_code"):
        monkeypatch.setattr(sys, "argv", [*command, "tiny_blanks", "--include_path", str(folder), flag])
        assert __main__.main() == 2
        assert "never runs model text" in capsys.readouterr().err
    write_task(folder, "marked", CHOICES, TASKS["tiny_choices"][1] | {"unsafe_code": True})
    monkeypatch.setattr(sys, "argv", [*command, "marked", "--include_path", str(folder)])
    assert __main__.main() == 2
    assert "marked unsafe_code" in capsys.readouterr().err


def test_importing_the_package_imports_neither_torch_nor_lm_eval_for_those_who_do_not_ask() -> None:
    code = "import sys, infosteer.errors, infosteer.cli.main; assert not {'lm_eval', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_shows_the_measured_throughput() -> None:
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("render_evaluation", root / "benchmarks" / "render_evaluation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.render(text, results) == text, "run: python benchmarks/render_evaluation.py"
    for name, task in results["tasks"].items():
        assert f"| {name} (" in text
        assert task["agreement"] == 1.0
        assert task["cpu"]["ratio_median"] >= 1.0, name
