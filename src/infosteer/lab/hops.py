"""Questions in two hops: the text says who is meant, and the fact about that person is in the memories alone.

A question names two people, the one who is meant before or after the other. Wherever possible the other one has another
value of the attribute, so that who takes the wrong name gives the wrong answer.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from infosteer.lab.facts import Person

LINKS = ("cousin", "neighbour", "teacher")
FORMS = (
    "The {l} of {o} is {n}. What is the {w} of {o}'s {l}?",
    "{n} is the {l} of {o}. What is the {w} of {o}'s {l}?",
)


def hop_questions(
    person: Person, attribute: str, words: Sequence[str], others: Sequence[Person], count: int, draw: random.Random
) -> list[str]:
    """So many different questions about an attribute of ``person``, each by one of ``words`` and with one of
    ``others``, or fewer where there are no more."""
    if not count:
        return []
    rest = [other for other in others if other is not person]
    unlike = [other for other in rest if other.facts[attribute] != person.facts[attribute]] or rest
    ways = list(itertools.product(FORMS, LINKS, words, unlike))
    return [
        form.replace("{l}", link).replace("{w}", word).replace("{o}", other.name).replace("{n}", person.name)
        for form, link, word, other in draw.sample(ways, min(count, len(ways)))
    ]
