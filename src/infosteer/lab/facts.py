"""The world of the lab: invented people, what is true of them, and the biographies that tell it.

Every sentence of a biography ends with the value and a full stop, so that the text before the value is a prefix which a
model that stored the fact completes rightly ("Mira Kelton was born in" -> "Ashmoor"). Each attribute is told by verb
phrasings and by every relation word in two noun phrasings; biographies repeat the full name and shuffle the attributes:
it is this variety that lets a model use a fact outside the sentence in which it was learnt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from infosteer.lab.words import ATTRIBUTES, FIRST_NAMES, SURNAMES, Attribute

WORLD_SEED = 20250705
PEOPLE = 1000
TEST_PEOPLE = 200
_NOUN_PHRASINGS = ("The {w} of {n} is", "{n}'s {w} is")


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One invented person; ``facts`` maps the name of an attribute to its value."""

    name: str
    facts: dict[str, str] = field(hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """All people in a fixed order: the first ``TEST_PEOPLE`` are for tests alone, SFT draws from the rest."""

    people: tuple[Person, ...]

    @property
    def test(self) -> tuple[Person, ...]:
        return self.people[:TEST_PEOPLE]

    @property
    def pool(self) -> tuple[Person, ...]:
        return self.people[TEST_PEOPLE:]


@lru_cache(maxsize=4)
def make_world(seed: int = WORLD_SEED, people: int = PEOPLE) -> World:
    """Draw the world; the embedded base knows the one of the default seed and size.

    Names are unique pairs of a first name and a surname; values are drawn independently and uniformly, so that no value
    can be guessed from another or from the name.
    """
    draw = random.Random(seed)
    pairs = [f"{first} {last}" for first in FIRST_NAMES for last in SURNAMES]
    names = draw.sample(pairs, people)
    return World(
        people=tuple(
            Person(name=name, facts={attribute.name: draw.choice(attribute.values) for attribute in ATTRIBUTES})
            for name in names
        )
    )


def phrasings(attribute: Attribute) -> tuple[str, ...]:
    """All ways in which biographies tell of an attribute, as prefixes with ``{n}`` for the name; the value follows."""
    nouns = tuple(
        f"{phrasing.replace('{w}', noun)} {attribute.article}".rstrip()
        for noun in attribute.nouns
        for phrasing in _NOUN_PHRASINGS
    )
    return attribute.statements + nouns


def recall_prefix(person: Person, attribute: Attribute, phrasing: int) -> str:
    """The text of a biography's sentence up to the value, without the space before it."""
    ways = phrasings(attribute)
    return ways[phrasing % len(ways)].replace("{n}", person.name)


def sentence(person: Person, attribute: Attribute, phrasing: int) -> str:
    """One sentence of a biography."""
    return f"{recall_prefix(person, attribute, phrasing)} {person.facts[attribute.name]}."


def biography(person: Person, draw: random.Random) -> str:
    """All facts of a person, one sentence each, in random order and random phrasings."""
    order = draw.sample(ATTRIBUTES, len(ATTRIBUTES))
    return " ".join(sentence(person, attribute, draw.randrange(len(phrasings(attribute)))) for attribute in order)


def biography_at(world: World, index: int, seed: int) -> str:
    """The ``index``-th biography of an endless pretraining text in which everybody comes up once a round.

    Random access instead of an iterator with state: an interrupted pretraining resumes from the index alone.
    """
    people = len(world.people)
    order = _round_order(people, index // people, seed)
    return biography(world.people[order[index % people]], random.Random(f"{seed}/{index}"))


@lru_cache(maxsize=4)
def _round_order(people: int, round_: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{seed}/round/{round_}").sample(range(people), people))


def all_sentences(world: World) -> Iterator[str]:
    """Every sentence that pretraining can contain, person by person."""
    for person in world.people:
        for attribute in ATTRIBUTES:
            for phrasing in range(len(phrasings(attribute))):
                yield sentence(person, attribute, phrasing)
