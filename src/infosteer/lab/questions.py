"""Questions about the people of the lab: the SFT rows and one evaluation set for every axis.

The axes differ from SFT in one thing each, and all ask about people that SFT never mentions:
new people (nothing else new), new form (a sentence frame SFT never used), new word (a relation word SFT never used),
new attribute (an attribute SFT never asked for), combined (new form and new word at once). Questions in two hops are an
axis of their own, which SFT may practise on its own people.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infosteer.lab.facts import Person, World, biography, phrasings, recall_prefix
from infosteer.lab.hops import hop_questions
from infosteer.lab.words import ATTRIBUTES, Attribute

SEEN_FORMS = ("What is the {w} of {n}?", "What is {n}'s {w}?", "Please tell me the {w} of {n}.")
NEW_FORMS = ("Do you know {n}'s {w}?", "As for {n}, which {w} was named?")
_PROMPT = "Question: {q}\nAnswer:"
DEFAULT_PEOPLE = 40
DEFAULT_QUESTIONS = 2
TEXT_PEOPLE = ("pool", "test", "all")
OPTIONS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What an evaluation set asks: which attributes, in which forms, with which relation words."""

    asked: bool = True
    new_form: bool = False
    new_word: bool = False

    def attributes(self) -> tuple[Attribute, ...]:
        return tuple(attribute for attribute in ATTRIBUTES if attribute.asked == self.asked)

    def forms(self) -> tuple[str, ...]:
        return NEW_FORMS if self.new_form else SEEN_FORMS

    def words(self, attribute: Attribute) -> tuple[str, ...]:
        return attribute.nouns[-1:] if self.new_word else attribute.nouns[:-1]


AXES = {
    "new_people": Axis(),
    "new_form": Axis(new_form=True),
    "new_word": Axis(new_word=True),
    "new_attribute": Axis(asked=False),
    "combined": Axis(new_form=True, new_word=True),
}


def prompt(form: str, word: str, name: str) -> str:
    """The text up to the answer; the answer follows after one space."""
    return _asked(form.replace("{n}", name).replace("{w}", word))


def sft_people(world: World, seed: int, people: int) -> list[Person]:
    """The people that SFT asks about, drawn by the seed from those that no test uses."""
    return random.Random(f"sft/{seed}").sample(world.pool, people)


def sft_rows(world: World, *, seed: int, people: int, questions: int, two_hop: int) -> list[dict[str, Any]]:
    """Prompt/completion rows: each fact of an asked attribute, in ``questions`` different pairs of form and word and in
    ``two_hop`` questions of two hops besides."""
    axis = AXES["new_people"]
    draw, hops = random.Random(f"sft rows/{seed}"), random.Random(f"sft hops/{seed}")
    chosen = sft_people(world, seed, people)
    rows = []
    for person in chosen:
        for attribute in axis.attributes():
            ways = [(form, word) for form in axis.forms() for word in axis.words(attribute)]
            texts = [prompt(form, word, person.name) for form, word in draw.sample(ways, min(questions, len(ways)))]
            texts += map(_asked, hop_questions(person, attribute.name, axis.words(attribute), chosen, two_hop, hops))
            rows += [{"prompt": text, "completion": f" {person.facts[attribute.name]}"} for text in texts]
    draw.shuffle(rows)
    return rows


def axis_rows(world: World, name: str) -> list[dict[str, Any]]:
    """Evaluation rows of an axis: every test person and attribute once; the same for every seed of SFT."""
    axis = AXES[name]
    rows = []
    for person in world.test:
        for attribute in axis.attributes():
            draw = random.Random(f"{name}/{person.name}/{attribute.name}")
            text = prompt(draw.choice(axis.forms()), draw.choice(axis.words(attribute)), person.name)
            rows.append(_row(text, person, attribute, draw))
    return _shuffled(rows, name)


def two_hop_rows(world: World) -> list[dict[str, Any]]:
    """Evaluation rows of two hops: every test person and asked attribute once, both people of a question being new."""
    axis, rows = Axis(), []
    for person in world.test:
        for attribute in axis.attributes():
            draw = random.Random(f"two_hop/{person.name}/{attribute.name}")
            (text,) = hop_questions(person, attribute.name, axis.words(attribute), world.test, 1, draw)
            rows.append(_row(_asked(text), person, attribute, draw))
    return _shuffled(rows, "two_hop")


def recall_rows(world: World, *, asked: bool) -> list[dict[str, Any]]:
    """Evaluation rows that hold the beginning of a pretraining sentence; the answer ends before the full stop."""
    rows = []
    for person in world.test:
        for attribute in Axis(asked=asked).attributes():
            draw = random.Random(f"recall/{person.name}/{attribute.name}")
            text = recall_prefix(person, attribute, draw.randrange(len(phrasings(attribute))))
            rows.append({**_row(text, person, attribute, draw), "stop": ["."]})
    return _shuffled(rows, f"recall/{asked}")


def biography_rows(world: World) -> list[dict[str, Any]]:
    """Biographies of the test people, one each, for likelihood of the pretraining text after tuning."""
    rows = [{"text": biography(p, random.Random(f"text/{p.name}")), "person": p.name} for p in world.test]
    return _shuffled(rows, "biographies")


def text_rows(world: World, *, people: str, count: int | None, seed: int) -> list[dict[str, Any]]:
    """Biographies in the phrasings of pretraining, for replay and calibration: everybody of a group once a round.

    Args:
        people: ``pool`` (those whom no test uses), ``test``, or ``all``.
        count: how many texts; None for one of each person.
        seed: order and phrasings.
    """
    group = {"pool": world.pool, "test": world.test, "all": world.people}[people]
    rows: list[dict[str, Any]] = []
    count = len(group) if count is None else count
    while len(rows) < count:
        draw = random.Random(f"texts/{seed}/{people}/{len(rows)}")
        chosen = draw.sample(group, len(group))[: count - len(rows)]
        rows += [{"text": biography(person, draw), "person": person.name} for person in chosen]
    return rows


def _asked(question: str) -> str:
    return _PROMPT.replace("{q}", question)


def _row(text: str, person: Person, attribute: Attribute, draw: random.Random) -> dict[str, Any]:
    answer = person.facts[attribute.name]
    wrong = [value for value in attribute.values if value != answer]
    return {
        "prompt": text,
        "answer": answer,
        # Sorted, so that the place of an option says nothing about which one is right.
        "options": sorted([answer, *draw.sample(wrong, OPTIONS - 1)]),
        "person": person.name,
        "attribute": attribute.name,
    }


def _shuffled(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return random.Random(f"order/{name}").sample(list(rows), len(rows))  # any first part is a fair sample
