"""Contamination: which rows of an evaluation set stand in the data that a model was trained on.

Four looks at every row, at the question without the frame of a known template, and at the answer:

    exact       the question, or question and answer, is one of the training rows (its prompt, or all of it)
    normalised  the same after NFKC, case folding, and without punctuation, white space and marks that are not drawn
    touched     at least one 13-gram of its words occurs in a training row (GPT-3: Brown et al. 2020, appendix C)
    covered     at least 70 % of its 8-grams do (PaLM: Chowdhery et al. 2022, section 8), of the question's or answer's

A row is **dirty** when it is normalised-equal or covered; the rest is the clean part. n-grams that occur under more
than 10 different training prompts are common text, templates and idioms, and count neither way (10 as in GPT-3); the
words with which at least half of a set's questions begin or end, and more than 10, are its frame and part of no n-gram.
A text of fewer than n words has no n-gram: it is compared as a whole only. Overlap is of words, so a translation or a
paraphrase is not found, and a text in the same words may be innocent.

The n-grams of the evaluation sets are held in memory, and the training text streams past them; of it only a hash of
each prompt with something in common is kept, and the rows in which an n-gram was met first.

Symbols: I rows of all sets, G different n-grams of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from infosteer.evaluation.ngram_index import Item, NgramIndex
from infosteer.evaluation.ngrams import WordHashes, words
from infosteer.evaluation.train_texts import Source, TrainText, bare, train_texts, without_shots
from infosteer.training.answers import last_number, same_number

TOUCH_N, COVER_N = 13, 8
DIRTY_SHARE = 0.7
COMMON = 10  # training prompts under which an n-gram may occur before it is common text
FOUND = 5  # rows shown of each set
_CLIP = 200  # characters of a text shown
_WORDS_AT_ONCE = 500_000
_PROBLEMS = 5


class Rows(Protocol):
    """What is compared: an ``EvalSet``, or anything with its name, rows, places and shots."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> list[dict[str, Any]]: ...
    @property
    def places(self) -> list[str]: ...
    @property
    def shots(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A row of a set beside the training row that it shares most with.

    Attributes:
        row: its number in the set, from 0.
        place, trained_at: file and line of both, or their numbers.
        kind: "exact", "normalised", "covered" or "touched", the strongest that holds.
        with_answer: whether the training row gives its answer too; None where only n-grams are shared.
        share: of its 8-grams in training text; None where it has none.
        text, trained: the beginnings of both.
    """

    row: int
    place: str
    trained_at: str
    kind: str
    with_answer: bool | None
    share: float | None
    text: str
    trained: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """What of one evaluation set stands in training data.

    Attributes:
        name: the set's.
        examples: its rows.
        trained: training rows that were read.
        exact, normalised: rows that are trained on as they stand; as the same words (exact ones included).
        with_answer: of the normalised, those that are trained on with their answer.
        touched, covered: rows that share a 13-gram; 70 % of their 8-grams.
        whole_only: rows too short for an 8-gram, which were compared as a whole.
        dirty: numbers of the rows that are normalised-equal or covered, from 0.
        found: some of them, the strongest matches first.
        unreadable: training rows that are no JSON object, and could not be compared; places of the first.
    """

    name: str
    examples: int
    trained: int
    exact: int
    normalised: int
    with_answer: int
    touched: int
    covered: int
    whole_only: int
    dirty: tuple[int, ...]
    found: tuple[Match, ...]
    unreadable: int = 0
    unreadable_at: tuple[str, ...] = ()

    def clean(self, scores: Sequence[float]) -> list[float]:
        """The scores of the rows that are not dirty; a list of another length, of the whole set, as it stands."""
        if len(scores) != self.examples:
            return list(scores)
        dirty = set(self.dirty)
        return [score for i, score in enumerate(scores) if i not in dirty]

    def to_json(self) -> dict[str, Any]:
        """As plain data, ``found`` as mappings."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return found | {
            "dirty": list(self.dirty),
            "found": [match.to_json() for match in self.found],
            "unreadable_at": list(self.unreadable_at),
        }


def check(evalset: Rows, sources: Iterable[Source]) -> Contamination:
    """``check_sets`` for one set."""
    return check_sets([evalset], sources)[evalset.name]


def check_sets(sets: Iterable[Rows], sources: Iterable[Source]) -> dict[str, Contamination]:
    """Every set by name against all training sources together, in one pass over these.

    Args:
        sets: evaluation sets.
        sources: as ``train_texts`` takes them: names of sources, mappings, or rows.

    Raises: DataError for a source that cannot be read; ConfigError for one that is none.
    """
    unreadable: list[str] = []
    return check_texts(sets, train_texts(sources, unreadable), unreadable)


def check_texts(
    sets: Iterable[Rows], texts: Iterable[TrainText], unreadable: Sequence[str] = ()
) -> dict[str, Contamination]:
    """``check_sets`` against texts that are read already; ``unreadable`` is looked at when they are at their end."""
    known = list(sets)
    items = [item for evalset in known for item in _items(evalset)]
    hashes = WordHashes()
    index = NgramIndex(items, (COVER_N, TOUCH_N), hashes, common=COMMON)
    wholes = _Wholes(items)
    trained = 0
    batch: list[tuple[TrainText, list[str]]] = []
    size = 0
    for text in texts:
        body = words(text.body)
        batch.append((text, body))
        wholes.see(text, body)
        trained, size = trained + 1, size + len(body)
        if size >= _WORDS_AT_ONCE:
            index.see(batch)
            batch, size = [], 0
    index.see(batch)
    found: dict[str, Contamination] = {}
    start = 0
    for evalset in known:
        stop = start + len(evalset.rows)
        found[evalset.name] = _judge(evalset, range(start, stop), items, index, wholes, trained, unreadable)
        start = stop
    return found


