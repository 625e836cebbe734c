"""Questions in two hops: the text says who is meant, and the fact about that person is in the memories alone.

Of the two people that a question names, the other one has another value of the attribute: looking up the first name one
meets is always wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from infosteer.lab.facts import Person
from infosteer.lab.words import Attribute

LINKS = ("cousin", "neighbour", "teacher")
_FORM = "The {l} of {o} is {n}. What is the {w} of {o}'s {l}?"


def hop_question(person: Person, attribute: Attribute, others: Sequence[Person], draw: random.Random) -> str:
    """A question about ``person`` that starts from one of ``others``, by a relation word that SFT uses.

    Where nobody among them has another value, somebody with the same one is taken.
    """
    rest = [other for other in others if other is not person]
    unlike = [other for other in rest if other.facts[attribute.name] != person.facts[attribute.name]]
    other, link, word = draw.choice(unlike or rest), draw.choice(LINKS), draw.choice(attribute.nouns[:-1])
    text = _FORM.replace("{l}", link).replace("{w}", word)
    return text.replace("{o}", other.name).replace("{n}", person.name)
