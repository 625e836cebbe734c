"""Which tokens are content words, which function words, which punctuation: by a closed list, without a tagger.

Subword tokens are joined to words by the white space between them; every letter of a word gets the word's class. The
list holds what grammars call closed classes of English. A word that is also something else ("like", "can", "have") is
a function word wherever it stands, since only a tagger could tell; so is every form of be, have and do.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Sequence

CONTENT, FUNCTION, PUNCTUATION, OTHER = "content", "function", "punctuation", "other"
CLOSED: dict[str, str] = {
    "articles and determiners": (
        "a an the this that these those each every either neither some any no all both half such same other another "
        "much many more most few fewer less least several enough what which whose whatever whichever own"
    ),
    "pronouns": (
        "i me my mine myself we us our ours ourselves you your yours yourself yourselves thou thee thy thine thyself "
        "he him his himself she her hers herself it its itself they them their theirs themselves one oneself who whom "
        "whoever whomever someone somebody something anyone anybody anything everyone everybody everything none nobody "
        "nothing"
    ),
    "prepositions": (
        "about above across after against along alongside amid among amongst around as at before behind below beneath "
        "beside besides between beyond by concerning despite down during except for from in inside into like near "
        "of off on onto opposite out outside over past per regarding round since than through throughout till to "
        "toward towards under underneath unlike until unto up upon versus via with within without"
    ),
    "conjunctions": (
        "and or nor but yet so if because although though while whilst whereas unless whether lest once when whenever "
        "where wherever why how however whereby wherein"
    ),
    "be, have, do and modals": (
        "am is are was were be been being isn't aren't wasn't weren't have has had having haven't hasn't hadn't do "
        "does did doing done don't doesn't didn't will would shall should can could may might must ought won't "
        "wouldn't shan't shouldn't can't cannot couldn't mayn't mightn't mustn't needn't"
    ),
    "negation, particles and pointing words": (
        "not never there here then thus hence too also else even just only quite rather very o oh"
    ),
    "contractions": (
        "i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll it'd we're we've "
        "we'll we'd they're they've they'll they'd that's that'll there's here's what's who's who'll where's how's "
        "let's 'tis 'twas"
    ),
}
FUNCTION_WORDS = frozenset(" ".join(CLOSED.values()).split())
CLITICS = frozenset(("s", "t", "re", "ve", "m", "ll", "d"))  # after an apostrophe: "Anna's" is Anna and a function word
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_MARKER = re.compile(r"\s*<\|[^|\s]*\|>\s*")  # tokens such as <|endoftext|>


def word_classes(tokens: Sequence[str]) -> tuple[list[str], list[int]]:
    """Class and unit of every token.

    Classes: ``content``; ``function``; ``punctuation`` (marks and ASCII symbols); ``other`` for what the question is
    not about: white space, numbers, single letters but "a", "i", "o", other scripts, emoji, control characters, bytes
    that are no characters, markers such as ``<|endoftext|>``, and tokens of more than one word.

    Args:
        tokens: pieces of one text in order, spaces included; empty ones belong to the piece before.

    Returns:
        The classes, and for every token the number of its unit: the tokens of one word share a unit, and all others
        have one of their own, so labels can be shuffled without tearing words apart.
    """
    text = "".join(tokens)
    words = list(_WORD.finditer(text))
    starts = [word.start() for word in words]
    classes: list[str] = []
    units: list[int] = []
    place, last = 0, None
    for token in tokens:
        if not token and classes:
            classes.append(classes[-1])
            units.append(units[-1])
            continue
        letter = next((i for i, char in enumerate(token) if char.isalpha()), None)
        kind, word = _plain_class(token), None
        if kind is None and letter is not None:
            word = words[bisect.bisect_right(starts, place + letter) - 1]
            kind = _word_class(word[0], place + letter - word.start())
        key = None if word is None else (word.start(), kind)
        if key is None or key != last:
            units.append(units[-1] + 1 if units else 0)
        else:
            units.append(units[-1])
        classes.append(kind or OTHER)
        last, place = key, place + len(token)
    return classes, units


def _plain_class(token: str) -> str | None:
    """The class of a token that can be told by itself; None for one that is a part of a word."""
    core = token.strip()
    if not core or len(core.split(None, 1)) > 1 or _MARKER.fullmatch(token):
        return OTHER
    if any(char.isalpha() for char in core):
        return None
    marks = all(
        unicodedata.category(char).startswith("P") or (char.isascii() and unicodedata.category(char).startswith("S"))
        for char in core
    )
    return PUNCTUATION if marks else OTHER


def _word_class(word: str, place: int) -> str:
    """The class of the letter at ``place`` of a word; words of an apostrophe and a short tail have two."""
    plain = word.lower().replace("\u2019", "'")
    if plain in FUNCTION_WORDS:
        return FUNCTION
    head, mark, tail = plain.rpartition("'")
    if mark and tail in CLITICS:
        if place > len(head):
            return FUNCTION
        plain = head
    if plain in FUNCTION_WORDS:
        return FUNCTION
    latin = any(unicodedata.name(char, "").startswith("LATIN") for char in plain)
    return CONTENT if latin and len(plain) > 1 else OTHER
