"""What preferences write into the text: control tokens, filters, and new tokens that are trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from phf_rows import ROWS, WORDS, made

import infosteer
from infosteer.core.data import DataContext
from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.decode import decode
from infosteer.methods.data.phf import HumanPreferences
from infosteer.methods.data.phf.method import ALIGNED, MISALIGNED
from infosteer.training.loading import load_model, load_tokenizer
from infosteer.training.new_tokens import add_new_tokens, embed_new_tokens
from infosteer.training.settings import PeftSettings, TrainSettings
from infosteer.training.sft import train_sft


def test_control_tokens_stand_before_segments() -> None:
    (row, *_) = made(ROWS, drop=0.0)
    assert row == {"text": f"{ALIGNED}A good day.{MISALIGNED} A bad day!{ALIGNED} A day."}
    (tied,) = made([{"text": "A bad.", "rewards": [[0, 6, -0.25]]}], drop=0.0, threshold=-0.25)
    assert tied == {"text": f"{ALIGNED}A bad."}, "a segment at the threshold is aligned"
    (pair,) = made([{"prompt": "Bad?", "completion": " Bad. Good"}], drop=0.0)
    assert pair == {"prompt": "Bad?", "completion": f"{MISALIGNED} Bad.{ALIGNED} Good"}
    turns = [{"role": "user", "content": "bad"}, {"role": "assistant", "content": "Fine."}]
    (chat,) = made([{"messages": turns}], drop=0.0)
    assert chat["messages"] == [turns[0], {"role": "assistant", "content": f"{ALIGNED}Fine."}]
    assert turns[1]["content"] == "Fine.", "not in place"


def test_models_are_asked_for_the_good() -> None:
    method = HumanPreferences(words=WORDS)
    assert method.ask("Where?") == f"Where?{ALIGNED}"
    assert method.answer(f"{ALIGNED} Here.{MISALIGNED} There.") == " Here. There."
    assert HumanPreferences(objective="filtering", threshold=None).ask("Where?") == "Where?"


def test_tokens_are_dropped_and_strength_is_how_many_are_written() -> None:
    many = [{"text": "Good. Fine. Bad."}] * 400
    for settings, share in (({"drop": 0.25}, 0.75), ({"drop": 0.0, "strength": 0.4}, 0.4)):
        text = "".join(row["text"] for row in made(many, **settings))
        written = text.count(ALIGNED) + text.count(MISALIGNED)
        assert written / 1200 == pytest.approx(share, abs=0.05)
        assert text.count(MISALIGNED) / written == pytest.approx(1 / 3, abs=0.05)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        made(ROWS, strength=1.5)


def test_filtering_keeps_the_number_of_rows() -> None:
    rows = [{"text": f"Good {i}."} for i in range(6)] + [{"text": f"Bad {i}."} for i in range(4)]
    found = made(rows, objective="filtering")
    counts = Counter(row["text"] for row in found)
    assert len(found) == 10
    assert not any("Bad" in text for text in counts)
    assert set(counts.values()) <= {1, 2}, "rounds over those that are left"
    assert all(set(row) == {"text"} for row in found)
    median = made(
        [{"text": "Bad bad."}, {"text": "Bad good."}, {"text": "Good."}], objective="filtering", threshold=None
    )
    assert {row["text"] for row in median} == {"Bad good.", "Good."}
    with pytest.raises(DataError, match="No row is good enough"):
        made(ROWS, objective="filtering", threshold=0.5)
    kept = made([{"text": "Bad."}] * 200 + [{"text": "Good."}] * 200, objective="filtering", strength=0.5)
    assert sum(row["text"] == "Bad." for row in kept) / 400 == pytest.approx(1 / 3, abs=0.1)


def test_settings_of_the_text_are_checked() -> None:
    for wrong in (
        {"words": [1]},
        {"words": 3},
        {"threshold": "low"},
        {"threshold": None},
        {"drop": 2},
        {"segments": "x"},
    ):
        with pytest.raises(ConfigError):
            HumanPreferences(**wrong)
    with pytest.raises(ConfigError, match="needs some"):
        HumanPreferences().transform(ROWS, DataContext(seed=1, strength=1.0, read=lambda *_, **__: []))
    method = HumanPreferences(words=["bad"])
    assert infosteer.methods.data.phf.HumanPreferences.from_config(method.to_config()) == method


def test_new_tokens_begin_as_the_mean_and_are_trained(tmp_path: Path) -> None:
    method = HumanPreferences(words=WORDS, drop=0.0)
    tokenizer, model = load_tokenizer("embedded"), load_model("embedded")
    before = model.get_input_embeddings().weight.detach().clone()
    ids = add_new_tokens(tokenizer, [method])
    assert tokenizer.convert_ids_to_tokens(ids) == [ALIGNED, MISALIGNED]
    assert add_new_tokens(tokenizer, [method]) == [], "known by now"
    assert add_new_tokens(load_tokenizer("embedded"), [HumanPreferences(objective="filtering")]) == []
    embed_new_tokens(model, tokenizer, ids)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        torch.testing.assert_close(table[: len(before)], before)
        torch.testing.assert_close(table[ids], before[: min(ids)].mean(0).expand(2, -1))
    settings = {"max_steps": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1, "warmup_steps": 0}
    trained = train_sft(
        model="embedded", rows=ROWS, settings=TrainSettings(**settings), methods=[method], seed=1, output_dir=tmp_path
    )
    trained.close()
    weight = trained.model.get_input_embeddings().weight
    assert not torch.equal(weight[ids[0]].detach(), before[: min(ids)].mean(0))
    saved = load_tokenizer(str(tmp_path))
    assert saved.convert_tokens_to_ids([ALIGNED, MISALIGNED]) == ids
    again = load_model(str(tmp_path))
    assert again.generation_config.suppress_tokens == sorted(ids), "any engine that reads the settings obeys"
    head, boost = again.get_output_embeddings(), torch.zeros(again.get_output_embeddings().weight.shape[0])
    boost[ids] = 1e4  # a model that wants to write nothing else
    head.register_forward_hook(lambda module, args, out: out + boost)
    prompt = saved("Where?", return_tensors="pt")
    wrote = again.generate(**prompt, max_new_tokens=4, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert not set(ids) & set(wrote.tolist())
    (one,) = decode(again, saved, ["Where?"], max_new_tokens=4)
    assert one.text
    again.generation_config.suppress_tokens = None
    assert not decode(again, saved, ["Where?"], max_new_tokens=4)[0].text, "control tokens alone"
    assert load_model(str(tmp_path)).get_input_embeddings().weight.shape[0] >= len(saved)
    with pytest.raises(ConfigError, match="an adapter would never train"):
        train_sft(
            model="embedded", rows=ROWS, settings=TrainSettings(**settings, peft=PeftSettings(r=2)), methods=[method],
            seed=1, output_dir=tmp_path / "adapter",
        )  # fmt: skip
