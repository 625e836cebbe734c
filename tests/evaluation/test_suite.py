"""``infosteer eval``: what its folder says, what it refuses, and that nothing is computed twice."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import infosteer
from infosteer.core.config import load_yaml
from infosteer.errors import ConfigError, DataError, RunError
from infosteer.evaluation import evaluate, load_set
from infosteer.evaluation.engines import TransformersEngine
from infosteer.evaluation.shares import wilson
from infosteer.evaluation.tasks import load_task
from infosteer.experiments.suite.batch_effect import batch_effect
from infosteer.experiments.suite.run import run_suite
from infosteer.experiments.suite.settings import SuiteSettings, arms_of
from infosteer.experiments.suite.table import markdown, other_lines, rows_of
from infosteer.inspection.comparison.compare import compare_runs
from infosteer.inspection.report import write_report
from infosteer.training.loading import load_model, load_tokenizer

from .conftest import TAUGHT
from .suite_inputs import Told, read_json, read_lines, write_data


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, taught_model: Any, tokenizer: Any) -> Path:
    """A saved model, its rows, and a data folder; read only."""
    folder = tmp_path_factory.mktemp("world")
    taught_model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_data(folder / "data")
    rows = [{"prompt": p, "completion": a} for p, a in TAUGHT.items()]
    rows.append({"prompt": "Q: who paints?\nA:", "completion": " Bob"})
    (folder / "taught.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def asked(world: Path, **changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {
        "models": (str(world / "model"),),
        "tasks": ("boolq", "gsm8k", f"{world / 'taught.jsonl'}"),
        "data": str(world / "data"),
        "batch_size": 2,
        "max_new_tokens": 6,
        "device": "cpu",
    }
    return SuiteSettings(**{**settings, **changes})


@pytest.fixture(scope="module")
def done(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation; read only."""
    return run_suite(asked(world), tmp_path_factory.mktemp("done") / "out")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were really decoded, call by call."""
    ran: list[int] = []
    whole = TransformersEngine.decode

    def decode(self: Any, prompts: Any, **settings: Any) -> Any:
        ran.append(len(prompts))
        return whole(self, prompts, **settings)

    monkeypatch.setattr(TransformersEngine, "decode", decode)
    return ran


# -- what comes out --------------------------------------------------------------------------------------------------


def test_scores_are_those_of_a_plain_evaluation(done: Path, world: Path) -> None:
    outcome = read_json(done / "outcomes" / "model" / "seed-0.json")
    model, tokenizer = load_model(str(world / "model")).eval(), load_tokenizer(str(world / "model"))
    sets = [load_task(name, data=world / "data") for name in ("boolq", "gsm8k")]
    found = evaluate(model, tokenizer, [*sets, load_set("taught", world / "taught.jsonl")], batch_size=64,
                     max_new_tokens=6)  # fmt: skip
    for name, result in found.items():
        for measure, value in result.measures.items():
            assert outcome["metrics"][f"{name}/{measure}"] == pytest.approx(value, abs=1e-5), (name, measure)
    assert outcome["metrics"]["taught/exact_match"] == 0.8, "four of five rows are what it was taught"
    assert outcome["sets"]["boolq"]["settings"]["batch_size"] == 2
    assert outcome["sets"]["boolq"]["settings"]["dtype"] == "float32"


def test_results_have_intervals_chance_and_macro_averages(done: Path) -> None:
    results = read_json(done / "results.json")
    assert results["schema"] == 1
    tasks = {row["task"]: row for row in results["tasks"]}
    assert list(tasks) == ["boolq", "gsm8k", "taught"]
    assert (tasks["boolq"]["chance"], tasks["gsm8k"]["chance"], tasks["taught"]["chance"]) == (0.5, 0, 0)
    assert tasks["boolq"]["majority"] == pytest.approx(7 / 11)
    assert [row["n"] for row in results["tasks"]] == [11, 9, 5]
    assert tasks["boolq"]["asked"]["wording"] == "llm-adapters"
    assert {"template", "shots", "version"} <= tasks["boolq"]["asked"].keys()
    outcome = read_json(done / "outcomes" / "model" / "seed-0.json")
    for task in ("boolq", "gsm8k", "taught"):
        scores = outcome["examples"][task]["exact_match"]
        found = tasks[task]["measures"]["exact_match"]
        assert (found["low"], found["high"]) == pytest.approx(wilson(sum(scores), len(scores)))
        chance = tasks[task]["chance"]
        side = "above" if found["low"] > chance else "below" if found["high"] < chance else "holds"
        assert found.get("beside_chance") == (side if chance else None)
        assert tasks[task]["failures"] == outcome["sets"][task]["failures"]
        assert tasks[task]["contamination"] is None
    (mean,) = [row for row in results["macro"] if row["measure"] == "exact_match"]
    assert mean["group"] == "all"
    assert mean["mean"] == pytest.approx(sum(tasks[t]["measures"]["exact_match"]["mean"] for t in tasks) / 3)
    assert mean["low"] < mean["mean"] < mean["high"]
    assert mean["chance"] == pytest.approx(0.5 / 3)
    assert "unweighted mean" in mean["rule"]
    assert any(note.startswith("one seed") for note in results["notes"])
    assert results["evaluation"]["batch_size"] == 2
    assert results["environment"]["packages"]["torch"]


def test_predictions_stand_row_by_row(done: Path, world: Path) -> None:
    rows = read_lines(done / "predictions" / "model" / "seed-0" / "taught.jsonl")
    assert [row["row"] for row in rows] == list(range(5))
    assert [row["prediction"] for row in rows[:4]] == list(TAUGHT.values())
    assert rows[0]["prompt_sha256"] == rows[4]["prompt_sha256"] != rows[1]["prompt_sha256"]
    assert [row["correct"] for row in rows] == [True, True, True, True, False]
    numbers = read_lines(done / "predictions" / "model" / "seed-0" / "gsm8k.jsonl")
    assert {"extracted", "strict", "strict_correct"} <= numbers[0].keys()
    outcome = read_json(done / "outcomes" / "model" / "seed-0.json")
    boolq = read_lines(done / "predictions" / "model" / "seed-0" / "boolq.jsonl")
    assert [row["scores"]["option_accuracy"] for row in boolq] == outcome["examples"]["boolq"]["option_accuracy"]


def test_the_folder_is_a_run(done: Path, world: Path, tmp_path: Path) -> None:
    other = run_suite(asked(world, models=(f"second={world / 'model'}",)), tmp_path / "other")
    found = compare_runs([done, other])
    rows = {row["metric"]: row for row in found["comparisons"]}
    assert rows["boolq/exact_match"]["paired_by"] == "seed and example"
    assert all(row["difference"] == 0 for row in rows.values()), "one model under two names"
    assert not any("do not evaluate the same rows" in note for note in found["notes"])
    page = write_report(done).read_text()
    assert "boolq" in page
    assert "Preliminary" not in page
    config = load_yaml(done / "recipe.yaml")
    assert config["evaluate"]["boolq"]["rows"] == 11
    assert "not a run" not in page


def test_tables(done: Path) -> None:
    results = read_json(done / "results.json")
    rows = rows_of(results, "model")
    assert [row[0] for row in rows] == ["boolq", "gsm8k", "taught", "mean of all"]
    assert rows[0][2:4] == ["50.0", "63.6"]
    assert rows[2][4] == "80.0 (37.6 to 96.4)"
    assert rows[2][6] == rows[3][6] == "-", "without options, and so for all three together"
    table = markdown(results, "model").splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert other_lines(results, "model") == []


def test_documents_have_no_chance(world: Path, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("The quick brown fox\n<|endoftext|>\njumps over the lazy dog.\n")
    path = run_suite(asked(world, tasks=(f"prose={tmp_path / 'prose.txt'}",)), tmp_path / "out")
    results = read_json(path / "results.json")
    (task,) = results["tasks"]
    assert task["chance"] is None
    assert set(task["measures"]) == {"nll", "bits_per_byte"}
    assert rows_of(results, "model") == []
    assert other_lines(results, "model")[0].startswith("prose (2 rows): loss on text")


def test_halves_can_be_left_out(world: Path, tmp_path: Path) -> None:
    path = run_suite(asked(world, decode=False, tasks=("boolq",)), tmp_path / "likelihoods")
    (task,) = read_json(path / "results.json")["tasks"]
    assert set(task["measures"]) == {"answer_nll", "option_accuracy", "option_accuracy_norm"}
    assert read_lines(path / "predictions" / "model" / "seed-0" / "boolq.jsonl")[0].keys() == {"row", "scores"}
    path = run_suite(asked(world, options=False, tasks=("boolq",)), tmp_path / "decoded")
    (task,) = read_json(path / "results.json")["tasks"]
    assert {"exact_match", "strict_match"} <= set(task["measures"])
    assert not any("option" in name or "nll" in name for name in task["measures"])


# -- going on --------------------------------------------------------------------------------------------------------


def test_a_finished_evaluation_is_not_done_again(done: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, told = counted(monkeypatch), Told()
    before = (done / "results.json").read_bytes()
    run_suite(asked(world), done, reporter=told)
    assert ran == []
    assert told.begun == [], "the model is not even loaded"
    assert (done / "results.json").read_bytes() == before


def test_an_interrupted_evaluation_goes_on(
    done: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Told):
        def progress(self, what: str, done: int, total: int) -> None:
            if what.startswith("gsm8k: decoding") and done > 8:
                raise KeyboardInterrupt

    ran = counted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_suite(asked(world), tmp_path / "out", reporter=Stop())
    assert ran == [2] * 5 + [1] + [2] * 4 + [1], "batch by batch"
    path = run_suite(asked(world), tmp_path / "out")
    assert ran[11:] == [1, 2, 2], "the batch that was cut off, and the third task (two of its five prompts are one)"
    assert (path / "outcomes/model/seed-0.json").read_bytes() == (done / "outcomes/model/seed-0.json").read_bytes()
    for file in (done / "predictions").rglob("*.jsonl"):
        assert (path / file.relative_to(done)).read_bytes() == file.read_bytes()
    ours, theirs = (read_json(place / "results.json") for place in (path, done))
    assert ours == theirs
    assert len(read_lines(path / "metrics.jsonl")) == len(read_lines(done / "metrics.jsonl"))


def test_other_settings_are_refused_by_name(done: Path, world: Path) -> None:
    for changes, words in (
        ({"batch_size": 3}, "settings.batch_size: 2 -> 3"),
        ({"limit": 4}, "settings.limit: None -> 4"),
        ({"dtype": "bfloat16"}, "settings.dtype: float32 -> bfloat16"),
        ({"tasks": ("boolq",)}, "groups"),
        ({"models": (f"m={world / 'model'}",)}, "arms.m"),
    ):
        with pytest.raises(RunError, match="different") as caught:
            run_suite(asked(world, **changes), done)
        assert words in str(caught.value), changes
        assert "--update" in str(caught.value)


def test_other_rows_are_other_settings(world: Path, tmp_path: Path) -> None:
    data = shutil.copytree(world / "data", tmp_path / "data")
    path = run_suite(asked(world, tasks=("boolq",), data=str(data), limit=3), tmp_path / "out")
    text = (data / "boolq" / "test.jsonl").read_text()
    (data / "boolq" / "test.jsonl").write_text(text.replace("wet on day 2", "dry on day 2"))
    with pytest.raises(RunError, match=r"evaluate\.boolq\.rows_sha256"):
        run_suite(asked(world, tasks=("boolq",), data=str(data), limit=3), path)


def test_a_larger_limit_asks_only_what_is_new(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counted(monkeypatch)
    path = run_suite(asked(world, limit=4, tasks=("boolq", "gsm8k")), tmp_path / "out")
    assert ran == [2, 2, 2, 2]
    run_suite(asked(world, tasks=("boolq", "gsm8k")), path, update=True)
    assert ran[4:] == [2, 2, 2, 1, 2, 2, 1]
    fresh = run_suite(asked(world, tasks=("boolq", "gsm8k")), tmp_path / "fresh", cache=tmp_path / "elsewhere")
    rows = [read_lines(place / "predictions/model/seed-0/boolq.jsonl") for place in (path, fresh)]
    assert [row["prediction"] for row in rows[0]] == [row["prediction"] for row in rows[1]]
    before = len(ran)
    run_suite(asked(world, tasks=("gsm8k",)), tmp_path / "third", cache=tmp_path / "elsewhere")
    assert len(ran) == before, "two evaluations may share what is kept"


def test_changed_weights_are_noticed(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world / "model", tmp_path / "model")
    settings = asked(world, models=(str(folder),), tasks=(str(world / "taught.jsonl"),))
    path = run_suite(settings, tmp_path / "out")
    before = read_json(path / "results.json")
    model = load_model(str(folder))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(-1)
    model.save_pretrained(folder)
    run_suite(settings, path)
    after = read_json(path / "results.json")
    assert after["tasks"][0]["measures"]["exact_match"]["mean"] == 0
    assert before["settings"]["model"]["models"] != after["settings"]["model"]["models"], "another fingerprint"


def test_a_stranger_folder_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run"):
        run_suite(asked(world), tmp_path)


# -- several models --------------------------------------------------------------------------------------------------


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


# -- steered models --------------------------------------------------------------------------------------------------


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


# -- batch size ------------------------------------------------------------------------------------------------------


def test_the_effect_of_the_batch_size_is_measured(world: Path, tmp_path: Path) -> None:
    path = run_suite(asked(world, dtype="bfloat16"), tmp_path / "out")
    results = read_json(path / "results.json")
    (effect,) = results["batch_effect"]
    assert (effect["batch_sizes"], effect["rows"], effect["option_rows"]) == ([1, 2], 8 + 8 + 5, 8)
    for key in ("predictions", "verdicts", "options"):
        assert 0 <= effect[key]["low"] <= effect[key]["share"] <= effect[key]["high"] <= 1
    assert "changed between batch sizes 1 and 2" in other_lines(results, "model")[-1]
    path = run_suite(asked(world, check_rows=3, tasks=("boolq",)), tmp_path / "float32")
    (effect,) = read_json(path / "results.json")["batch_effect"]
    assert effect["rows"] == 3
    assert effect["predictions"]["share"] == effect["verdicts"]["share"] == effect["options"]["share"] == 0
    assert effect["nll_largest"] < 1e-5


def test_changes_are_counted(world: Path, taught_model: Any, tokenizer: Any) -> None:
    """An engine that answers otherwise when it is asked alone."""

    class Fickle(TransformersEngine):
        def decode(self, prompts: Any, **settings: Any) -> Any:
            from dataclasses import replace

            found = super().decode(prompts, **settings)
            if settings["batch_size"] > 1:
                return found
            return [replace(one, text="no" if i in (0, 2) else one.text) for i, one in enumerate(found)]

    from infosteer.evaluation.evaluate import evaluate_with

    engine, sets = Fickle(taught_model, tokenizer), {"taught": load_set("taught", world / "taught.jsonl")}
    results = evaluate_with(engine, sets.values(), batch_size=4)
    effect = batch_effect(engine, sets, results, rows=5, batch_size=4)
    assert effect["predictions"]["share"] == effect["verdicts"]["share"] == 2 / 5
    assert effect["options"] is None
    assert effect["predictions"]["low"] == wilson(2, 5)[0]


# -- contamination ---------------------------------------------------------------------------------------------------


def test_training_rows_are_looked_through(world: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    prompt, answer = next(iter(TAUGHT.items()))
    train.write_text(json.dumps({"prompt": prompt, "completion": answer}) + "\n")
    settings = asked(world, tasks=(str(world / "taught.jsonl"),), against=(str(train),))
    results = read_json(run_suite(settings, tmp_path / "out") / "results.json")
    (task,) = results["tasks"]
    assert results["contamination"]["sets"]["taught"]["dirty"] == [0, 4], "two rows ask this question"
    assert (task["contamination"]["dirty"], task["contamination"]["normalised"]) == (2, 2)
    assert task["contamination"]["clean"]["exact_match"]["mean"] == 1
    assert any(note.startswith("taught: 2 of 5 rows are dirty") for note in results["notes"])
    assert "2 of 5 rows stand in training data" in other_lines(results, "model")[0]


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "int8"}, "unknown dtype"),
        ({"engine": "magic"}, "unknown engine"),
        ({"batch_size": 0}, "--batch-size is a whole number from 1"),
        ({"limit": -1}, "--limit is a whole number from 1"),
        ({"decode": False, "options": False}, "nothing to measure"),
        ({"engine": "vllm"}, "decodes only"),
        ({"tasks": ()}, "no task is named"),
        ({"tasks": ("boolk",)}, "unknown task"),
        ({"tasks": ("boolq", "boolq=lab:facts/new_people")}, "two sets have one name"),
        ({"tasks": ("lab:facts/new_people",), "shots": 2}, "shots are for tasks"),
        ({"device": "no such thing"}, "device"),
    ],
)
def test_bad_settings(world: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_suite(asked(world, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing was begun"


@pytest.mark.parametrize("shots", [0, 1])
def test_tasks_of_lm_eval_are_asked_with_their_own_shots_or_those_asked_for(
    world: Path, tmp_path: Path, shots: int
) -> None:
    pytest.importorskip("lm_eval")
    from infosteer.evaluation.harness import run_harness

    from .harness_tasks import TASKS, write_task

    task = write_task(tmp_path, "tiny_shots", *TASKS["tiny_shots"])
    found = run_suite(asked(world, tasks=(f"lm_eval:{task}",), shots=shots), tmp_path / "eval")
    model, tokenizer = load_model(str(world / "model")), load_tokenizer(str(world / "model"))
    expected = run_harness(model, tokenizer, [str(task)], batch_size=2, num_fewshot=shots or None)["lm_eval:tiny_shots"]
    (outcome,) = (read_json(file) for file in found.glob("outcomes/*/seed-0.json"))
    assert outcome["examples"]["lm_eval:tiny_shots"]["acc"] == expected.per_example["acc"]
    assert outcome["sets"]["lm_eval:tiny_shots"]["settings"]["num_fewshot"] == (shots or 2), "two are the task's own"


def test_bad_rows_are_named_with_file_and_line(world: Path, tmp_path: Path) -> None:
    data = shutil.copytree(world / "data", tmp_path / "data")
    with (data / "boolq" / "test.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "is it?\n\nAnswer format: true/false", "input": "", "output": "",
                               "answer": "perhaps"}) + "\n")  # fmt: skip
    with pytest.raises(DataError, match=r"test\.jsonl:12"):
        run_suite(asked(world, data=str(data)), tmp_path / "out")
    path = run_suite(asked(world, data=str(data), skip_bad_rows=True, tasks=("boolq",)), tmp_path / "out")
    assert "boolq: 1 bad rows were skipped" in read_json(path / "results.json")["notes"]