def _items(evalset: Rows) -> list[Item]:
    prompts = without_shots([row.get("prompt", row.get("text", "")) for row in evalset.rows], evalset.shots)
    questions = [bare(prompt) for prompt in prompts]
    made = []
    for row, question, own in zip(evalset.rows, questions, _without_frame(questions), strict=True):
        answer = None if row.get("answer") is None else str(row["answer"])
        texts = (question, *([f"{question}\n{answer}"] if answer is not None else []))
        made.append(Item(texts=texts, parts=(own, *([words(answer)] if answer is not None else [])), answer=answer))
    return made


def _without_frame(questions: Sequence[str]) -> list[list[str]]:
    """The words of questions without those with which at least half of them begin, and those with which half end."""
    cut = [words(question) for question in questions]
    for _ in range(2):  # the beginnings, then, read backwards, the ends
        frame = _shared_start(cut)
        for i, question in enumerate(cut):
            same = 0
            while same < min(len(frame), len(question)) and question[same] == frame[same]:
                same += 1
            cut[i] = question[same:][::-1]
    return cut


def _shared_start(texts: Sequence[list[str]]) -> list[str]:
    """The longest row of words with which at least half of the texts begin, and more than ``COMMON``."""
    shared: list[str] = []
    left = list(texts)
    while True:
        counts = Counter(text[len(shared)] for text in left if len(text) > len(shared))
        word, count = counts.most_common(1)[0] if counts else ("", 0)
        if count < max(COMMON + 1, len(texts) / 2):
            return shared
        left = [text for text in left if len(text) > len(shared) and text[len(shared)] == word]
        shared.append(word)


class _Wholes:
    """Finds training rows that are items as a whole."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.texts: dict[str, list[int]] = {}
        self.words: dict[str, list[int]] = {}
        self.exact: dict[int, TrainText] = {}
        self.normalised: dict[int, TrainText] = {}
        self.answered: dict[int, TrainText] = {}
        for i, item in enumerate(items):
            for text in dict.fromkeys(item.texts):
                if text.strip():
                    self.texts.setdefault(text.strip(), []).append(i)
            for key in dict.fromkeys(" ".join(words(text)) for text in item.texts):
                if key:
                    self.words.setdefault(key, []).append(i)

    def see(self, text: TrainText, body: list[str]) -> None:
        """Compare one training row, and the words of its body, with all items."""
        for whole in text.wholes:
            for i in self.texts.get(whole.strip(), ()):
                self.exact.setdefault(i, text)
                self._keep(i, text)
            for i in self.words.get(" ".join(body if whole is text.body else words(whole)), ()):
                self._keep(i, text)

    def _keep(self, i: int, text: TrainText) -> None:
        self.normalised.setdefault(i, text)
        answer = self.items[i].answer
        if i not in self.answered and answer is not None and _gives(text.answer or text.body, answer):
            self.answered[i] = text


def _gives(text: str, answer: str) -> bool:
    """Whether a text holds an answer's words in a row, or ends in its number."""
    wanted = " ".join(words(answer))
    if wanted and f" {wanted} " in f" {' '.join(words(text))} ":
        return True
    left, right = last_number(text), last_number(answer)
    return left is not None and right is not None and same_number(left, right)


def _judge(
    evalset: Rows,
    numbers: range,
    items: Sequence[Item],
    index: NgramIndex,
    wholes: _Wholes,
    trained: int,
    unreadable: Sequence[str],
) -> Contamination:
    covered = {i for i in numbers if (share := index.share(i, COVER_N)) is not None and share >= DIRTY_SHARE}
    touched = {i for i in numbers if index.share(i, TOUCH_N)}
    normalised = [i for i in numbers if i in wholes.normalised]
    exact = [i for i in numbers if i in wholes.exact]
    dirty = sorted(covered.union(normalised))
    order = dict.fromkeys([*exact, *normalised, *sorted(covered), *sorted(touched)])
    matches = []
    for i in list(order)[:FOUND]:
        whole = wholes.answered.get(i) or wholes.exact.get(i) or wholes.normalised.get(i)
        place, text = (whole.place, whole.body) if whole is not None else index.source(i)
        row = i - numbers.start
        matches.append(
            Match(
                row=row,
                place=evalset.places[row] if row < len(evalset.places) else f"{evalset.name}, row {row + 1}",
                trained_at=place,
                kind="exact" if i in wholes.exact else "normalised" if i in wholes.normalised
                else "covered" if i in covered else "touched",
                with_answer=i in wholes.answered if i in wholes.normalised else None,
                share=index.share(i, COVER_N),
                text=items[i].texts[0][:_CLIP],
                trained=text[:_CLIP],
            )
        )  # fmt: skip
    return Contamination(
        name=evalset.name,
        examples=len(numbers),
        trained=trained,
        exact=len(exact),
        normalised=len(normalised),
        with_answer=sum(i in wholes.answered for i in normalised),
        touched=len(touched),
        covered=len(covered),
        whole_only=sum(index.share(i, COVER_N) is None for i in numbers),
        dirty=tuple(i - numbers.start for i in dirty),
        found=tuple(matches),
        unreadable=len(unreadable),
        unreadable_at=tuple(unreadable[:_PROBLEMS]),
    )


def rule() -> dict[str, Any]:
    """The thresholds, for results."""
    return {"touched_n": TOUCH_N, "covered_n": COVER_N, "covered_share": DIRTY_SHARE, "common_prompts": COMMON}
