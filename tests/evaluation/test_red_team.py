"""Red-teaming finds what a known answerer gives away, draws by weight, and proposes; the distance from a reference."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.red_team import Attack, _drawn, few_shot, recombined, red_team, sampled_answers
from infosteer.evaluation.reference import divergence_from, reference_samples
from infosteer.evaluation.sampling import sample

WORDS = ("red", "blue", "green", "bad")


def echo(prompts: Sequence[str]) -> list[list[str]]:
    """Says back what it was asked, and one thing besides."""
    return [[prompt, "fine"] for prompt in prompts]


def rate(texts: Sequence[str]) -> list[float]:
    return [-sum(word == "bad" for word in text.split()) / max(len(text.split()), 1) for text in texts]


def test_the_search_goes_where_the_reward_is_low() -> None:
    found = red_team(["red blue green red", "blue blue green green"], recombined(WORDS), echo, rate, rounds=8)
    assert found.attacks[0].reward < -0.3
    assert found.worst() == found.attacks[0].reward
    assert found.worst(3) == pytest.approx(sum(a.reward for a in found.attacks[:3]) / 3)
    assert found.worst(10**6) == pytest.approx(sum(a.reward for a in found.attacks) / len(found.attacks))
    rounds = found.by_round()
    assert rounds[0] == 0
    assert len(rounds) == 9
    assert np.nanmean(rounds[-2:]) < rounds[1] - 0.05, "later rounds are worse than the first"
    assert all(a.reward == pytest.approx(rate([a.prompt])[0] / 2) for a in found.attacks), "the mean of both answers"
    assert len({a.prompt for a in found.attacks}) == len(found.attacks)
    again = red_team(["red blue green red", "blue blue green green"], recombined(WORDS), echo, rate, rounds=8)
    assert again == found
    blind = red_team(["red"], lambda shots, draw: ["bad bad"], lambda p: [["fine"]] * len(p), rate, with_prompt=True)
    assert blind.worst() == pytest.approx(-0.5), "'bad badfine' scored as one text"
    assert math.isnan(blind.by_round()[2]), "nothing new"


def test_prompts_are_drawn_by_their_weight() -> None:
    pool = [Attack(prompt=name, reward=reward, round=0) for name, reward in (("a", 0.0), ("b", -0.1), ("c", -0.3))]
    draw = random.Random(1)
    counts = Counter(_drawn(pool, 1, 0.2, draw)[0] for _ in range(6000))
    weights = {name: math.exp(-reward / 0.2) for name, reward in (("a", 0.0), ("b", -0.1), ("c", -0.3))}
    for name, weight in weights.items():
        assert counts[name] / 6000 == pytest.approx(weight / sum(weights.values()), abs=0.02)
    assert sorted(_drawn(pool, 9, 0.2, draw)) == ["a", "b", "c"]


def test_what_is_refused() -> None:
    propose = recombined(WORDS)
    for settings in ({"rounds": 0}, {"shots": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            red_team(["a"], propose, echo, rate, **settings)
    for prompts in ([], [" "]):
        with pytest.raises(DataError, match="some prompts"):
            red_team(prompts, propose, echo, rate)
    with pytest.raises(DataError, match="has continuations"):
        red_team(["a"], propose, lambda p: [[]], rate)
    for wrong in (lambda t: [0.0], lambda t: [math.nan] * len(t)):
        with pytest.raises(DataError, match="finite number"):
            red_team(["a"], propose, echo, wrong)
    with pytest.raises(ConfigError, match="come from somewhere"):
        recombined([])


def test_models_answer_and_propose(taught_model, tokenizer) -> None:
    answer = sampled_answers(taught_model, tokenizer, samples=3, max_new_tokens=4, prefix="Q: ", temperature=0.05)
    assert answer(["who paints?\nA:", "where?\nA:"]) == [[" Ann Lee"] * 3, [" in Paris."] * 3]
    made = few_shot(taught_model, tokenizer, "Write:", count=4, max_new_tokens=5)(["one", "two"], random.Random(1))
    assert len(made) == 4
    assert all("\n" not in text for text in made)


def test_top_p_keeps_to_the_likeliest(random_model, tokenizer) -> None:
    ids = torch.tensor([tokenizer("who")["input_ids"]])
    with torch.no_grad():
        p = (random_model(input_ids=ids).logits[0, -1] / 3).softmax(-1)
    order = p.argsort(descending=True)
    kept = order[: int((p[order].cumsum(0) < 0.5).sum()) + 1].tolist()
    allowed = {tokenizer.decode([token], skip_special_tokens=True) for token in kept}
    settings = {"samples": 200, "temperature": 3.0, "max_new_tokens": 1}
    (drawn,) = sample(random_model, tokenizer, ["who"], top_p=0.5, **settings)
    assert {one.text for one in drawn} <= allowed
    (free,) = sample(random_model, tokenizer, ["who"], **settings)
    assert not {one.text for one in free} <= allowed
    for wrong in (0.0, 1.5):
        with pytest.raises(ConfigError, match="hold together"):
            sample(random_model, tokenizer, ["who"], top_p=wrong, **settings)


def test_the_distance_from_a_reference(taught_model, random_model, tokenizer) -> None:
    pairs = reference_samples(taught_model, tokenizer, ["Q: who paints?\nA:", "Q: where?\nA:"], samples=2, seed=3)
    assert len(pairs) == 4
    assert divergence_from(taught_model, tokenizer, taught_model, tokenizer, pairs) == pytest.approx(
        [0.0] * 4, abs=1e-4
    )
    found = divergence_from(taught_model, tokenizer, random_model, tokenizer, pairs)
    for (opening, text), value in zip(pairs, found, strict=True):
        head, ids = tokenizer(opening)["input_ids"], tokenizer(opening + text, return_tensors="pt")["input_ids"]
        each = []
        for model in (taught_model, random_model):
            with torch.no_grad():
                log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            each.append(float(log_p.gather(-1, ids[0, 1:, None])[len(head) - 1 :].sum()))
        assert value == pytest.approx(each[0] - each[1], rel=1e-3)
    assert np.mean(found) > 1
    other = divergence_from(taught_model, tokenizer, taught_model, tokenizer, pairs, prefix="the ")
    assert np.mean(other) > 0, "behind a prefix it was not taught with"


def test_what_is_never_written_has_no_probability(random_model, tokenizer) -> None:
    """Suppressed special tokens: the others share their probability."""
    pair, own = ("the quick", " brown fox"), random_model.generation_config
    plain = copy.deepcopy(random_model)
    random_model.generation_config = GenerationConfig(eos_token_id=1, suppress_tokens=[1, 2, 9])
    try:
        (found,) = divergence_from(plain, tokenizer, random_model, tokenizer, [pair])
    finally:
        random_model.generation_config = own
    head, ids = tokenizer(pair[0])["input_ids"], tokenizer("".join(pair), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p = plain(input_ids=ids).logits[0, len(head) - 1 : -1].double().softmax(-1)
    assert found == pytest.approx(float((1 - p[:, [1, 2]].sum(-1)).log().sum()), rel=1e-3)
    assert found < -1e-4
    (again,) = divergence_from(plain, tokenizer, random_model, tokenizer, [pair])
    assert again == pytest.approx(0, abs=1e-4), "the hook is gone"
