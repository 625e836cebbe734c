"""Utilisation: which facts a question set asks for, which of them the base stores, and the share that is answered."""

from __future__ import annotations

import math
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from infosteer.evaluation import EvalSet, SetResult, load_set, stored_facts, utilisation
from infosteer.evaluation.stored import completion_rows, facts_asked
from infosteer.lab import embedded_base, load
from infosteer.lab.facts import make_world, phrasings
from infosteer.lab.questions import AXES
from infosteer.lab.words import ATTRIBUTE_BY_NAME

FACTS = {person.name: person.facts for person in make_world().test}


@pytest.mark.parametrize("axis", AXES)
def test_each_question_asks_for_the_fact_that_answers_it(axis: str) -> None:
    one = load_set(axis, f"lab:facts/{axis}")
    asked = facts_asked(one)
    assert asked is not None
    assert asked == [(row["person"], row["attribute"]) for row in load(f"facts/{axis}")]
    for (person, attribute), row in zip(asked, one.rows, strict=True):
        assert person in row["prompt"]
        assert FACTS[person][attribute] == row["answer"]


def test_completions_are_pretraining_sentences_of_the_facts() -> None:
    facts = [(name, attribute) for name in list(FACTS)[:5] for attribute in ATTRIBUTE_BY_NAME]
    for (person, attribute), row in zip(facts, completion_rows(facts), strict=True):
        beginnings = [way.replace("{n}", person) for way in phrasings(ATTRIBUTE_BY_NAME[attribute])]
        assert row["prompt"] in beginnings
        assert row["answer"] == FACTS[person][attribute]
        assert (row["lead"], row["stop"], row["options"]) == (" ", ["."], None)


def test_sets_that_ask_for_no_known_fact_have_none() -> None:
    assert facts_asked(load_set("recall", "lab:facts/recall", limit=3)) is None, "completions are no questions"
    assert facts_asked(load_set("texts", "lab:facts/biographies", limit=3)) is None
    rows = load_set("id", "lab:facts/new_people", limit=3).rows
    assert facts_asked(EvalSet(name="own", rows=rows)) is None
    changed = [{**row, "prompt": "Who?"} for row in rows]
    assert facts_asked(EvalSet(name="own", rows=changed, source="lab:facts/new_people")) is None


def test_stored_facts_are_those_completed_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def complete(model: Any, tokenizer: Any, sets: list[EvalSet], **settings: Any) -> dict[str, SetResult]:
        (one,) = sets
        assert one.scoring == "exact_match"
        seen.extend(one.rows)
        right = [float(row["answer"] < "k") for row in one.rows]
        empty: dict[str, Any] = {"measures": {}, "samples": [], "failures": {}, "settings": settings}
        found = SetResult(name=one.name, n=len(right), per_example={"exact_match": right}, **empty)
        return {one.name: found}

    monkeypatch.setattr("infosteer.evaluation.stored.evaluate", complete)
    sets = {axis: load_set(axis, f"lab:facts/{axis}", limit=80) for axis in ("new_people", "new_form", "new_attribute")}
    sets["recall"] = load_set("recall", "lab:facts/recall", limit=5)
    stored = stored_facts(None, None, sets)
    assert list(stored) == ["new_people", "new_form", "new_attribute"]
    prompts = [row["prompt"] for row in seen]
    assert len(set(prompts)) == len(prompts) < 240, "a fact that two sets ask for is completed once"
    for name, flags in stored.items():
        assert flags == [row["answer"] < "k" for row in sets[name].rows]
        assert 0 < sum(flags) < len(flags)


def test_utilisation_counts_stored_facts_alone() -> None:
    scores = utilisation([1.0, 0.0, 1.0, 0.0, 1.0], [True, True, False, False, True])
    assert [s for s in scores if not math.isnan(s)] == [1.0, 0.0, 1.0]
    assert [math.isnan(s) for s in scores] == [False, False, True, True, False]
    with pytest.raises(ValueError, match="argument 2"):
        utilisation([1.0], [True, False])


def test_the_embedded_base_stores_most_facts() -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded_base()).eval()
    tokenizer = AutoTokenizer.from_pretrained(embedded_base())
    sets = {axis: load_set(axis, f"lab:facts/{axis}", limit=60) for axis in ("new_people", "new_attribute")}
    stored = stored_facts(model, tokenizer, sets)
    assert {name: len(flags) for name, flags in stored.items()} == {"new_people": 60, "new_attribute": 60}
    assert sum(map(sum, stored.values())) > 0.9 * 120
