"""Language confusion: answers whose lines, or words, are not in the language that was asked for.

Languages are told apart by script, by letters of their own and by common words: enough for whole lines of the
taxonomy's 23, with no model to download. Any other function of a text takes its place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from infosteer.core.config import load_yaml

Identify = Callable[[str], str | None]  # a text -> the name of its language, None where that is unclear

_SCRIPTS = {  # script -> its letters
    "Latin": r"A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Greek": r"\u0370-\u03ff\u1f00-\u1fff",
    "Cyrillic": r"\u0400-\u052f",
    "Hebrew": r"\u05d0-\u05ea",
    "Arabic": r"\u0620-\u06ff\u0750-\u077f",
    "Devanagari": r"\u0900-\u097f",
    "Hangul": r"\u1100-\u11ff\uac00-\ud7af",
    "Kana": r"\u3040-\u30ff",
    "Han": r"\u3400-\u4dbf\u4e00-\u9fff",
}
_LETTERS = {script: re.compile(f"[{letters}]") for script, letters in _SCRIPTS.items()}
_ONE = {"Greek": "Greek", "Hebrew": "Hebrew", "Devanagari": "Hindi", "Hangul": "Korean"}
_TABLES: dict[str, dict[str, str]] = load_yaml(Path(__file__).with_name("languages.yaml"))
_OWN, _ELSEWHERE = _TABLES["own"], _TABLES["in_other_scripts"]
_WORDS = {language: frozenset(words.split()) for language, words in _TABLES["common"].items()}
_SHARED = Counter(word for words in _WORDS.values() for word in words)
_WORD = re.compile(r"[^\W\d_]+")
FEWEST = 4  # words, or letters of scripts without spaces, of which a language can be told


def identify(text: str) -> str | None:
    """The language of a text, one of the taxonomy's; None where it has too few words or tells nothing.

    The script with most letters decides first; then letters and words, each word counting for its share of the
    languages that have it.
    """
    counts = Counter({script: len(letters.findall(text)) for script, letters in _LETTERS.items()})
    (script, most), *_ = counts.most_common(1)
    spaced = script not in ("Kana", "Han")
    if not most or (len(_WORD.findall(text)) if spaced else counts["Kana"] + counts["Han"]) < FEWEST:
        return None
    if script in ("Kana", "Han"):
        return "Japanese" if counts["Kana"] >= 0.1 * counts["Han"] and counts["Kana"] else "Chinese"
    if script == "Cyrillic":
        return "Ukrainian" if set(_ELSEWHERE["Ukrainian"]) & set(text) else "Russian"
    if script == "Arabic":
        return "Persian" if set(_ELSEWHERE["Persian"]) & set(text) else "Arabic"
    return _ONE.get(script) or _latin(text.lower())


def _latin(text: str) -> str | None:
    words = Counter(_WORD.findall(text))
    scores = {
        language: sum(count / _SHARED[word] for word, count in words.items() if word in known)
        + sum(text.count(letter) for letter in _OWN.get(language, ""))
        for language, known in _WORDS.items()
    }
    first, second = sorted(scores.values(), reverse=True)[:2]
    return max(scores, key=scores.__getitem__) if first > second else None


def lines_pass(text: str, wanted: str, identify: Identify = identify) -> bool:
    """Whether no line of a text is in another language; lines that tell nothing pass."""
    return all(identify(line) in (wanted, None) for line in text.splitlines())


def words_pass(text: str, wanted: str) -> bool | None:
    """Whether an answer in another script holds no word of three Latin letters or more; None for Latin languages."""
    if wanted in _WORDS:
        return None
    return re.search(f"[{_SCRIPTS['Latin']}]{{3,}}", text) is None


def language_confusion(texts: Sequence[str], wanted: Sequence[str], identify: Identify = identify) -> dict[str, float]:
    """Line pass rate, word pass rate and their harmonic mean, over answers and the languages they were asked in.

    The word pass rate is taken over the answers that pass by lines and whose language is not written in Latin letters;
    where there are none, it is left out, and the mean with it.

    Source: arXiv 2406.20052, as used by arXiv 2506.14702.
    """
    passed = [lines_pass(text, own, identify) for text, own in zip(texts, wanted, strict=True)]
    found = {"line_pass_rate": sum(passed) / len(passed)}
    words = [words_pass(text, own) for text, own, good in zip(texts, wanted, passed, strict=True) if good]
    judged = [good for good in words if good is not None]
    if judged:
        rate = found["word_pass_rate"] = sum(judged) / len(judged)
        both = found["line_pass_rate"] + rate
        found["pass_rate"] = 2 * found["line_pass_rate"] * rate / both if both else 0.0
    return found
