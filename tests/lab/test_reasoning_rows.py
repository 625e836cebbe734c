"""The reasoning half in the catalogue, its tokenizer, and its pretraining on a tiny configuration."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from infosteer.errors import ConfigError, RunError
from infosteer.lab import KEYS, load
from infosteer.lab.reasoning import Settings, parse_solution, problem_at, verified_correct
from infosteer.lab.reasoning.report import ROWS, solve
from infosteer.lab.reasoning.rows import AXES, TEST_ROWS
from infosteer.lab.reasoning.tokenizer import make_tokenizer
from infosteer.training.pretrain import run_pretrain
from infosteer.training.pretrain_config import ReasoningConfig, config_from_recipe

REASONING = [key for key in KEYS if key.startswith("reasoning")]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("key", REASONING[1:])
def test_evaluation_rows(key: str) -> None:
    rows = load(key)
    assert len(rows) == TEST_ROWS
    assert load(key, seed=5, limit=20) == rows[:20]
    settings = AXES[key.partition("/")[2]]
    for row in rows:
        assert settings.operations[0] <= row["operations"] <= settings.operations[1]
        assert row["context"] in settings.contexts
        assert row["reverse"] == (settings.reverse == 1)
        assert verified_correct(row["answer"], row["answer"])
    assert len({row["operations"] for row in rows[:100]}) == settings.operations[1] - settings.operations[0] + 1


def test_no_row_is_in_two_sets_or_in_training() -> None:
    sets = {key: {row["prompt"] for row in load(key)} for key in REASONING[1:]}
    for seed in (1, 2):
        for operations in ("1-4", "5-6", 1):
            sets[f"sft {seed} {operations}"] = {
                row["prompt"] for row in load("reasoning", seed=seed, count=200, operations=operations, contexts="ABC")
            }
    told = [problem_at(i, Settings(operations=(1, 2)), seed=1, split="pretraining").prompt for i in range(400)]
    keys = [key for key in sets if not key.startswith("sft")]
    for key in keys:
        for other in sets:
            assert key == other or not sets[key] & sets[other]
        assert not sets[key] & set(told)


def test_tuning_rows_follow_the_options() -> None:
    rows = load("reasoning", count=30, operations="2-3", contexts="C", reverse=1.0, distractors=0)
    assert len(rows) == 30
    assert rows == load("reasoning", count=30, operations="2-3", contexts="C", reverse=1, distractors=0)
    assert rows != load("reasoning", seed=1, count=30, operations="2-3", contexts="C", reverse=1.0, distractors=0)
    assert set(rows[0]) == {"prompt", "completion"}
    assert all("is lost" in row["prompt"] and "Solve" in row["completion"] for row in rows)
    assert len(load("reasoning")) == 200
    large = load("reasoning", count=30, largest=500, operations=1, limit=5)
    assert len(large) == 5
    assert max(int(n) for row in large for n in re.findall(r"\d+", row["completion"])) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"operations": "many"}, "e.g. 3 or 5-6"),
        ({"operations": "0-3"}, "1 to 12"),
        ({"operations": 13}, "1 to 12"),
        ({"contexts": "Q"}, "A, B, C"),
        ({"contexts": 3}, "contexts is of the wrong kind"),
        ({"reverse": "half"}, "reverse is of the wrong kind"),
        ({"reverse": 2.0}, "0 to 1"),
        ({"count": 0}, "whole number from 1"),
        ({"operation": 3}, "did you mean operations?"),
        ({"people": 3}, "Unknown option"),
    ],
)
def test_wrong_options_are_said_plainly(options: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("reasoning", **options)
    assert words in str(caught.value)


def test_options_are_for_training_rows_only() -> None:
    with pytest.raises(ConfigError, match="Unknown option"):
        load("reasoning/edge", count=3)


# -- the tokenizer ----------------------------------------------------------------------------------------------------


def test_every_word_number_and_letter_is_one_token(tokenizer) -> None:
    assert 100 <= len(tokenizer) <= 300
    for text in (" bears", " Cedarvale", " 0", " 20", " x", " X", " *", ";", " Define", " </solution>"):
        assert len(tokenizer(text).input_ids) == 1, text
    assert tokenizer(" 21").input_ids == [tokenizer.unk_token_id]


def test_all_stories_survive_the_tokenizer(tokenizer) -> None:
    for settings in (*ROWS.values(), Settings(operations=(1, 12), contexts="ABC", reverse=0.5, distractors=4)):
        for index in range(30):
            problem = problem_at(index, settings, seed=3, split="evaluation")
            prompt, whole = problem.prompt, problem.prompt + problem.completion
            ids = tokenizer(whole).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == whole
            assert ids[: len(tokenizer(prompt).input_ids)] == tokenizer(prompt).input_ids


@given(st.text(max_size=50))
def test_any_text_can_be_encoded(text: str) -> None:
    tokenizer = make_tokenizer()
    assert all(0 <= token < len(tokenizer) for token in tokenizer(text).input_ids)


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = load("reasoning/reverse", limit=1)[0]["answer"]
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.decode(again(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)


# -- pretraining ------------------------------------------------------------------------------------------------------

TINY = {
    "stage": "pretrain",
    "stages": [
        {"steps": 2, "operations": [1, 1], "batch_size": 2, "learning_rate": 1e-3},
        {"steps": 2, "operations": [2, 3], "batch_size": 2, "learning_rate": 1e-3},
    ],
    "warmup_steps": 1,
    "decay_steps": 2,
    "threads": 1,
    "test_problems": 1,
    "architecture": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
}


def recipe(**train) -> dict:
    return {"train": {**TINY, **train}, "data": {"lab": "reasoning", "rare_share": 0.2}}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_two_runs_agree_and_a_resumed_one_too(tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = run_pretrain(recipe(), tmp_path / "whole")
    assert run_pretrain(recipe(max_minutes=0.0), tmp_path / "parts")["steps"] == 1
    run_pretrain(recipe(max_minutes=0.0), tmp_path / "parts")
    finished = run_pretrain(recipe(), tmp_path / "parts")
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == torch.bfloat16 for name in one)
    assert finished["problems"] == report["problems"] > 4
    assert finished["greedy"] == report["greedy"]
    assert json.loads((tmp_path / "whole/model/pretraining.json").read_text()) == json.loads(json.dumps(report))
    assert set(report["greedy"]["verified"]) == set(ROWS)
    card = (tmp_path / "whole/model/README.md").read_text()
    assert f"{report['problems']:,} problems" in card
    assert "20 % of all are of context C" in card
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole/model")
    again = AutoTokenizer.from_pretrained(tmp_path / "whole/model")
    assert model.config.vocab_size == len(again) == report["vocabulary"]
    run_pretrain(recipe(max_minutes=0.0), tmp_path / "new")
    with pytest.raises(RunError, match="other settings"):
        run_pretrain({**recipe(), "data": {"lab": "reasoning", "rare_share": 0.5}}, tmp_path / "new")


@pytest.mark.parametrize(
    ("family", "architecture", "block", "count"),
    [
        ("llama", TINY["architecture"], ".layers.", 7),
        ("gpt2", {"n_embd": 16, "n_inner": 32, "n_layer": 1, "n_head": 2}, ".h.", 4),
    ],
)
def test_muon_moves_the_matrices_of_the_layers_and_adamw_the_rest(tmp_path, family, architecture, block, count) -> None:
    from infosteer.training.pretrain import _Run

    chosen = {"family": family, "architecture": architecture}
    run = _Run(config_from_recipe(recipe(**chosen)), tmp_path)
    names = {id(p): name for name, p in run.model.named_parameters()}
    muon, adamw = ([names[id(p)] for group in one.param_groups for p in group["params"]] for one in run.optimizers)
    assert sorted([*muon, *adamw]) == sorted(names.values())
    assert all(block in name and "norm" not in name and "ln_" not in name for name in muon)
    assert len(muon) == count
    plain = _Run(config_from_recipe(recipe(**chosen, optimizer="adamw")), tmp_path)
    assert [type(one).__name__ for one in plain.optimizers] == ["AdamW"]


def test_only_solutions_carry_loss_and_rows_of_a_step_are_alike_in_length() -> None:
    from infosteer.training.pretrain_corpora import IGNORED, ReasoningCorpus

    given_ = recipe()
    given_["train"]["stages"] = [{"steps": 8, "operations": [1, 4], "batch_size": 4, "learning_rate": 1e-3}]
    corpus = ReasoningCorpus(config_from_recipe(given_))
    begin = corpus.tokenizer(" <solution>").input_ids[0]
    widths, alone, texts = [], 0, []
    for step in range(8):
        batch = corpus.batch(step)
        widths.append(batch.ids.shape[1])
        for ids, labels in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
            at = ids.index(begin)
            end = labels.index(corpus.tokenizer.eos_token_id)
            assert set(labels[:at]) | set(labels[end + 1 :]) <= {IGNORED}
            assert labels[at:end] == ids[at + 1 : end + 1]
            alone += end + 2
            texts.append(corpus.tokenizer.decode(ids[: end + 1]))
    assert len(set(texts)) == 32
    assert corpus.progress() == {"problems": 32, "tokens": alone}
    assert len(set(widths)) > 2
    padded = sum(4 * (width + 1) for width in widths)
    assert padded < 1.35 * alone


def test_solutions_do_not_depend_on_the_batch(tokenizer) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {key: value for key, value in TINY["architecture"].items() if key != "num_hidden_layers"}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes, **ids))
    for parameter in model.parameters():  # large enough to have opinions: no near ties
        torch.nn.init.normal_(parameter, std=0.5)
    prompts = [row["prompt"] for row in load("reasoning/id", limit=6)]
    together = solve(model, tokenizer, prompts, new_tokens=100)
    assert together == [solve(model, tokenizer, [prompt], new_tokens=100)[0] for prompt in prompts]


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("train", "stages", [{"steps": 1, "people": 3, "batch_size": 1, "learning_rate": 1e-3}], "operations"),
        ("train", "stages", [{**TINY["stages"][0], "operations": 3}], "[1, 4]"),
        ("train", "stages", [{**TINY["stages"][0], "operations": [4, 1]}], "1 to 12"),
        ("train", "optimizer", "sgd", "adamw or muon"),
        ("data", "contexts", "AQ", "A, B, C"),
        ("data", "rare_context", "Q", "A, B, C"),
        ("data", "rare_share", 2, "0 to 1"),
        ("data", "general_text", "x", "Unknown setting"),
    ],
)
def test_bad_settings_are_said_plainly(section: str, key: str, value: object, words: str) -> None:
    given_ = {"data": {"lab": "reasoning"}, "train": {}}
    given_[section][key] = value
    with pytest.raises(ConfigError) as caught:
        config_from_recipe(given_)
    assert words in str(caught.value)


def test_the_shipped_recipe_is_the_default() -> None:
    from pathlib import Path

    import yaml

    shipped = yaml.safe_load((Path(__file__).parents[2] / "recipes/reasoning-pretrain.yaml").read_text())
    assert config_from_recipe(shipped) == ReasoningConfig()


def test_gold_rows_parse() -> None:
    assert all(parse_solution(row["completion"]).steps for row in load("reasoning", count=5))
