"""Settings, versions, data, and what of the evaluation was also trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from infosteer.inspection.report.contaminated import contamination
from infosteer.inspection.report.markup import Markup, bdi, clip, el, join, table
from infosteer.inspection.report.section import Context, Section, absent, chip

ID, TITLE = "settings", "Settings, versions and data"
_LONGEST = 400
_ARMS = 60
_ROWS = 300
_PATHS = ("model", "data", "train", "seeds")


def make_settings(context: Context) -> Section:
    """The section, from recipe.yaml, results.json and the outcomes."""
    run = context.run
    environment = (run.results or {}).get("environment")
    if run.recipe is None and not environment:
        return absent(ID, TITLE, "The folder holds no recipe.yaml and its results name no versions.")
    parts: list[object] = [
        el("h3", "Data and contamination"),
        _data(context),
        _arms(context),
    ]
    if run.recipe is not None:
        chosen = {key: run.recipe[key] for key in _PATHS if key in run.recipe}
        parts.append(
            el("details", el("summary", "Training settings"), _pairs(_flat(chosen), "All settings of the training"))
        )
    if isinstance(environment, Mapping):
        parts.append(el("details", el("summary", "Versions and machine"), _pairs(_flat(environment), "Where it ran")))
    return Section(id=ID, title=TITLE, body=join(parts))


def _data(context: Context) -> Markup:
    items: list[object] = []
    trained = [outcome["train"] for outcome in context.run.outcomes if outcome["train"]]
    hashes = {(facts.get("rows"), facts.get("rows_sha256")) for facts in trained}
    for rows, digest in sorted(hashes, key=str):
        items.append(el("li", f"trained on {rows} rows", f" (sha256 {clip(str(digest), 64)})" if digest else None))
    for key, words in (("truncated", "rows were cut at max_length"), ("dropped", "rows were dropped")):
        most = max((int(facts[key]) for facts in trained if type(facts.get(key)) is int), default=0)
        if most:
            items.append(el("li", f"up to {most} {words}"))
    items += [el("li", "not readable: ", bdi(name)) for name in context.run.unreadable]
    return join(el("ul", items) if items else None, contamination(context.run), _sets(context))


def _sets(context: Context) -> Markup | None:
    found: dict[str, Mapping[str, Any]] = {}
    for outcome in context.run.outcomes:
        for name, facts in outcome["sets"].items():
            if isinstance(facts, dict):
                found.setdefault(str(name), facts)
    if not found:
        return None
    columns = ("source", "scoring", "decoding", "max_new_tokens", "batch_size", "dtype", "skipped")
    rows: list[list[object]] = []
    for name, facts in list(found.items())[:_ROWS]:
        settings = facts.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        rows.append([bdi(name), *(bdi(clip(_plain(settings.get(key)), 60)) for key in columns)])
    head: list[object] = ["set", *(key.replace("_", " ") for key in columns)]
    return table(head, rows, caption="Evaluation sets and how they were judged", numbers_from=99)


def _arms(context: Context) -> Markup | None:
    arms = (context.run.recipe or {}).get("arms")
    if not isinstance(arms, dict) or not arms:
        return None
    lines = []
    for arm, settings in list(arms.items())[:_ARMS]:
        plain = not settings or (isinstance(settings, dict) and not any(settings.values()))
        shown = "no methods: plain training" if plain else _words(settings)
        lines.append(join(el("dt", chip(str(arm), context.look(str(arm)))), el("dd", bdi(clip(shown, 1200)))))
    more = len(arms) - _ARMS
    rest = el("p", f"and {more} more in recipe.yaml", class_="note") if more > 0 else None
    return join(el("h3", "Arms"), el("dl", lines, class_="arms"), rest)


def _words(settings: Any) -> str:
    if isinstance(settings, dict) and "method" in settings:
        rest = ", ".join(f"{key} {_plain(value)}" for key, value in settings.items() if key != "method")
        return f"{settings['method']} ({rest})" if rest else str(settings["method"])
    if isinstance(settings, dict):
        return "; ".join(f"{key}: {_words(value)}" for key, value in settings.items() if value)
    if isinstance(settings, list):
        return "; ".join(map(_words, settings))
    return _plain(settings)


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "\u2013"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _pairs(pairs: Iterable[tuple[str, str]], caption: str) -> Markup:
    rows: list[list[object]] = [[bdi(key), bdi(clip(value, _LONGEST))] for key, value in list(pairs)[:_ROWS]]
    return table(["setting", "value"], rows, caption=caption, numbers_from=99)
