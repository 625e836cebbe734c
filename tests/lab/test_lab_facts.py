"""The world, its biographies and its questions."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from operator import itemgetter

import pytest

from infosteer.errors import ConfigError
from infosteer.lab import KEYS, load
from infosteer.lab.facts import (
    TEST_PEOPLE,
    all_sentences,
    biography_at,
    make_world,
    phrasings,
    recall_prefix,
    sentence,
)
from infosteer.lab.questions import AXES, NEW_FORMS, SEEN_FORMS, prompt
from infosteer.lab.words import ATTRIBUTES, FIRST_NAMES, SURNAMES

QUESTION_SETS = [*(f"facts/{name}" for name in AXES), "facts/two_hop"]
ANSWERED = [*QUESTION_SETS, "facts/recall", "facts/recall_unasked"]


def normalised(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def test_every_word_has_one_meaning() -> None:
    values = [value for attribute in ATTRIBUTES for value in attribute.values]
    nouns = [noun for attribute in ATTRIBUTES for noun in attribute.nouns]
    for words in (FIRST_NAMES, SURNAMES, values, nouns):
        assert max(Counter(words).values()) == 1
    assert not {v.lower() for v in values} & {n.lower() for n in (*FIRST_NAMES, *SURNAMES, *nouns)}
    names = [person.name for person in make_world().people]
    assert max(Counter(names).values()) == 1


def test_articles_fit_the_values() -> None:
    for attribute in ATTRIBUTES:
        if attribute.article == "a":
            assert all(value[0] not in "aeiou" for value in attribute.values)
            assert all(statement.endswith(" a") for statement in attribute.statements)


def test_values_are_uniform_and_independent_of_the_split() -> None:
    world = make_world()
    for attribute in ATTRIBUTES:
        counts = Counter(person.facts[attribute.name] for person in world.people)
        assert set(counts) == set(attribute.values)
        expected = len(world.people) / len(attribute.values)
        # Poisson counts: 32 of them stay within five standard deviations.
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_same_seed_same_world_in_another_process() -> None:
    code = (
        "from infosteer.lab import load; from infosteer.lab.facts import *; import hashlib;"
        "text = biography_at(make_world(), 1234, 7) + repr(load('facts', seed=3)) + repr(load('facts/combined'));"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1
    assert make_world(1, 50) != make_world(2, 50)


def test_a_biography_tells_every_fact_once() -> None:
    world = make_world()
    for index in (0, 999, 1000, 54321):
        text = biography_at(world, index, 1)
        sentences = [part + "." for part in text.removesuffix(".").split(". ")]
        person = next(p for p in world.people if p.name in text)
        told = {
            attribute.name
            for attribute in ATTRIBUTES
            for way in range(len(phrasings(attribute)))
            if sentence(person, attribute, way) in sentences
        }
        assert len(sentences) == len(ATTRIBUTES)
        assert told == {attribute.name for attribute in ATTRIBUTES}


def test_a_round_tells_of_everybody_once() -> None:
    world = make_world()
    size = len(world.people)
    texts = [biography_at(world, index, 1) for index in range(size, 2 * size)]
    for person in world.people[:50]:
        assert sum(person.name in text for text in texts) == 1
    assert biography_at(world, 0, 1) != biography_at(world, 0, 2)


def test_test_people_are_never_in_sft() -> None:
    world = make_world()
    test_names = {person.name for person in world.test}
    assert len(test_names) == TEST_PEOPLE
    for seed in range(5):
        rows = load("facts", seed=seed, people=100)
        assert not any(name in row["prompt"] for row in rows for name in test_names)
    for key in ANSWERED:
        assert {row["person"] for row in load(key)} == test_names


def test_no_row_is_shared_between_sets() -> None:
    train = {
        normalised(row["prompt"]) for seed in range(3) for row in load("facts", seed=seed, people=800, questions=6)
    }
    seen: dict[str, str] = {}
    for key in ANSWERED:
        own = {normalised(row["prompt"]) for row in load(key)}
        assert len(own) == len(load(key))
        assert not own & train
        for text in own:
            assert text not in seen, (key, seen[text])
            seen[text] = key


@pytest.mark.parametrize(("name", "axis"), AXES.items())
def test_an_axis_is_new_in_what_it_says_and_nothing_else(name: str, axis) -> None:
    def pattern(forms, words, attributes):
        return {
            prompt(form, word, "NAME")
            for form in forms
            for attribute in attributes
            for word in (attribute.nouns[-1:] if words == "new" else attribute.nouns[:-1])
        }

    asked = [attribute for attribute in ATTRIBUTES if attribute.asked]
    train = {
        re.sub(r"[A-Z]\w+ [A-Z]\w+(?='s|[.?,])", "NAME", r["prompt"]) for r in load("facts", people=800, questions=6)
    }
    assert train == pattern(SEEN_FORMS, "seen", asked)
    expected = pattern(
        NEW_FORMS if "form" in name or name == "combined" else SEEN_FORMS,
        "new" if "word" in name or name == "combined" else "seen",
        [a for a in ATTRIBUTES if not a.asked] if name == "new_attribute" else asked,
    )
    got = {row["prompt"].replace(row["person"], "NAME") for row in load(f"facts/{name}")}
    assert got == expected


def test_answers_and_options_are_right() -> None:
    people = {person.name: person for person in make_world().people}
    values = {attribute.name: attribute.values for attribute in ATTRIBUTES}
    places = Counter()
    for key in ANSWERED:
        for row in load(key):
            assert row["answer"] == people[row["person"]].facts[row["attribute"]]
            assert row["options"] == sorted(set(row["options"]))
            assert row["answer"] in row["options"]
            assert set(row["options"]) <= set(values[row["attribute"]])
            places[row["options"].index(row["answer"])] += 1
    total = sum(places.values())
    assert all(abs(count / total - 1 / 8) < 0.02 for count in places.values())


def test_every_fact_and_relation_word_asked_for_is_in_the_pretraining_text() -> None:
    world = make_world()
    text = set(all_sentences(world))
    people = {person.name: person for person in world.people}
    for key in ("facts/recall", "facts/recall_unasked"):
        for row in load(key):
            assert f"{row['prompt']} {row['answer']}." in text
    by_attribute = {attribute.name: attribute for attribute in ATTRIBUTES}
    for key in QUESTION_SETS:
        for row in load(key, limit=300):
            attribute, person = by_attribute[row["attribute"]], people[row["person"]]
            words = [noun for noun in attribute.nouns if noun in row["prompt"]]
            assert words
            answer = f"{attribute.article} {row['answer']}".strip()
            assert any(f"{person.name}'s {word} is {answer}." in text for word in words)


def test_sft_rows() -> None:
    rows = load("facts", seed=11)
    names = {name for row in rows for name in [p.name for p in make_world().pool] if name in row["prompt"]}
    assert len(names) == 40
    assert len(rows) == 40 * 5 * 2
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert all(row["completion"].startswith(" ") and row["prompt"].endswith("Answer:") for row in rows)
    assert load("facts", seed=11) == rows
    assert load("facts", seed=12) != rows
    assert len(load("facts", people=3, questions=6)) == 3 * 5 * 6
    assert load("facts", limit=7) == load("facts")[:7]


def test_two_hops_name_somebody_else_who_has_another_value() -> None:
    people = {person.name: person for person in make_world().people}
    ask = r"\. What is the [\w ]+ of (?P<again>\w+ \w+)'s (?P<asked>\w+)\?\nAnswer:"
    who = r"(?P<start>\w+ \w+)"
    patterns = (
        rf"Question: The (?P<link>\w+) of {who} is (?P<meant>\w+ \w+){ask}",
        rf"Question: (?P<meant>\w+ \w+) is the (?P<link>\w+) of {who}{ask}",
    )
    test = {person.name for person in make_world().test}
    rows = load("facts/two_hop")
    assert len(rows) == len({(row["person"], row["attribute"]) for row in rows}) == len(test) * 5
    forms = Counter()
    for row in rows:
        ((form, found),) = ((i, m) for i, p in enumerate(patterns) if (m := re.fullmatch(p, row["prompt"])))
        forms[form] += 1
        assert (found["start"], found["link"], row["person"]) == (found["again"], found["asked"], found["meant"])
        assert {found["start"], found["meant"]} <= test
        assert people[found["start"]].facts[row["attribute"]] != row["answer"]
        assert people[found["meant"]].facts[row["attribute"]] == row["answer"]
    assert min(forms.values()) > 400, "who is meant is named first as often as last"


def test_practice_in_two_hops_comes_on_top() -> None:
    plain, both = load("facts", seed=5, people=7), load("facts", seed=5, people=7, two_hop=3)
    key = itemgetter("prompt")
    hops = [row for row in both if ". What" in row["prompt"]]
    assert sorted((row for row in both if row not in hops), key=key) == sorted(plain, key=key)
    assert len({row["prompt"] for row in hops}) == len(hops) == 7 * 5 * 3
    pool = {person.name for person in make_world().pool}
    named = {p.name for p in make_world().people if any(p.name in row["prompt"] for row in hops)}
    assert named <= pool
    assert len(named) == 7


def test_evaluation_sets_do_not_depend_on_the_seed() -> None:
    for key in KEYS:
        if key not in ("facts", "facts/texts", "facts/strangers", "reasoning"):
            assert load(key, seed=1) == load(key, seed=2)


def test_loading_a_set_leaves_the_global_random_state_alone() -> None:
    import random

    random.seed(0)
    before = random.getstate()
    load("facts", seed=5)
    load("facts/recall")
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("key", "options", "words"),
    [
        ("facts/new_poeple", {}, "facts/new_people"),
        ("fact", {}, "did you mean facts?"),
        ("facts", {"poeple": 3}, "did you mean people?"),
        ("facts/recall", {"people": 3}, "people"),
        ("facts", {"people": 801}, "1 to 800"),
        ("facts", {"people": 0}, "1 to 800"),
        ("facts", {"questions": 7}, "1 to 6"),
        ("facts", {"questions": 1.5}, "whole number"),
        ("facts", {"two_hop": 7}, "0 to 6"),
        ("facts", {"two_hop": 1, "people": 1}, "2 to 800 where two_hop is above 0"),
        ("facts", {"limit": 0}, "limit"),
    ],
)
def test_bad_keys_and_options_are_said_plainly(key: str, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(key, **options)


def test_recall_prefix_is_the_start_of_its_sentence() -> None:
    person = make_world().people[3]
    for attribute in ATTRIBUTES:
        for way in range(len(phrasings(attribute))):
            start, full = recall_prefix(person, attribute, way), sentence(person, attribute, way)
            assert full == f"{start} {person.facts[attribute.name]}."
            assert person.name in start


def test_texts_are_biographies_of_the_people_asked_for() -> None:
    world = make_world()
    sentences = set(all_sentences(world))
    groups = {"pool": world.pool, "test": world.test, "all": world.people}
    for people, group in groups.items():
        rows = load("facts/texts", people=people, seed=3)
        assert sorted(row["person"] for row in rows) == sorted(person.name for person in group)
        for row in rows[:20]:
            said = {f"{part.removesuffix('.')}." for part in row["text"].split(". ")}
            assert said <= sentences
            assert len(said) == len(ATTRIBUTES)
            assert all(row["person"] in part for part in said)
    assert load("facts/texts") == load("facts/texts", people="pool", seed=0)
    assert load("facts/texts", seed=1) != load("facts/texts", seed=2)
    many = load("facts/texts", people="test", count=2 * TEST_PEOPLE + 7)
    assert max(Counter(row["person"] for row in many).values()) == 3
    assert len({row["text"] for row in many}) == len(many), "other phrasings in every round"
    assert load("facts/texts", people="test", count=9) == many[:9]
    for wrong in ({"people": "few"}, {"people": 40}, {"count": 0}, {"count": True}):
        with pytest.raises(ConfigError):
            load("facts/texts", **wrong)
