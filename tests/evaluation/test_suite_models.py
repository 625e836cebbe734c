"""``infosteer eval`` of several models: names, seeds, comparisons, failures, and models that a sidecar steers."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

import infosteer
from infosteer.core.config import load_yaml
from infosteer.errors import ConfigError, RunError
from infosteer.evaluation import evaluate, load_set
from infosteer.experiments.suite.run import run_suite
from infosteer.experiments.suite.settings import arms_of
from infosteer.training.loading import load_model, load_tokenizer

from .suite_inputs import asked, read_json


def test_models_are_compared_with_the_first(world: Path, tmp_path: Path) -> None:
    worse = shutil.copytree(world / "model", tmp_path / "checkpoints" / "worse" / "seed-3")
    model = load_model(str(worse))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(-1)
    model.save_pretrained(worse)
    better = shutil.copytree(world / "model", tmp_path / "checkpoints" / "better" / "seed-3")
    settings = asked(world, models=(str(better), str(worse)))
    path = run_suite(settings, tmp_path / "out")
    results = read_json(path / "results.json")
    assert [(row["arm"], row["seed"]) for row in results["arms"]] == [("better", 3), ("worse", 3)]
    assert load_yaml(path / "recipe.yaml")["seeds"] == [3]
    pairs = {row["metric"]: row for row in results["comparisons"]}
    assert {row["baseline"] for row in pairs.values()} == {"better"}
    assert pairs["taught/exact_match"]["difference"] == -0.8
    assert pairs["taught/exact_match"]["p_value"] == pytest.approx(2 * 0.5**4), "McNemar: four of four worse"
    (mean,) = [r for r in results["macro"] if r["arm"] == "worse" and r["measure"] == "exact_match"]
    first = next(r for r in results["macro"] if r["arm"] == "better" and r["measure"] == "exact_match")
    assert mean["comparison"]["difference"] == pytest.approx(mean["mean"] - first["mean"])


def test_seeds_of_an_arm_are_seeds(world: Path, tmp_path: Path) -> None:
    folders = [shutil.copytree(world / "model", tmp_path / "plain" / f"seed-{n}") for n in (1, 2)]
    path = run_suite(asked(world, models=tuple(map(str, folders)), tasks=("gsm8k",)), tmp_path / "out")
    results = read_json(path / "results.json")
    assert {row["n"] for row in results["summary"]} == {2}
    assert results["tasks"][0]["seeds"] == [1, 2]
    assert not any(note.startswith("one seed") for note in results["notes"])


def test_a_model_that_fails_does_not_stop_the_others(world: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(world / "model", tmp_path / "broken")
    model = load_model(str(broken))
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(math.nan)
    model.save_pretrained(broken)
    settings = asked(world, models=(str(broken), str(world / "model")), tasks=("boolq",))
    with pytest.raises(RunError, match="1 of 2 models"):
        run_suite(settings, tmp_path / "out")
    results = read_json(tmp_path / "out" / "results.json")
    assert [row["arm"] for row in results["arms"]] == ["model"]
    assert "not finite" in results["failures"][0]["error"]
    assert results["comparisons"] == []


def test_names_of_models(world: Path, tmp_path: Path) -> None:
    model = str(world / "model")
    assert [(a.name, a.seed) for a in arms_of(["embedded", "embedded:reasoning", f"x={model}", model])] == [
        ("embedded", 0), ("embedded-reasoning", 0), ("x", 0), ("model", 0)
    ]  # fmt: skip
    for models, words in (
        ([model, model], "two models have one name"),
        ([f"base={model}"], "can be called 'base'"),
        ([str(tmp_path / "none")], "no such model"),
        ([], "no model is named"),
    ):
        with pytest.raises(ConfigError, match=words):
            arms_of(models)


@pytest.mark.parametrize("scope", ["always", "evaluation", "train"])
def test_a_sidecar_steers_what_it_says(world: Path, tmp_path: Path, scope: str) -> None:
    from infosteer.training.sidecar import write_sidecar

    folder = shutil.copytree(world / "model", tmp_path / "model")
    lift = infosteer.Intervention(fraction=0.5, alpha=2.0, scope=scope)
    model, tokenizer = load_model(str(folder)).eval(), load_tokenizer(str(folder))
    rows = load_set("taught", world / "taught.jsonl")
    plain = evaluate(model, tokenizer, [rows])["taught"].measures["answer_nll"]
    with infosteer.steer(model, [lift, infosteer.EntropyRegularization()]) as session:
        session.step = 7
        steered = evaluate(model, tokenizer, [rows])["taught"].measures["answer_nll"]
        write_sidecar(folder, session)
    assert (abs(steered - plain) > 1e-3) == (scope != "train")
    settings = asked(world, models=(str(folder), f"bare={world / 'model'}"), tasks=(str(world / "taught.jsonl"),))
    results = read_json(run_suite(settings, tmp_path / "out") / "results.json")
    found = {row["arm"]: row["metrics"]["taught/answer_nll"] for row in results["arms"]}
    assert found["model"] == pytest.approx(steered, abs=1e-5)
    assert found["bare"] == pytest.approx(plain, abs=1e-5)
    methods = [method["method"] for method in results["settings"]["model"]["methods"]]
    assert methods == ([] if scope == "train" else ["key_lift"])
    prints = [results["settings"][arm]["models"]["seed-0"]["fingerprint"] for arm in ("model", "bare")]
    assert (prints[0] == prints[1]) == (scope == "train"), "a steered model is another model"


def test_a_steered_model_is_refused_in_vllm(world: Path, tmp_path: Path) -> None:
    from infosteer.training.sidecar import write_sidecar

    folder = shutil.copytree(world / "model", tmp_path / "model")
    with infosteer.steer(load_model(str(folder)), [infosteer.Intervention(fraction=0.5, scope="always")]) as session:
        write_sidecar(folder, session)
    settings = asked(world, models=(str(folder),), engine="vllm", options=False)
    with pytest.raises(ConfigError, match="holds no hooks"):
        run_suite(settings, tmp_path / "out")
