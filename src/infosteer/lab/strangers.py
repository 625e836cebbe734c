"""People whom pretraining never mentioned: what does tuning do to the learning of new facts?

They come from the same names and values as everybody else, in pairs that the world does not have. A tuning that is to
learn them reads biographies as pretraining did; the same sets ask for them afterwards as for the people of the world.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from infosteer.lab.facts import WORLD_SEED, Person, World, biography, make_world
from infosteer.lab.questions import axis_rows, recall_rows
from infosteer.lab.words import ATTRIBUTES, FIRST_NAMES, SURNAMES

STRANGERS = 40
DEFAULT_TEXTS = 8


@lru_cache(maxsize=1)
def strangers() -> World:
    """A world of 40 people, none of whom the base has read about; the same in every run."""
    known = {person.name for person in make_world().people}
    draw = random.Random(f"strangers/{WORLD_SEED}")
    free = [f"{first} {last}" for first in FIRST_NAMES for last in SURNAMES if f"{first} {last}" not in known]
    return World(
        people=tuple(
            Person(name=name, facts={attribute.name: draw.choice(attribute.values) for attribute in ATTRIBUTES})
            for name in draw.sample(free, STRANGERS)
        )
    )


def stranger_rows(*, seed: int, texts: int) -> list[dict[str, Any]]:
    """Text rows to learn them from: so many biographies of each, in phrasings and an order drawn by the seed."""
    draw = random.Random(f"stranger rows/{seed}")
    rows = [{"text": biography(person, draw)} for person in strangers().people for _ in range(texts)]
    draw.shuffle(rows)
    return rows


def stranger_sets(name: str) -> list[dict[str, Any]]:
    """Evaluation rows: ``strangers_recall`` has sentences to complete, ``strangers_questions`` asks as SFT does."""
    world = strangers()
    if name == "strangers_recall":
        return recall_rows(world, asked=True) + recall_rows(world, asked=False)
    return axis_rows(world, "new_people")
