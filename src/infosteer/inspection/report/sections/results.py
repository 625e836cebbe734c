"""Results: the table of means and differences with their intervals, forest plots, and what the models answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from infosteer.evaluation import measures
from infosteer.inspection.report.answer import corrected, excludes_zero
from infosteer.inspection.report.charts import Chart, show
from infosteer.inspection.report.contaminated import clean_rows, mark
from infosteer.inspection.report.drawings import Effect, forest
from infosteer.inspection.report.markup import Markup, bdi, clip, el, join, table, visible
from infosteer.inspection.report.section import Context, Section, absent, chip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "results", "Results"
_FORESTS = 4  # measures drawn
_EFFECTS = 72  # differences in one forest plot
_CELLS = 2500  # of one table
_LINES = 100  # notes, and failures
_SAMPLES, _SETS = 3, 20  # of each set, and sets
_ANSWERS = 12  # to one question
_LONGEST = 600  # characters of a prompt or an answer
_FIRST = ("exact_match", "answer_nll")  # open from the start


def make_results(context: Context) -> Section:
    """The section, from results.json and the samples in the outcomes."""
    results = context.run.results
    if results is None or not results["summary"]:
        return absent(
            ID, TITLE, "Nothing has been evaluated yet: name sets under ", el("code", "evaluate"),
            " in the recipe and let ", el("code", "infosteer run"), " finish at least one training.",
        )  # fmt: skip
    names = measures.ordered(measures.split(row["metric"])[1] for row in results["summary"])
    compared = {measures.split(row["metric"])[1] for row in results["comparisons"]}
    drawn = [name for name in names if name in compared][:_FORESTS]
    charts = {name: _forest(context, name) for name in drawn}
    parts = [
        el(
            "details",
            el("summary", _heading(name)),
            show(charts[name], _caption(context, name)) if name in charts else None,
            _table(context, name),
            open=name in _FIRST or name == names[0],
        )
        for name in names
    ]
    body = join(parts, _notes(results), _samples(context))
    return Section(id=ID, title=TITLE, body=body, charts=list(charts.values()))


def _heading(measure: str) -> str:
    unit = measures.unit(measure)
    label = measures.label(measure)
    return f"{label[:1].upper()}{label[1:]}" + (f", {unit}" if unit else "")


def _forest(context: Context, measure: str) -> Chart:
    rows = _drawn(_compared(context, measure))
    effects = [
        Effect(
            group=clip(visible(measures.split(row["metric"])[0]), 40),
            name=clip(visible(row["arm"]), 28),
            look=context.look(row["arm"]),
            value=row["difference"] * measures.scale(measure),
            low=row["low"] * measures.scale(measure),
            high=row["high"] * measures.scale(measure),
            text=_interval(row, "difference", measure, sign=True),
        )
        for row in rows
    ]
    baseline = visible(context.baseline)
    unit = measures.step_unit(measure)
    axis = f"difference from {clip(baseline, 28)}" + (f", {unit}" if unit else "")
    way = measures.better(measure)
    sides = ("", "") if way is None else ("worse", "better") if way > 0 else ("better", "worse")

    def draw(width: float) -> Figure:
        return forest(effects, width=width, axis=axis, less=sides[0], more=sides[1])

    told = "; ".join(f"{effect.name} on {effect.group} {effect.text}" for effect in effects[:12])
    label = f"Forest plot of {measures.label(measure)}, differences from {baseline}: {told}"
    return Chart(name=f"forest-{measure}", label=label, draw=draw)


def _drawn(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that fit into one plot: the largest differences, in the order of the results."""
    if len(rows) <= _EFFECTS:
        return rows
    largest = sorted(range(len(rows)), key=lambda i: -abs(rows[i]["difference"]))[:_EFFECTS]
    return [rows[i] for i in sorted(largest)]


def _compared(context: Context, measure: str) -> list[Mapping[str, Any]]:
    results = context.run.results or {}
    return [row for row in results["comparisons"] if measures.split(row["metric"])[1] == measure]


def _caption(context: Context, measure: str) -> Markup:
    count = len(_compared(context, measure))
    return join(
        f"Difference from {context.baseline} in {measures.label(measure)}, paired by seed and example, with its "
        "95 % interval. An interval across the line at zero shows no difference.",
        f" Drawn are the {_EFFECTS} largest of {count} differences." if count > _EFFECTS else None,
    )  # fmt: skip


