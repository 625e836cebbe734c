"""Demonstrations at four places: prompts by hand, metrics by counting, refusals, the test over models against scipy."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import scipy.stats
import torch
from torch import nn

from infosteer.core.asking import Read, Subject
from infosteer.core.demo_slots import SLOTS, ZERO_SHOT, check_system_role, in_words, place
from infosteer.core.registry import build_method
from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.asking import as_measures, ask
from infosteer.evaluation.demo_slots import compare_slots, demo_slot_report, signed_rank
from infosteer.evaluation.extract import judge
from infosteer.evaluation.sets import EvalSet
from infosteer.methods.probes.demo_position import DemoPosition, slot_scores

ROWS = [{"prompt": f"q{i}?", "lead": " ", "answer": f"a{i % 3}", "options": None, "stop": ["\n"]} for i in range(9)]


class Templated:
    """A tokenizer as far as the check of its template goes."""

    def __init__(self, render: Any) -> None:
        self.chat_template = "made up" if render else None
        self.render = render

    def apply_chat_template(self, messages: Any, **_: Any) -> str:
        return str(self.render(messages))


def subject(answers: Any, rows: Sequence[Any] = ROWS, shown: Sequence[Any] = (), tokenizer: Any = None) -> Subject:
    """``answers(prompt, number)`` in the place of a model."""

    def answer(prompts: Sequence[Any], numbers: Sequence[int]) -> list[str | None]:
        return [answers(prompt, number) for prompt, number in zip(prompts, numbers, strict=True)]

    def read(number: int, text: str) -> Read:
        return Read(extracted=text.strip() or None, correct=text.strip() == rows[number]["answer"])

    return Subject(
        model=nn.Linear(1, 1), tokenizer=tokenizer, rows=rows, shown=shown, limit=4,
        encode=lambda prompts: [], answer=answer, read=read,
    )  # fmt: skip


def test_slots_by_hand() -> None:
    def told(slot: str) -> list[tuple[str, str]]:
        return [(one["role"], one["content"]) for one in place(slot, "S", "D", "Q", "C")]

    assert told("ssp") == [("system", "D\n\nS"), ("user", "Q\n\nC")]
    assert told("esp") == [("system", "S\n\nD"), ("user", "Q\n\nC")]
    assert told("sum") == [("system", "S"), ("user", "D\n\nQ\n\nC")]
    assert told("eum") == [("system", "S"), ("user", "Q\n\nD\n\nC")]
    assert told(ZERO_SHOT) == [("system", "S"), ("user", "Q\n\nC")]
    assert place("sum", "", "D", "Q") == [{"role": "user", "content": "D\n\nQ"}]
    assert in_words(place("esp", "S", "D", "Q")) == "System: S\n\nD\n\nUser: Q\n\nAssistant:"
    with pytest.raises(ConfigError, match="no such place"):
        place("middle", "S", "D", "Q")


def test_all_slots_hold_the_same_words() -> None:
    probe = DemoPosition(frame="words", closing="now answer")
    held = [Counter(str(probe.prompt(ROWS[0], slot, "d1 x\n\nd2 y")).split()) for slot in SLOTS]
    assert all(words == held[0] for words in held)
    assert held[0] - Counter(str(probe.prompt(ROWS[0], ZERO_SHOT, "")).split()) == Counter(["d1", "x", "d2", "y"])
    own = {"prompt": [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}]}
    assert probe.prompt(own, "esp", "D") == (
        "System: own\n\nAnswer the question.\n\nD\n\nUser: q\n\nnow answer\n\nAssistant:"
    )


def test_metrics_are_counted() -> None:
    draw = random.Random(1)
    correct = {slot: [draw.random() < 0.5 for _ in range(40)] for slot in (*SLOTS, ZERO_SHOT)}
    predictions = {slot: [draw.choice("abc") for _ in range(40)] for slot in correct}
    means = {k: sum(v) / len(v) for k, v in slot_scores(correct, predictions, reference="esp").items()}
    right = {slot: torch.tensor(values) for slot, values in correct.items()}
    share = {slot: float(values.double().mean()) for slot, values in right.items()}
    for slot in SLOTS:
        assert means[f"accuracy_change_{slot}"] == pytest.approx(share[slot] - share[ZERO_SHOT])
        assert means[f"improved_{slot}"] == pytest.approx(float((right[slot] & ~right[ZERO_SHOT]).double().mean()))
        gained = means[f"improved_{slot}"] - means[f"worsened_{slot}"]
        assert gained == pytest.approx(means[f"accuracy_change_{slot}"])
        if slot != "esp":
            flips = sum(predictions[slot][i] != predictions["esp"][i] for i in range(40)) / 40
            assert means[f"prediction_change_{slot}"] == flips
    assert "prediction_change_esp" not in means
    assert sum(name.startswith("flips_") for name in means) == 10
    assert means["spread"] == pytest.approx(max(share[s] for s in SLOTS) - min(share[s] for s in SLOTS))


def test_a_made_up_model_that_hates_the_end_of_the_message() -> None:
    """Right wherever the question is the last thing said, silent without examples, and otherwise wrong."""

    def answers(prompt: str, number: int) -> str:
        if prompt.count("?") == 1:
            return " "
        return ROWS[number]["answer"] if prompt.endswith(f"q{number}?\n\nAssistant:") else "b"

    probe = DemoPosition(frame="words", demos=3)
    found = probe.ask(subject(answers))
    means = {name: sum(values) / len(values) for name, values in found.items()}
    assert len(found["accuracy_sum"]) == 6, "examples are no questions"
    assert [means[f"accuracy_{slot}"] for slot in (*SLOTS, ZERO_SHOT)] == [1, 1, 1, 0, 0]
    assert (means["prediction_change_eum"], means["prediction_change_ssp"], means["spread"]) == (1, 0, 1)
    assert (means["no_answer_zero_shot"], means["no_answer_eum"]) == (1, 0)
    asked_all = DemoPosition(frame="words", demos=3).ask(subject(answers, shown=ROWS[:3]))
    assert len(asked_all["accuracy_sum"]) == 9


def test_what_counts_as_another_prediction() -> None:
    def answers(prompt: str, number: int) -> str:
        return "wrong" + " " * prompt.endswith("?\n\nAssistant:") + ("!" if prompt.startswith("System: q") else "")

    changes = {}
    for differs in ("answer", "text", "score"):
        found = DemoPosition(frame="words", demos=2, differs=differs).ask(subject(answers))
        changes[differs] = sum(found["prediction_change_ssp"]) / 7
    assert changes == {"answer": 1, "text": 1, "score": 0}


def test_summaries_by_rouge() -> None:
    """Against words counted by hand: shares of words that answer and reference have in common."""
    reference = "the red cat sat here"
    rows = [{**row, "answer": reference} for row in ROWS]

    def answers(prompt: str, number: int) -> str:
        return "red cat sat" if prompt.count("?") == 1 else "a cat" if prompt.startswith("System: q") else reference

    questions = EvalSet(name="sum", rows=rows, scoring="rouge")

    def read(number: int, text: str) -> Read:
        verdict = judge(text, questions.rows[number], questions.scoring)
        return Read(extracted=verdict.extracted, correct=verdict.correct, measures=verdict.measures)

    asked = dataclasses.replace(subject(answers, rows=rows), read=read)
    probe = DemoPosition(frame="words", demos=2, measure="rougeL", differs="score")
    means = {name: sum(values) / len(values) for name, values in probe.ask(asked).items()}
    zero, early = 2 * (3 / 3) * (3 / 5) / (3 / 3 + 3 / 5), 2 * (1 / 2) * (1 / 5) / (1 / 2 + 1 / 5)
    assert means["accuracy_zero_shot"] == pytest.approx(zero)
    assert means["accuracy_ssp"] == pytest.approx(early)
    assert means["accuracy_change_eum"] == pytest.approx(1 - zero)
    assert (means["worsened_ssp"], means["improved_ssp"], means["improved_eum"]) == (1, 0, 1)
    assert (means["prediction_change_ssp"], means["prediction_change_esp"]) == (1, 0)
    with pytest.raises(ConfigError, match="no such measure"):
        dataclasses.replace(probe, measure="bleu").ask(asked)
    with pytest.raises(ConfigError, match="no such measure"):
        probe.ask(subject(answers, rows=rows))


def test_nothing_is_cut_and_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="leaves no room"):
        DemoPosition(frame="words").ask(subject(lambda prompt, number: None))
    for rows in ([], ROWS[:5]):
        with pytest.raises(DataError, match="too few rows"):
            DemoPosition(frame="words").ask(subject(lambda prompt, number: "a", rows=rows))
    turns = [{**row, "prompt": [{"role": "user", "content": "a"}] * 3} for row in ROWS]
    with pytest.raises(ConfigError, match="one turn"):
        DemoPosition(frame="words").ask(subject(lambda prompt, number: "a", rows=turns))


def test_templates_without_a_system_role_are_refused() -> None:
    def proper(messages: Any) -> str:
        return "".join(f"<{one['role']}>{one['content']}" for one in messages)

    def refuses(messages: Any) -> str:
        raise ValueError("System role not supported")

    check_system_role(Templated(proper))
    merged = Templated(lambda messages: "<user>" + "\n\n".join(one["content"] for one in messages))
    dropped = Templated(lambda messages: proper(messages[1:]))
    for tokenizer, what in (
        (Templated(None), "no chat template"), (Templated(refuses), "refuses"), (merged, "merges"), (dropped, "drops"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            DemoPosition().ask(subject(lambda prompt, number: "a", tokenizer=tokenizer))


@pytest.mark.parametrize(
    "settings", [{"demos": 0}, {"demos": 2.5}, {"demos": True}, {"seed": -1}, {"reference": "last"}, {"frame": "xml"},
                 {"instruction": None}, {"closing": 3}, {"measure": 1}, {"every": 2}, {"layers": "all"}],
)  # fmt: skip
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build_method({"method": "demo_position", **settings})


@pytest.mark.parametrize("count", [1, 2, 5, 9, 12, 40])
def test_signed_rank_is_scipys(count: int) -> None:
    draw = random.Random(count)
    values = [draw.uniform(-1, 1.5) for _ in range(count)]
    p_value, effect = signed_rank(values)
    method = "exact" if count <= 25 else "asymptotic"
    assert p_value == pytest.approx(scipy.stats.wilcoxon(values, correction=False, method=method).pvalue)
    plus = scipy.stats.wilcoxon(values, alternative="greater").statistic
    assert effect == pytest.approx(4 * plus / (count * (count + 1)) - 1)


def test_signed_rank_with_ties_and_zeros_by_all_signs() -> None:
    values = [0.0, 0.5, -0.5, 0.5, 1.0, 0.0, 2.0]
    ranks, observed = [2, 2, 2, 4, 5], 2 + 2 + 4 + 5
    sums = [sum(r for k, r in enumerate(ranks) if bits >> k & 1) for bits in range(32)]
    wanted = sum(abs(s - 7.5) >= abs(observed - 7.5) for s in sums) / 32
    assert signed_rank(values)[0] == pytest.approx(wanted)
    assert signed_rank([0.0, 0.0]) == (1.0, 0.0)


def test_models_compared() -> None:
    models = [{"ssp": 0.7, "sum": 0.6 + 0.01 * i, "eum": 0.3, ZERO_SHOT: 0.2 + 0.02 * i} for i in range(6)]
    rows = {(row["slot"], row["against"]): row for row in compare_slots(models)}
    assert len(rows) == 6
    assert rows["ssp", "eum"]["p_value"] == pytest.approx(2 / 2**6)
    assert rows["ssp", "eum"]["effect"] == 1
    assert all(row["p_value"] <= row["p_bh"] <= row["p_holm"] for row in rows.values())
    for wrong in ([], [{"ssp": 1.0}, {"sum": 1.0}]):
        with pytest.raises(DataError, match="same slots"):
            compare_slots(wrong)


def test_the_embedded_base_is_asked() -> None:
    from infosteer.training.loading import load_model, load_tokenizer

    model, tokenizer = load_model("embedded").train(), load_tokenizer("embedded")
    questions = EvalSet(name="id", rows=[dict(row) for row in ROWS], max_new_tokens=3)
    probe = DemoPosition(frame="words", demos=2)
    measures = as_measures(probe, ask(model, tokenizer, questions, probe, batch_size=4))
    assert model.training
    assert len(measures["demo_position_accuracy_eum"][1]) == 7
    report = demo_slot_report(model, tokenizer, [questions], frame="words", demos=2)
    assert report["id"]["spread"] == measures["demo_position_spread"][0]
    with pytest.raises(ConfigError, match="no questions"):
        ask(model, tokenizer, EvalSet(name="t", rows=[{"text": "x"}], scoring="text"), probe)
