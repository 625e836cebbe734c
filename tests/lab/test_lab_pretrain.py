"""Pretraining on a tiny configuration: two steps, resuming, missing text, bad settings."""

from __future__ import annotations

import json
import logging
import lzma

import pytest
import torch
from safetensors.torch import load_file

from infosteer.errors import ConfigError, DataError, NonFiniteLossError, RunError
from infosteer.lab.corpus import HELD_OUT_SHARE, is_held_out, read_general_text
from infosteer.models import locate
from infosteer.training.loading import load_model
from infosteer.training.pretrain import _Run, run_pretrain
from infosteer.training.pretrain_config import FactsConfig, config_from_recipe

TINY = {
    "stage": "pretrain",
    "stages": [
        {"steps": 2, "people": 12, "lab_share": 0.6, "batch_size": 4, "learning_rate": 1e-3},
        {"steps": 2, "people": 5, "lab_share": 0.9, "batch_size": 2, "learning_rate": 1e-3},
    ],
    "sequence_length": 32,
    "long_every": 3,
    "long_length": 64,
    "people": 12,
    "vocabulary": 450,
    "tokenizer_rounds": 2,
    "recall_people": 3,
    "warmup_steps": 1,
    "decay_steps": 2,
    "threads": 1,
    "architecture": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text_folder(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    documents = [
        f"Document {i}: the {i}th ship sailed to port {i * 7 % 13} and came home late." * 3 for i in range(200)
    ]
    with lzma.open(folder / "a.txt.xz", "wt") as stream:
        stream.write("\n<|endoftext|>\n".join(documents))
    return folder


def stages(steps: int, learning_rate: float = 1e-3) -> list[dict]:
    return [{"steps": steps, "people": 12, "lab_share": 0.6, "batch_size": 4, "learning_rate": learning_rate}]


def recipe(folder=None, **train):
    data = {"lab": "facts", "general_text": str(folder) if folder else None, "general_files": ["a.txt.xz"]}
    return {"train": {**TINY, **train}, "data": data}


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_two_runs_agree_and_a_resumed_one_too(text_folder, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = run_pretrain(recipe(text_folder), tmp_path / "whole")
    run_pretrain(recipe(text_folder), tmp_path / "again")
    paused = run_pretrain(recipe(text_folder, max_minutes=0.0), tmp_path / "parts")
    assert paused["finished"] is False
    assert paused["steps"] == 1
    run_pretrain(recipe(text_folder, save_steps=1, max_minutes=0.0), tmp_path / "parts")
    assert json.loads((tmp_path / "parts/checkpoint/state.json").read_text())["step"] == 2
    finished = run_pretrain(recipe(text_folder), tmp_path / "parts")
    for name, tensor in weights(tmp_path / "whole").items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, weights(tmp_path / "again")[name])
        assert torch.equal(tensor, weights(tmp_path / "parts")[name])
    assert (tmp_path / "parts/metrics.jsonl").read_text().count('"step": 4') == 1
    assert finished["biographies"] == report["biographies"]
    assert finished["recall"] == report["recall"]
    assert finished["bits_per_byte"] == report["bits_per_byte"]
    assert not (tmp_path / "parts" / "checkpoint").exists()

    assert set(report["bits_per_byte"]) == {"model", "bigram"}
    assert json.loads(json.dumps(report)) == json.loads((tmp_path / "whole/model/pretraining.json").read_text())
    assert str(text_folder) not in (tmp_path / "whole/model/pretraining.json").read_text()
    assert f"{report['bits_per_byte']['bigram']:.3f}" in (tmp_path / "whole/model/README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole/model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole/model")
    assert model.config.max_position_embeddings == 64
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generate(**tokenizer("Ada", return_tensors="pt"), max_new_tokens=2).shape[1] >= 2


def test_training_lowers_the_loss(tmp_path) -> None:
    run_pretrain(recipe(stages=stages(60, 1e-2), logging_steps=5), tmp_path)
    losses = [json.loads(line)["lab"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 1


def test_learning_rate_rises_stays_and_falls(tmp_path) -> None:
    run = _Run(config_from_recipe(recipe(stages=stages(20), warmup_steps=4, decay_steps=10)), tmp_path)
    rates = [run.learning_rate(step) for step in range(20)]
    assert rates[:4] == pytest.approx([0.00025, 0.0005, 0.00075, 0.001])
    assert rates[4:10] == [1e-3] * 6
    assert rates[10:] == pytest.approx([1e-3 * left / 10 for left in range(10, 0, -1)])


def test_stages_change_people_and_batches(tmp_path) -> None:
    config = config_from_recipe(recipe())
    assert [config.stage_at(step) for step in range(6)] == [0, 0, 1, 1, 1, 1]
    assert config.steps == 4
    assert config.tokens == 2 * 4 * 32 + 2 * 2 * 32
    run = _Run(config, tmp_path)
    corpus = run.corpus
    assert len(corpus.lab.world.people) == 12
    assert corpus.batch(0).ids.shape == (4, 32)
    told = corpus.lab.position
    assert corpus.batch(2).ids.shape == (2, 64)  # every third step is a long one, of at least two rows
    assert corpus.lab.world.people == corpus.world.people[-5:]
    assert corpus.told == told
    assert corpus.batch(3).ids.shape == (2, 32)


def test_a_missing_folder_is_said_and_lab_text_suffices(tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        report = run_pretrain(recipe(tmp_path / "nowhere", stages=stages(1)), tmp_path / "run")
    assert "does not exist: training on lab text alone" in caplog.text
    assert report["bits_per_byte"] == {}
    assert report["general_tokens_available"] == 0
    assert "no general English" in (tmp_path / "run/model/README.md").read_text()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path) -> None:
    run_pretrain(recipe(max_minutes=0.0), tmp_path)
    with pytest.raises(RunError, match="other settings") as caught:
        run_pretrain(recipe(weight_decay=0.5), tmp_path)
    assert "weight_decay=0.1" in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path) -> None:
    with pytest.raises(NonFiniteLossError, match="not finite"):
        run_pretrain(recipe(stages=stages(4, 1e30)), tmp_path)


def test_held_out_documents_are_set_apart_by_their_text(text_folder) -> None:
    text = read_general_text(text_folder, ["a.txt.xz"], seed=1, megabytes_per_file=5)
    other = read_general_text(text_folder, ["a.txt.xz"], seed=2, megabytes_per_file=5)
    assert len(text.train) + len(text.held_out) == 200
    assert 0 < len(text.held_out) < 5 * 200 / HELD_OUT_SHARE
    assert all(is_held_out(document) for document in text.held_out)
    assert not any(is_held_out(document) for document in text.train)
    assert text.train != other.train
    assert set(text.train) == set(other.train)
    assert len(read_general_text(text_folder, ["a.txt.xz"], seed=1, megabytes_per_file=0.001).train) < 10


def test_unreadable_text_is_said_plainly(text_folder) -> None:
    (text_folder / "b.txt.xz").write_bytes(b"not xz")
    (text_folder / "c.txt").write_text("\n<|endoftext|>\n")
    for name in ("b.txt.xz", "c.txt", "missing.txt"):
        with pytest.raises(DataError, match=name):
            read_general_text(text_folder, [name], seed=1, megabytes_per_file=5)


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("train", "weight_decya", 1, "did you mean weight_decay?"),
        ("data", "general_tetx", "x", "did you mean general_text?"),
        ("train", "sequence_length", 0, "at least 1"),
        ("train", "stages", [], "at least one stage"),
        ("train", "stages", [{"steps": 3}], "train.stages[0]"),
        (
            "train",
            "stages",
            [{**stages(3)[0], "people": 9999}],
            "at most the world's",
        ),
        (
            "train",
            "stages",
            [{**stages(3)[0], "lab_share": 1.5}],
            "0 to 1",
        ),
        ("train", "stages", stages(3, float("nan")), "positive"),
        ("train", "decay_steps", 0, "at least 1"),
        ("data", "lab", "sums", "expected: facts or reasoning"),
    ],
)
def test_bad_settings_are_said_plainly(section: str, key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_recipe({section: {key: value}})
    assert words in str(caught.value)


def test_the_shipped_recipe_is_the_default() -> None:
    from pathlib import Path

    import yaml

    shipped = yaml.safe_load((Path(__file__).parents[2] / "recipes/lab-pretrain.yaml").read_text())
    config = config_from_recipe(shipped)
    assert shipped["train"]["stage"] == "pretrain"
    assert config.steps > 1000
    assert config.general_files
    default = FactsConfig(**{name: getattr(config, name) for name in ("general_text", "general_files")})
    assert config == default


GPT2 = {"n_embd": 16, "n_inner": 32, "n_layer": 1, "n_head": 2}


def test_another_family_pretrains_and_its_ffn_is_found(tmp_path):
    recipe = {"train": {**TINY, "family": "gpt2", "architecture": GPT2}, "data": {"lab": "facts"}}
    report = run_pretrain(recipe, tmp_path)
    assert report["finished"]
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (saved["model_type"], saved["n_inner"], saved["n_positions"]) == ("gpt2", 32, 64)
    model = load_model(str(tmp_path / "model"))
    assert [site.width for site in locate(model)] == [32]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"family": "mamba"}, "mamba"),
        ({"family": "gpt2", "architecture": {**GPT2, "intermediate_size": 32}}, "intermediate_size"),
    ],
)
def test_a_family_that_cannot_be_is_refused(tmp_path, settings, named):
    with pytest.raises(ConfigError, match=named):
        run_pretrain({"train": {**TINY, **settings}, "data": {"lab": "facts"}}, tmp_path)