def _table(context: Context, measure: str) -> Markup:
    results = context.run.results or {}
    sets = list(
        dict.fromkeys(
            measures.split(row["metric"])[0]
            for row in results["summary"]
            if measures.split(row["metric"])[1] == measure
        )
    )
    means = {(row["arm"], row["metric"]): row for row in results["summary"]}
    clean = {(row["arm"], row["metric"]): row for row in clean_rows(context.run)}
    rows = _compared(context, measure)
    differences = {(row["arm"], row["metric"]): (row, p) for row, p in zip(rows, corrected(rows), strict=True)}
    cell = partial(_cell, measure=measure)
    body: list[list[object]] = []
    arms = list(dict.fromkeys(row["arm"] for row in results["summary"]))
    room = max(1, _CELLS // len(sets))
    for arm in arms[:room]:
        keys = [(arm, f"{name}/{measure}") for name in sets]
        if any(key in means for key in keys):
            seeds = max(means[key]["n"] for key in keys if key in means)
            cells = [cell(means.get(key), clean.get(key), differences.get(key)) for key in keys]
            body.append([chip(arm, context.look(arm)), str(seeds or "\u2013"), *cells])
    caption = f"{_heading(measure)}: mean by arm and its 95 % interval"
    if len(arms) > room:
        caption += f" (the first {room} of {len(arms)} arms; all are in results.json)"
    if rows:
        caption += (
            f"; below it the difference from {context.baseline}, bold where its interval leaves out zero, and its "
            "p-value (in brackets: corrected by Holm's method over all arms and sets of the measure)"
        )
    heads = [join(bdi(name), mark(context.run, name)) for name in sets]
    return table(["arm", "seeds", *heads], body, caption=caption)


def _cell(
    mean: Mapping[str, Any] | None,
    clean: Mapping[str, Any] | None,
    difference: tuple[Mapping[str, Any], float] | None,
    *,
    measure: str,
) -> Markup:
    if mean is None:
        return el("span", "\u2013", aria_label="not measured")
    value = el("span", el("b", measures.show(mean["mean"], measure)), " ", _range(mean, measure), class_="value")
    if clean is not None:
        without = el("span", "clean ", measures.show(clean["mean"], measure), " ", _range(clean, measure), class_="p")
        value = join(value, without)
    if difference is None:
        return value
    row, p = difference
    way = measures.better(measure)
    clear = excludes_zero(row)
    word = None
    if clear and way is not None:
        word = "better" if (row["difference"] > 0) == (way > 0) else "worse"
    shown = el("b" if clear else "span", measures.show(row["difference"], measure, sign=True))
    tail = f"p {measures.show_p(row['p_value'])} ({measures.show_p(p)})"
    return join(
        value,
        el("span", shown, " ", _range(row, measure, sign=True), class_="difference"),
        el("span", f"{word}, " if word else None, tail, class_="p"),
    )


def _range(row: Mapping[str, Any], measure: str, *, sign: bool = False) -> Markup:
    low, high = (measures.show(row[key], measure, sign=sign) for key in ("low", "high"))
    return el("span", f"{low} to {high}", class_="range")


def _interval(row: Mapping[str, Any], key: str, measure: str, *, sign: bool = False) -> str:
    middle, low, high = (measures.show(row[name], measure, sign=sign) for name in (key, "low", "high"))
    return f"{middle} ({low} to {high})"


def _notes(results: Mapping[str, Any]) -> Markup | None:
    failures = [
        el("li", "failed: ", bdi(row.get("arm")), f", seed {row.get('seed')}: ", bdi(clip(str(row.get("error")), 400)))
        for row in results["failures"][:_LINES]
        if isinstance(row, dict)
    ]
    notes = [el("li", bdi(clip(str(note), 400))) for note in results["notes"][:_LINES]]
    return el("ul", failures, notes, class_="notes") if failures or notes else None


def _samples(context: Context) -> Markup | None:
    by_prompt: dict[str, dict[tuple[str, str], dict[str, Mapping[str, Any]]]] = {}
    for outcome in context.run.outcomes:
        for name, facts in outcome["sets"].items():
            samples = facts.get("samples") if isinstance(facts, dict) else None
            for sample in samples if isinstance(samples, list) else []:
                if isinstance(sample, dict) and {"prompt", "answer", "prediction"} <= sample.keys():
                    key = (str(sample["prompt"]), str(sample["answer"]))
                    seen = by_prompt.setdefault(name, {}).setdefault(key, {})
                    seen.setdefault(str(outcome["arm"]), sample)  # the first seed's
    if not by_prompt:
        return None
    parts = [
        join(el("h3", bdi(name)), [_sample(context, key, answers) for key, answers in list(samples.items())[:_SAMPLES]])
        for name, samples in list(by_prompt.items())[:_SETS]
    ]
    return el("details", el("summary", "What the models answered"), parts, class_="samples")


def _sample(context: Context, key: tuple[str, str], answers: Mapping[str, Mapping[str, Any]]) -> Markup:
    order: Sequence[str] = [arm for arm in context.looks if arm in answers][:_ANSWERS]
    lines = []
    for arm in order:
        right = answers[arm].get("correct")
        verdict = None if not isinstance(right, bool) else " \u2713 right" if right else " \u2717 wrong"
        lines.append(el("dt", chip(arm, context.look(arm))))
        lines.append(
            el("dd", el("q", bdi(clip(str(answers[arm]["prediction"]).strip(), _LONGEST))), el("small", verdict))
        )  # fmt: skip
    return el(
        "div",
        el("p", bdi(clip(key[0], _LONGEST)), class_="prompt"),
        el("p", "expected: ", el("q", bdi(clip(key[1], _LONGEST))), class_="expected"),
        el("dl", lines),
        class_="sample",
    )
