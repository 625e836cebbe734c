"""The words of the invented world: names, attributes, their values and the ways in which text tells of them.

Nothing here is drawn at random, so the world depends on its seed alone. Values are single words (several attributes use
invented ones, so that no real text can tell them), nouns are the *relation words* that biographies and questions share.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    "Ada Alan Amos Anna Basil Bella Boris Clara Cyril Daisy Dora Edgar Edith Elsa Enid Ethel Felix Fiona "
    "Flora Frank Gerda Giles Grace Hector Helga Hugo Ida Irma Ivan Jonas Julia Karl Lena Lionel Lucy "
    "Mabel Magnus Martha Mira Nora Oscar Otto Percy Rosa Rupert Silas Stella Victor"
)
_SURNAME_HEADS = _words("Bar Bren Cal Dor Fen Gar Hal Kel Lor Mar Pel Rud Sel Tav Var Wen")
_SURNAME_TAILS = _words("by den ford gate ley lock man mer row ton well wick")
SURNAMES = tuple(head + tail for head in _SURNAME_HEADS for tail in _SURNAME_TAILS)


def _join(heads: str, tails: str) -> tuple[str, ...]:
    return tuple(head + tail for head in heads.split() for tail in tails.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """One thing that is known of every person.

    Attributes:
        name: key of the attribute in code and data rows.
        nouns: relation words; the last one is never used in the questions of SFT.
        statements: verb phrasings of biographies; ``{n}`` is the full name, the value follows at the end.
        values: all values that occur, each equally likely.
        article: what stands between "is" and the value in noun phrasings.
        asked: whether SFT asks for it; the others form the new-attribute axis.
    """

    name: str
    nouns: tuple[str, ...]
    statements: tuple[str, ...]
    values: tuple[str, ...]
    article: str = ""
    asked: bool = True


ATTRIBUTES = (
    Attribute(
        name="birthplace",
        nouns=("birthplace", "hometown", "place of birth"),
        statements=("{n} was born in", "{n} comes from"),
        values=_join("Ash Brack Cold Dun Elm Glen Iron Stone", "bury haven moor stead"),
    ),
    Attribute(
        name="profession",
        nouns=("profession", "occupation", "trade"),
        statements=("{n} works as a", "{n} earns a living as a"),
        article="a",
        values=_words(
            "baker barber blacksmith brewer builder butcher carpenter clerk cobbler cooper doctor farmer gardener "
            "glazier grocer hatter judge lawyer mason miller nurse painter pilot plumber potter printer sailor "
            "shepherd surgeon tailor teacher weaver"
        ),
    ),
    Attribute(
        name="pet",
        nouns=("pet", "animal", "companion"),
        statements=("{n} keeps a", "{n} owns a"),
        article="a",
        values=_words(
            "badger canary cat cow crow dog donkey dove duck falcon ferret fox frog goat goose hamster hare hawk "
            "hen horse lamb lizard magpie monkey mouse mule parrot pony rabbit raven swan tortoise"
        ),
    ),
    Attribute(
        name="language",
        nouns=("language", "mother tongue", "speech"),
        statements=("{n} speaks", "{n} grew up speaking"),
        values=_join("Ald Bor Cym Esk Hesp Lum Ost Yar", "ese ian ic ish"),
    ),
    Attribute(
        name="hobby",
        nouns=("hobby", "pastime", "amusement"),
        statements=("{n} enjoys", "{n} spends free time on"),
        values=_words(
            "angling archery baking boxing carving chess climbing cycling dancing drawing embroidery fencing "
            "fishing gardening hiking hunting juggling knitting needlework painting photography poetry pottery "
            "riding rowing running sailing sewing singing skating swimming wrestling"
        ),
    ),
    Attribute(
        name="employer",
        nouns=("employer", "company", "firm"),
        statements=("{n} works for", "{n} is employed by"),
        values=_join("Brim Cad Mor Nov Quor Tel Vel Zan", "dyne ex ona tas"),
        asked=False,
    ),
    Attribute(
        name="dish",
        nouns=("favourite dish", "favourite meal", "favourite food"),
        statements=("{n} likes to eat", "{n} often cooks"),
        values=_words(
            "bacon beans beef broth cabbage cake cheese chowder crab curry custard dumplings haddock ham lentils "
            "lobster mushrooms mutton noodles oysters pancakes pasta pie pork porridge pudding rice salad salmon "
            "sausages stew trout"
        ),
        asked=False,
    ),
    Attribute(
        name="subject",
        nouns=("subject", "field of study", "discipline"),
        statements=("{n} studied", "{n} took a degree in"),
        values=_words(
            "algebra anatomy architecture astronomy biology botany chemistry economics engineering ethics "
            "geography geology geometry grammar history law logic mathematics mechanics medicine metaphysics "
            "navigation optics philosophy physics physiology politics psychology rhetoric statistics theology "
            "zoology"
        ),
        asked=False,
    ),
)
ATTRIBUTE_BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
