"""Every verb: what it prints, for people and for programs, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import yaml

VERBS = (
    "run",
    "sweep",
    "demo",
    "eval",
    "report",
    "inspect",
    "memory",
    "compare",
    "validate",
    "locate",
    "ls",
    "show",
    "new",
    "env",
)
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(inputs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(inputs, seeds=[1]), sort_keys=False))
    return path


def test_help_needs_no_torch_and_no_time() -> None:
    code = (
        "import sys, time; sys.argv = ['infosteer', '--help']\n"
        "from infosteer.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'trl'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert time.process_time() < 0.5, time.process_time()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(infosteer: Call, verb: str) -> None:
    code, out, _ = infosteer(verb, "--help")
    assert code == 0
    assert "Usage: infosteer " + verb in " ".join(out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-such-option",),
        ("no-such-verb",),
        ("run",),
        ("run", "demo", "learning_rate"),
        ("new", "nowhere", "key_noise"),
        ("new", "penalties", "Bad-Name"),
        ("new", "penalties", "class"),
        ("validate", "demo", "--rows", "-1"),
    ],
)
def test_bad_usage_exits_with_2(infosteer: Call, arguments: tuple[str, ...]) -> None:
    code, _, err = infosteer(*arguments)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "no-such-recipe"),
        ("run", "demo", "train.lerning_rate=1"),
        ("show", "no_such_method"),
        ("ls", "nothing/*"),
        ("locate", "/no/such/model"),
        ("validate", "/no/such/recipe.yaml"),
    ],
)
def test_errors_exit_with_1_and_no_traceback(infosteer: Call, arguments: tuple[str, ...]) -> None:
    code, out, err = infosteer(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert "docs/errors/" in err


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infosteer", "--debug", "show", "no_such_method"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_an_unexpected_error_is_short_too(infosteer: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from infosteer.core import registry

    def broken(pattern: str = "*") -> list[str]:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(registry, "list_methods", broken)
    code, _, err = infosteer("ls")
    assert code == 1
    assert "Unexpected error (ZeroDivisionError): a bug" in err
    assert "Traceback" not in err


def test_pretraining_ends_with_where_its_model_lies_and_no_word_of_a_report(infosteer: Call, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    stage = {"steps": 1, "operations": [1, 1], "batch_size": 2, "learning_rate": 1e-3}
    train = {"stage": "pretrain", "stages": [stage], "warmup_steps": 1, "decay_steps": 1}
    recipe = {
        "train": {**train, "test_problems": 1, "architecture": {**sizes, "num_key_value_heads": 2}},
        "data": {"lab": "reasoning"},
    }
    path = tmp_path / "pretrain.yaml"
    path.write_text(yaml.safe_dump(recipe))
    code, out, err = infosteer("run", str(path), "--output", str(tmp_path / "out"))
    assert code == 0, err
    assert out.replace("\n", "").endswith(str(tmp_path / "out"))
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    assert "report" not in out + err
    code, out, err = infosteer("run", str(path), "--output", str(tmp_path / "json"), "--json")
    assert (code, json.loads(out)) == (0, {"folder": str(tmp_path / "json")}), err
    (tmp_path / "out" / "results.json").write_text("{}")
    code, _, err = infosteer("run", str(path), "--output", str(tmp_path / "out"))
    assert code == 1
    assert "trained arms" in err


def test_run_prints_tables_and_goes_on(infosteer: Call, recipe: Path, tmp_path: Path) -> None:
    code, out, err = infosteer("run", recipe, "--output", tmp_path / "out", "train.max_steps=2")
    assert code == 0, err
    for word in ("mean by arm", "difference from plain", "lift", "answer_nll", "one seed"):
        assert word in out
    assert str(tmp_path / "out" / "results.json") in out
    assert "2 trainings, 0 finished before" in err
    code, out, err = infosteer("run", recipe, "-o", tmp_path / "out", "train.max_steps=2", "--json")
    assert code == 0
    assert "2 trainings, 2 finished before" in err
    assert json.loads(out) == json.loads((tmp_path / "out" / "results.json").read_text())
    code, _, err = infosteer("run", recipe, "-o", tmp_path / "out", "train.max_steps=3")
    assert code == 1
    assert "train.max_steps: 2 -> 3" in err


def test_a_failed_arm_shows_the_others_and_exits_with_1(infosteer: Call, recipe: Path, tmp_path: Path) -> None:
    wild = "arms.wild=[{method: key_lift, alpha: 1e38, fraction: 1}, {method: key_lift, alpha: 1e38, fraction: 1}]"
    code, out, err = infosteer("run", recipe, "-o", tmp_path / "out", wild, "train.max_steps=2")
    assert code == 1
    assert "1 of 3 trainings failed" in err
    assert "fix: lower the learning rate or the strength" in err
    assert "mean by arm" in out
    assert "wild, seed 1" in out


def test_bad_rows_are_named_or_counted(infosteer: Call, recipe: Path, inputs: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text((inputs / "train.jsonl").read_text() + '{"prompt": "only"}\n')
    change = f"data.train={rows}"
    code, _, err = infosteer("run", recipe, "-o", tmp_path / "out", change)
    assert code == 1
    assert "rows.jsonl:25" in err
    code, _, err = infosteer("run", recipe, "-o", tmp_path / "out2", change, "--skip-bad-rows", "arms={plain: []}")
    assert code == 0, err
    assert "1 bad rows skipped" in err


def test_validate_shows_tokens_and_loss_mask(infosteer: Call, recipe: Path) -> None:
    code, out, err = infosteer("validate", recipe, "--rows", "2")
    assert code == 0, err
    assert "24, and 0 bad ones skipped" in out
    assert "row 1: " in out
    assert "[<end>]" in out, "the end token carries loss"
    code, out, _ = infosteer("validate", recipe, "--rows", "1", "--json")
    tokens = json.loads(out)["rows"][0]["tokens"]
    assert "".join(t["text"] for t in tokens if not t["loss"]).endswith(" -> ")
    assert [t["text"] for t in tokens if t["loss"]][-1] == "<end>"


@pytest.mark.parametrize("name", ["lab-pretrain", "lab-gpt2-pretrain", "reasoning-pretrain"])
def test_validate_checks_pretraining(infosteer: Call, name: str) -> None:
    code, out, err = infosteer("validate", name)
    assert code == 0, err
    assert out.endswith("The recipe is valid.\n")
    assert " stages" in out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("train.optimiser=muon", "did you mean optimizer?"),
        ("nonsense=1", "nonsense"),
        ("data=3", "data"),
        ("data.lab=[1]", "data.lab"),
        ("train.stages=5", "train.stages"),
        ("train.stages=[1]", "train.stages[0]"),
        ("train.stages=[]", "train.stages"),
        ("train.stages[0].steps=1.5", "train.stages[0].steps"),
        ("train.stages[0].learning_rate=fast", "train.stages[0].learning_rate"),
        ("train.warmup_steps=abc", "train.warmup_steps"),
        ("train.decay_steps=true", "train.decay_steps"),
        ("train.bf16=1", "train.bf16"),
        ("train.architecture=3", "train.architecture"),
        ("train.architecture.hidden_sise=3", "hidden_sise"),
        ("train.architecture.n_head=7", "train.architecture"),
        ("data.general_files=[1]", "data.general_files[0]"),
    ],
)
def test_validate_refuses_what_pretraining_would(infosteer: Call, change: str, named: str) -> None:
    code, _, err = infosteer("validate", "lab-gpt2-pretrain", change)
    assert code == 1
    assert named in err
    assert "Unexpected" not in err


@pytest.mark.parametrize("flag", ["--estimate", "--dry-run"])
def test_a_pretraining_has_no_arms_to_estimate_or_try(infosteer: Call, flag: str) -> None:
    code, _, err = infosteer("run", "lab-pretrain", flag)
    assert code == 1
    assert "fine-tuning alone" in err


def test_validate_finds_layers_that_do_not_exist(infosteer: Call, recipe: Path) -> None:
    code, _, err = infosteer("validate", recipe, "arms.lift[0].layers=[0, 9]")
    assert code == 1
    assert "9" in err


def test_locate(infosteer: Call, inputs: Path) -> None:
    code, out, _ = infosteer("locate", inputs / "model")
    assert code == 0
    assert "model.layers.1.mlp.down_proj" in out
    code, out, _ = infosteer("locate", inputs / "model", "--json", "--prove")
    facts = json.loads(out)
    assert code == 0
    assert facts["proven"]
    assert [(site["layer"], site["width"], site["hidden"]) for site in facts["sites"]] == [(0, 64, 32), (1, 64, 32)]


def test_ls(infosteer: Call) -> None:
    _, out, _ = infosteer("ls")
    for name in ("interventions/key_lift", "penalties/key_entropy", "params/protect_memory"):
        assert name in out
    code, out, _ = infosteer("ls", "penalties/*", "--json")
    assert code == 0
    rows = json.loads(out)
    assert rows
    assert all(row["name"].startswith("penalties/") and row["summary"] and row["paper"] for row in rows)
    code, out, _ = infosteer("ls", "--recipes", "--json")
    assert {"demo", "arc-easy", "gsm8k", "qwen2.5-1.5b-lora"} <= {row["name"] for row in json.loads(out)}


def test_show(infosteer: Call) -> None:
    code, out, _ = infosteer("show", "key_lift")
    assert code == 0
    assert "interventions/key_lift" in out
    _, out, _ = infosteer("show", "penalties/key_entropy", "--json")
    settings = json.loads(out)["settings"]
    assert settings["weight"]["default"] == 0.01
    assert settings["weight"]["help"]
    _, out, _ = infosteer("show", "key_lift", "--recipe")
    assert "key_lift" in yaml.safe_load(out)["arms"]["intervention"][0].values()


def test_env(infosteer: Call) -> None:
    code, out, _ = infosteer("env")
    assert code == 0
    assert "torch" in out
    _, out, _ = infosteer("env", "--json")
    facts = json.loads(out)
    assert facts["packages"]["transformers"]
    assert set(facts["extras"]) == {"eval", "plots", "kernels", "scale", "track", "vllm"}
