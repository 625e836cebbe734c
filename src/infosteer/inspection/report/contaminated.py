"""What of the evaluation sets was trained on, as a table with examples; old runs only know equal questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.inspection.report.gather import Run
from infosteer.inspection.report.markup import Markup, bdi, clip, el, join, table

_SETS, _FOUND = 100, 5
_LONGEST = 200
_COLUMNS = ("examples", "exact", "normalised", "with_answer", "touched", "covered")
_HEADS = ("rows", "as they stand", "word for word", "with the answer", "share a 13-gram", "share most 8-grams", "dirty")
_CAPTION = (
    "Rows of the evaluation sets that stand in the training rows: dirty are those trained on word for word, and those "
    "that share most of their 8-grams. The largest numbers of any training; clean scores leave out what is dirty in "
    "any of them."
)


def sets_of(run: Run) -> Mapping[str, Mapping[str, Any]]:
    """Set -> what of it was trained on; empty where it is not known."""
    found: Mapping[str, Mapping[str, Any]] = ((run.results or {}).get("contamination") or {}).get("sets", {})
    return found


def clean_rows(run: Run) -> Sequence[Mapping[str, Any]]:
    """Means over the clean parts."""
    found: Sequence[Mapping[str, Any]] = (
        ((run.results or {}).get("contamination") or {}).get("clean", {}).get("summary", [])
    )
    return found


def mark(run: Run, name: str) -> Markup | None:
    """What stands beside a set's name where some of its rows are dirty."""
    one = sets_of(run).get(name)
    if one is None or not one["dirty"]:
        return None
    return el("small", f" {len(one['dirty'])} of {one['examples']} dirty")


def contamination(run: Run) -> Markup | None:
    """The table, and the matches that were kept."""
    sets = dict(list(sets_of(run).items())[:_SETS])
    if not sets:
        return _overlap(run)
    rows: list[list[object]] = [
        [bdi(name), *(str(one[key]) for key in _COLUMNS), str(len(one["dirty"]))] for name, one in sets.items()
    ]
    matches = [
        el("li", bdi(name), ", ", _match(match)) for name, one in sets.items() for match in one["found"][:_FOUND]
    ]
    examples = el("details", el("summary", "Rows that were found"), el("ul", matches)) if matches else None
    return join(table(["set", *_HEADS], rows, caption=_CAPTION), examples)


def _match(match: Any) -> Markup:
    if not isinstance(match, Mapping):
        return join("not readable")
    told = [bdi(clip(str(match.get(key)), _LONGEST)) for key in ("place", "text", "trained_at", "trained")]
    return join(bdi(match.get("kind")), ": ", told[0], ", ", el("q", told[1]), ", as ", told[2], ", ", el("q", told[3]))


def _overlap(run: Run) -> Markup | None:
    """Of runs from before rows were compared by words."""
    trained = [outcome["train"] for outcome in run.outcomes if outcome["train"]]
    if not trained:
        told = "contamination is not known: the folder holds no outcome of a training"
        return el("ul", el("li", told))
    counts: dict[str, int] = {}
    for facts in trained:
        found = facts.get("overlap")
        for name, count in found.items() if isinstance(found, dict) else ():
            if type(count) is int:
                counts[str(name)] = max(count, counts.get(str(name), 0))
    lines = [
        el("li", el("b", "overlap: "), f"{count} questions of ", bdi(name), " are also among the training rows")
        for name, count in counts.items()
    ]
    return el("ul", lines or el("li", "overlap: no question of an evaluation set is also among the training rows"))
