"""Story contexts: the names and the wording that turn a graph of quantities into a story."""

from __future__ import annotations

from dataclasses import dataclass

from infosteer.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """One story. ``{p}`` stands for a quantity, ``{e}`` for what it equals, ``{n}``, ``{kind}``, ``{place}`` for words.

    Attributes:
        places, kinds: their products are the quantities, such as "owls in Cedarvale".
        total: the word for all kinds of a place together.
        joint: between kind and place.
        totals_spoken: whether a sentence says what a total consists of; else the reader has to know.
        preamble: said first where totals are left to the reader.
        leaf, relation, unknown, query: a stated number, a stated relation, the unknown of reverse mode, the question.
    """

    places: tuple[str, ...]
    kinds: tuple[str, ...]
    total: str
    joint: str
    totals_spoken: bool
    preamble: str
    leaf: str
    relation: str
    unknown: str
    query: str


CONTEXTS = {
    "A": Context(
        places=("Cedarvale", "Pinewood", "Foxmoor", "Larkhill", "Mossbank", "Elkridge", "Hazelden", "Birchley"),
        kinds=("bears", "owls", "wolves", "otters", "deer", "hares", "lynxes", "storks"),
        total="animals",
        joint="in",
        totals_spoken=False,
        preamble="Animals that are not named count as 0.",
        leaf="There are {n} {kind} in {place}.",
        relation="The {p} number {e}.",
        unknown="Nobody counted the {p}.",
        query="How many {p} are there?",
    ),
    "B": Context(
        places=("Ashford", "Brookfield", "Carlton", "Dunmore", "Eastgate", "Fairview", "Glenbrook", "Highcliff"),
        kinds=("tutors", "coaches", "lecturers", "mentors", "trainers", "painters", "chemists", "linguists"),
        total="teachers",
        joint="at",
        totals_spoken=True,
        preamble="",
        leaf="{place} employs {n} {kind}.",
        relation="The count of {p} equals {e}.",
        unknown="The count of {p} is unknown.",
        query="What is the count of {p}?",
    ),
    "C": Context(
        places=("Lumefest", "Novafest", "Rivafest", "Solafest", "Terrafest", "Unafest", "Vistafest", "Zenofest"),
        kinds=("comedies", "dramas", "westerns", "thrillers", "musicals", "cartoons", "romances", "epics"),
        total="films",
        joint="during",
        totals_spoken=False,
        preamble="Films that are not listed count as 0.",
        leaf="Viewers saw {n} {kind} during {place}.",
        relation="For the {p} take {e}.",
        unknown="The list of {p} is lost.",
        query="Find the {p}.",
    ),
}

# What a quantity equals; {p} {q} {r} are quantities and {c} a constant.
EXPRESSIONS = {
    "more": "{c} more than the {p}",
    "fewer": "{c} fewer than the {p}",
    "times": "{c} times the {p}",
    "sum": "the sum of the {p} and the {q}",
    "difference": "the difference of the {p} and the {q}",
    "product": "the product of the {p} and the {q}",
    "sum3": "the sum of the {p}, the {q} and the {r}",
}


def context(key: str) -> Context:
    """The context of that letter. Raises: ConfigError for an unknown one."""
    if key not in CONTEXTS:
        raise ConfigError("Unknown story context.", where="contexts", got=repr(key), expected=", ".join(CONTEXTS))
    return CONTEXTS[key]
