"""The embedded reasoning base: size, plain loading, what it solves, its card, its ladder, and its tuning recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.scripts import load_script

from infosteer.errors import ConfigError
from infosteer.lab import embedded_base, load
from infosteer.lab.reasoning import score
from infosteer.lab.reasoning.card import reasoning_card
from infosteer.lab.reasoning.report import solve
from infosteer.lab.reasoning.tokenizer import make_tokenizer

ROOT = Path(__file__).parents[2]
LADDER = ROOT / "docs/evidence/reasoning-ladder/results.json"


@pytest.fixture(scope="module")
def base():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_base("reasoning")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def report():
    return json.loads((embedded_base("reasoning") / "pretraining.json").read_text())


def test_files_and_size(base) -> None:
    files = {file.name: file.stat().st_size for file in embedded_base("reasoning").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    assert files["model.safetensors"] <= 4_000_000
    with safe_open(embedded_base("reasoning") / "model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(name).dtype) for name in weights.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    model, tokenizer = base
    assert model.config.model_type == "llama"
    assert model.config.vocab_size == len(tokenizer)
    assert 1_500_000 <= sum(p.numel() for p in model.parameters()) <= 2_500_000


def test_the_saved_tokenizer_is_the_one_of_the_code(base) -> None:
    assert base[1].get_vocab() == make_tokenizer().get_vocab()


def test_recipes_name_it() -> None:
    from infosteer.training.loading import resolve_model

    assert resolve_model("embedded:reasoning") == str(embedded_base("reasoning"))
    assert resolve_model("embedded") == resolve_model("embedded:facts") == str(embedded_base())
    with pytest.raises(ConfigError, match="no such embedded base"):
        resolve_model("embedded:sums")


def test_it_solves_shallow_problems_as_its_report_says(base, report) -> None:
    model, tokenizer = base
    rows = [row for row in load("reasoning/id") if row["operations"] == 1][:30]
    texts = solve(model, tokenizer, [row["prompt"] for row in rows])
    right = sum(score(text, row["answer"]).verified for text, row in zip(texts, rows, strict=True)) / len(rows)
    assert right == pytest.approx(report["greedy"]["verified"]["operations_1"], abs=0.25)
    assert right > 0.2


def test_the_card_quotes_the_report(report) -> None:
    assert (embedded_base("reasoning") / "README.md").read_text() == reasoning_card(report)


def test_the_ladder_is_of_problems_with_intervals() -> None:
    found = json.loads(LADDER.read_text())
    assert found["schema"] == 1
    by_name = {row["metric"]: row for row in found["summary"]}
    for axis in ("id", "edge", "hard", "new_context", "reverse"):
        row = by_name[f"{axis}/pass@16"]
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1
        assert by_name[f"{axis}/pass@1"]["mean"] <= row["mean"]
        assert found["settings"][axis]["samples"] == 16
    assert by_name["id/pass@16"]["mean"] > by_name["edge/pass@16"]["mean"] >= by_name["hard/pass@16"]["mean"]


def test_the_page_shows_the_committed_ladder() -> None:
    script = load_script("reasoning_ladder")
    shown = script.PLACE.search((ROOT / "docs/lab.md").read_text())[0]
    assert shown == script.table(json.loads(LADDER.read_text())), "run python benchmarks/reasoning_ladder.py --render"


def test_the_shipped_recipe_runs(tmp_path) -> None:
    from infosteer.experiments.run import run

    small = ["seeds=[1]", "data.options.count=16", "train.num_train_epochs=1"]
    small += [f"evaluate.{name}.limit=2" for name in ("new_context", "id", "edge")]
    path = run("reasoning-sft", tmp_path / "run", overrides=small)
    arms = {row["arm"]: row["metrics"] for row in json.loads((path / "results.json").read_text())["arms"]}
    assert set(arms) == {"base", "plain", "intervention", "regularisation", "protection"}
    for metrics in arms.values():
        for name in ("new_context", "id", "edge"):
            assert {f"{name}/{m}" for m in ("verified", "process", "exact_match", "answer_nll")} <= set(metrics)
