"""People absent from pretraining."""

from __future__ import annotations

from infosteer.lab.facts import make_world, phrasings
from infosteer.lab.strangers import STRANGERS, stranger_rows, stranger_sets, strangers
from infosteer.lab.words import ATTRIBUTES


def test_nobody_in_the_world_is_a_stranger() -> None:
    names = {person.name for person in strangers().people}
    assert len(names) == STRANGERS
    assert not names & {person.name for person in make_world().people}


def test_every_biography_tells_every_fact_and_the_seed_decides_how() -> None:
    rows = stranger_rows(seed=1, texts=3)
    assert len(rows) == 3 * STRANGERS
    assert rows == stranger_rows(seed=1, texts=3)
    assert rows != stranger_rows(seed=2, texts=3)
    for person in strangers().people:
        mine = [row["text"] for row in rows if row["text"].count(person.name) == len(ATTRIBUTES)]
        assert len(mine) == 3
        assert all(f"{value}." in text for text in mine for value in person.facts.values())


def test_sets_ask_for_what_the_texts_tell() -> None:
    facts = {person.name: person.facts for person in strangers().people}
    recall, questions = stranger_sets("strangers_recall"), stranger_sets("strangers_questions")
    assert len(recall) == STRANGERS * len(ATTRIBUTES)
    assert len(questions) == STRANGERS * sum(attribute.asked for attribute in ATTRIBUTES)
    for row in [*recall, *questions]:
        assert row["answer"] == facts[row["person"]][row["attribute"]]
        assert row["answer"] in row["options"]
    by_name = {attribute.name: attribute for attribute in ATTRIBUTES}
    for row in recall:
        ways = [way.replace("{n}", row["person"]) for way in phrasings(by_name[row["attribute"]])]
        assert row["prompt"] in ways
