"""Rewards by classifiers, examples, patterns and style; in a recipe's words, and refused by name."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from infosteer.core.data import DataContext
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.phf import (
    ClassifierReward,
    ExamplesReward,
    HumanPreferences,
    PersonalDataReward,
    StyleReward,
    add_rewards,
)
from infosteer.training.loading import load_tokenizer

TEXTS = ["The sky is blue.", " It rains on the small house.", " No"]


def classifier(**changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    tokenizer = load_tokenizer("embedded")
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **{**shape, **changes})
    config.initializer_range = 0.5
    return LlamaForSequenceClassification(config).eval()


@pytest.mark.parametrize("kind", ["one of them", "each by itself", "a reward"])
def test_classifiers(kind: str) -> None:
    names = {"id2label": {0: "fine", 1: "toxic", 2: "odd"}, "label2id": {"fine": 0, "toxic": 1, "odd": 2}}
    settings: dict[str, Any] = {
        "one of them": names,
        "each by itself": {**names, "problem_type": "multi_label_classification"},
        "a reward": {"num_labels": 1},
    }[kind]
    model, tokenizer = classifier(**settings), load_tokenizer("embedded")
    label = None if kind == "a reward" else "toxic"
    found = ClassifierReward(model, label=label, tokenizer=tokenizer, batch_size=2)(TEXTS)
    for text, value in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0]
        wanted = {
            "one of them": -float(logits.exp()[1] / logits.exp().sum()) if label else 0.0,
            "each by itself": -1 / (1 + math.exp(-float(logits[min(1, len(logits) - 1)]))),
            "a reward": float(logits[0]),
        }[kind]
        assert value == pytest.approx(wanted, rel=1e-4)
    assert ClassifierReward(model, tokenizer=tokenizer)([]) == []
    with pytest.raises(ConfigError, match="reads tokens"):
        ClassifierReward(model)
    with pytest.raises(ConfigError, match="no such class"):
        ClassifierReward(model, label="rude", tokenizer=tokenizer)


def test_a_saved_classifier_scores_in_a_recipe(tmp_path: Path) -> None:
    names = {"id2label": {0: "fine", 1: "toxic"}, "label2id": {"fine": 0, "toxic": 1}}
    model = classifier(**names)
    model.save_pretrained(tmp_path)
    load_tokenizer("embedded").save_pretrained(tmp_path)
    method = HumanPreferences(
        objective="score", scorer="classifier", classifier=str(tmp_path), bad_class="toxic", segments="row"
    )
    rows = [{"text": text} for text in TEXTS]
    found = method.transform(rows, DataContext(seed=1, strength=1.0, read=lambda *_, **__: []))
    wanted = ClassifierReward(model, label="toxic", tokenizer=load_tokenizer("embedded"))(TEXTS)
    assert [row["rewards"][0][2] for row in found] == pytest.approx(wanted, rel=1e-5)


def test_examples_are_bayes_rule() -> None:
    reward = ExamplesReward(["a nice day", "a day"], ["a vile day"])
    # words: good a 2, day 2, nice 1; bad a, day, vile; four known, 5 and 3 words
    odds = 1 / 2 * (2 / 7) / (3 / 9) * (2 / 7) / (1 / 9)
    (found,) = reward(["A VILE thing"])
    assert found == pytest.approx(-odds / (1 + odds))
    assert reward(["unknown"]) == [pytest.approx(-1 / 3)], "the prior alone"
    assert reward(["vile " * 2000, "nice " * 2000]) == [-1.0, pytest.approx(0.0, abs=1e-9)]
    with pytest.raises(DataError, match="both kinds"):
        ExamplesReward(["a"], ["..."])


def test_personal_data_by_kind() -> None:
    pieces = {
        "ann.lee+x@mail.example.org": "e-mail address",
        "https://example.org/a?b=c": "web address",
        "@ann_lee": "handle",
        "192.168.0.255": "IP address",
        "123-45-6789": "social security number",
        "+49 30 1234 5678": "phone number",
        "(555) 123-4567": "phone number",
        "4111 1111 1111 1111": "card number",
    }
    for piece, kind in pieces.items():
        text = f"Write to {piece} soon."
        assert PersonalDataReward.find(text) == [(kind, piece)], piece
        assert PersonalDataReward()([text]) == [pytest.approx(-1 / len(text))]
    for text in ("In 1984 it cost 3.50.", "4111 1111 1111 1112", "999.1.1.1", "a@b", "v 1.2.3", "", "000-12-3456"):
        assert PersonalDataReward.find(text) == [], text
    both = "a@b.org and c@d.org"
    assert PersonalDataReward()([both, "nothing"]) == [pytest.approx(-2 / len(both)), 0.0]


class Checked:
    """Stands for pycodestyle: every line that ends in a space is a violation, reported as that package does."""

    class BaseReport:
        def __init__(self, options: Any) -> None:
            self.options = options

        def error(self, line: int, offset: int, text: str, check: Any) -> str:
            return text[:4]

    class StyleGuide:
        options = None

    class Checker:
        def __init__(self, lines: list[str], options: Any, report: Any) -> None:
            self.lines, self.report = lines, report

        def check_all(self) -> None:
            for number, line in enumerate(self.lines, start=1):
                if line.rstrip("\n").endswith(" "):
                    self.report.error(number, 0, "W291 trailing whitespace", None)


def test_style_counts_for_the_segment_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "a = 1 \nb = 2\nc = 3 \nd = 4 "
    try:
        importlib.import_module("pycodestyle")
    except ImportError:
        with pytest.raises(ConfigError, match="not installed"):
            StyleReward()
    monkeypatch.setitem(sys.modules, "pycodestyle", Checked)  # type: ignore[arg-type]
    (row,) = add_rewards([{"text": code}], StyleReward(), "line")
    assert [reward for *_, reward in row["rewards"]] == [-1 / 7, 0, -1 / 7, -1 / 6]
    (row,) = add_rewards([{"text": code}], StyleReward(), "row")
    assert row["rewards"] == [[0, len(code), -3 / len(code)]]
    method = HumanPreferences(objective="score", scorer="style", segments="line")
    (same,) = method.transform([{"text": code}], DataContext(seed=1, strength=1.0, read=lambda *_, **__: []))
    assert same["rewards"][0][2] == -1 / 7


def test_scorers_are_named_rightly() -> None:
    for wrong in (
        {"scorer": "taste"},
        {"scorer": "classifier"},
        {"classifier": "some/model", "words": ["bad"]},
        {"scorer": "classifier", "classifier": 3},
        {"bad_class": 1},
    ):
        with pytest.raises(ConfigError):
            HumanPreferences(**wrong)
