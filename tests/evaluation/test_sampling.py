"""Sampling: the model's own distribution, the same draws in every batch, and pass@k from counts."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.decode import decode
from infosteer.evaluation.sampling import evaluate_pass, sample
from infosteer.evaluation.sets import EvalSet
from infosteer.lab import load

from .conftest import TAUGHT, tiny

PROMPTS = ["the", "Q: who paints?\nA:", "fox " * 9]


@pytest.fixture(scope="module")
def soft_model(tokenizer):
    """A random model whose distributions have a few likely tokens."""
    return tiny("llama", len(tokenizer), seed=3)


def texts(found: list) -> list[list[str]]:
    return [[one.text for one in row] for row in found]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_first_tokens_come_as_often_as_the_softmax_says(soft_model, tokenizer, temperature: float) -> None:
    count = 2000
    found = sample(
        soft_model, tokenizer, ["the"], samples=count, temperature=temperature, max_new_tokens=1, batch_size=500
    )[0]
    with torch.no_grad():
        logits = soft_model(torch.tensor([tokenizer("the")["input_ids"]])).logits[0, -1].double()
    wanted = torch.softmax(logits / temperature, -1)
    names = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(wanted))]
    checked = 0
    for i in wanted.argsort(descending=True)[:4].tolist():
        p = sum(wanted[j].item() for j, name in enumerate(names) if name == names[i])
        share = sum(one.text == names[i] for one in found) / count
        assert abs(share - p) < 4.5 * (p * (1 - p) / count) ** 0.5 + 1e-9
        checked += p
    assert checked > 0.02


def test_draws_depend_on_seed_prompt_and_number_alone(soft_model, tokenizer) -> None:
    def drawn(prompts: list[str], **changes) -> list[list[str]]:
        settings = {"samples": 3, "temperature": 1.0, "max_new_tokens": 6, "seed": 1, **changes}
        return texts(sample(soft_model, tokenizer, prompts, **settings))

    first = drawn(PROMPTS)
    assert len({text for row in first for text in row}) > 5
    assert drawn(PROMPTS, batch_size=1) == drawn(PROMPTS, batch_size=4) == first
    assert drawn(PROMPTS[1:2]) == first[1:2]
    assert drawn(PROMPTS, samples=2) == [row[:2] for row in first]
    assert drawn(PROMPTS, seed=2) != first


def test_a_low_temperature_is_greedy(soft_model, tokenizer) -> None:
    greedy = [one.text for one in decode(soft_model, tokenizer, PROMPTS, max_new_tokens=8)]
    found = sample(soft_model, tokenizer, PROMPTS, samples=2, temperature=1e-6, max_new_tokens=8)
    assert texts(found) == [[text, text] for text in greedy]


def rows(answers: dict[str, str]) -> list[dict]:
    return [{"prompt": p, "answer": a.strip(), "options": None, "stop": [], "lead": " "} for p, a in answers.items()]


def test_pass_at_k_of_a_taught_model(taught_model, tokenizer) -> None:
    answers = {**TAUGHT, "Q: where?\nA:": "in Rome"}
    found = evaluate_pass(
        taught_model, tokenizer, EvalSet(name="q", rows=rows(answers)), ks=(1, 4), samples=4, temperature=1e-3
    )
    assert found.right == [4, 4, 0, 4]
    assert found.measures == {"pass@1": 0.75, "pass@4": 0.75}
    assert found.per_example["pass@4"] == [1, 1, 0, 1]
    assert found.settings["samples"] == 4


def test_worked_solutions_pass_when_every_step_is_right(monkeypatch, taught_model, tokenizer) -> None:
    from infosteer.evaluation import sampling
    from infosteer.evaluation.decode import Decoded

    row = load("reasoning/id", limit=1)[0]
    gold, right = row["answer"], row["answer"].split("<answer>")[1]
    wrong = gold.replace("= ", "= 1", 1)
    replies = [gold, wrong, f"<answer>{right}", ""]
    done = [Decoded(text=text, tokens=1, finished=True, too_long=False) for text in replies]
    monkeypatch.setattr(sampling, "sample", lambda *a, **k: [done])
    one = rows({row["prompt"]: gold})
    found = evaluate_pass(
        taught_model, tokenizer, EvalSet(name="id", rows=one, scoring="process"), ks=(1, 2), samples=4
    )
    assert found.right == [1]
    assert found.per_example == {"pass@1": [pytest.approx(0.25)], "pass@2": [pytest.approx(0.5)]}
    by_answer = evaluate_pass(
        taught_model, tokenizer, EvalSet(name="id", rows=one, scoring="number"), ks=(1,), samples=4
    )
    assert by_answer.right[0] >= 2


def test_bad_settings_are_said_plainly(soft_model, tokenizer) -> None:
    good = {"samples": 2, "temperature": 1.0, "max_new_tokens": 2}
    for wrong in ({"temperature": 0.0}, {"temperature": float("inf")}, {"samples": 0}):
        with pytest.raises(ConfigError):
            sample(soft_model, tokenizer, ["the"], **(good | wrong))
    one = EvalSet(name="q", rows=rows(dict(islice(TAUGHT.items(), 1))))
    with pytest.raises(ConfigError, match="1 to the number of samples"):
        evaluate_pass(soft_model, tokenizer, one, ks=(1, 32), samples=16)
    with pytest.raises(DataError, match="rows with answers"):
        evaluate_pass(soft_model, tokenizer, EvalSet(name="t", rows=[{"text": "x"}], scoring="text"))
