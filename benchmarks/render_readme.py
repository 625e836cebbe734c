"""Puts measured numbers into the README and the method cards: ``python benchmarks/render_readme.py [--check]``.

The only sources are the ``results.json`` files under ``docs/evidence``; without them the places stay empty. ``--check``
changes nothing and exits with 1 when a page says something else than the results. A test compares them too.

Places: between ``<!-- demo-table:begin -->`` and ``<!-- demo-table:end -->``, and from
``<!-- measured: STUDY ARM -->`` to ``<!-- measured: end -->``, which is added where it is missing.
STUDY is the demo or another folder with results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "evidence"
RESULTS = EVIDENCE / "demo" / "results.json"
OVERHEAD = EVIDENCE / "overhead" / "results.json"
METHODS = EVIDENCE / "methods-cost" / "results.json"
TABLE = re.compile(r"(?<=<!-- demo-table:begin -->\n).*?(?=<!-- demo-table:end -->)", re.DOTALL)
COST = re.compile(r"(?<=<!-- overhead-table:begin -->\n).*?(?=<!-- overhead-table:end -->)", re.DOTALL)
EACH = re.compile(r"(?<=<!-- methods-cost:begin -->\n).*?(?=<!-- methods-cost:end -->)", re.DOTALL)
CARD = re.compile(
    r"<!-- measured: (?P<study>[\w-]+) (?P<arm>[\w-]+) -->(?:(?:(?!<!-- measured: ).)*<!-- measured: end -->)?",
    re.DOTALL,
)
# Measure -> its words, the factor to show it with, digits.
SHOWN = {
    "exact_match": ("right answers, %", 100.0, 1),
    "answer_nll": ("loss on the answer, nats a token", 1.0, 3),
    "nll": ("loss on the text, nats a token", 1.0, 3),
    "bits_per_byte": ("loss on the text, bits a byte", 1.0, 3),
}
BRIEFLY = ("exact_match", "nll")  # of a sweep, whose sets are many and whose other measures stand on the evidence page


def pages() -> list[Path]:
    """The README, the page of methods and every card."""
    return [
        ROOT / "README.md",
        ROOT / "docs" / "methods.md",
        *sorted((ROOT / "src" / "infosteer" / "methods").glob("*/*/card.md")),
    ]


def render(text: str, results: Mapping[str, Any] | None) -> str:
    """A page's text with its measured places filled, or emptied where there are no results.

    ``results`` are the demo's; those of other studies are read from their folders.

    Raises: KeyError for a card that names an arm which the results do not have; OSError for one without results.
    """
    table = demo_table(results) if results else ""
    text = TABLE.sub(lambda _: table, text)
    cost = overhead_table() if OVERHEAD.is_file() else ""
    text = COST.sub(lambda _: cost, text)
    each = methods_table() if METHODS.is_file() else ""
    text = EACH.sub(lambda _: each, text)

    def card(match: re.Match[str]) -> str:
        study, arm = match["study"], match["arm"]
        marker = f"<!-- measured: {study} {arm} -->"
        path = EVIDENCE / study / "results.json"
        found = results if study == "demo" else json.loads(path.read_text(encoding="utf-8"))
        return f"{marker}\n{arm_table(found, arm)}<!-- measured: end -->" if found else marker

    return CARD.sub(card, text)


def demo_table(results: Mapping[str, Any]) -> str:
    """Every shown metric by arm: means with intervals, and differences from the baseline."""
    means, differences, metrics = _index(results)
    baselines = [pair["baseline"] for pair in results["comparisons"][:1]]
    arms = list(dict.fromkeys([*baselines, *(row["arm"] for row in results["summary"])]))
    lines = ["| | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
    for metric in metrics:
        cells = []
        for arm in arms:
            row, pair = means.get((arm, metric)), differences.get((arm, metric))
            if row is None:
                cells.append("-")
            elif pair is None:
                cells.append(f"{_number(metric, row['mean'])} ({_span(metric, row)})")
            else:
                cells.append(f"{_number(metric, row['mean'])}; {_difference(metric, pair)}")
        lines.append(f"| {_label(metric)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _caption(results), ""])


def overhead_table() -> str:
    """Time of a step and peak memory against the plain trainer, as ``benchmarks/overhead.py`` wrote them."""
    measured = json.loads(OVERHEAD.read_text(encoding="utf-8"))
    lines = ["| | step time, median ratio | quartiles | peak memory |", "|---|---|---|---|"]
    for arm, time in measured["time"].items():
        if arm != "plain":
            low, high = (f"{value - 1:+.1%}" for value in time["ratio_quartiles"])
            memory = f"{measured['memory'][arm]['ratio'] - 1:+.2%}"
            lines.append(f"| {arm} | {time['ratio_median'] - 1:+.1%} | {low} to {high} | {memory} |")
    return "\n".join([*lines, ""])


def methods_table() -> str:
    """Step time and memory of every method, as ``benchmarks/methods.py`` wrote them."""
    measured = json.loads(METHODS.read_text(encoding="utf-8"))
    lines = ["| | step time, median ratio | quartiles | peak memory | optimizer, MiB |", "|---|---|---|---|---|"]
    for arm, time in measured["time"].items():
        if arm != "plain":
            low, high = (f"{value - 1:+.1%}" for value in time["ratio_quartiles"])
            memory = measured["memory"][arm]
            sizes = f"{memory['ratio'] - 1:+.2%} | {memory['optimizer_mib']:.1f}"
            lines.append(f"| {arm} | {time['ratio_median'] - 1:+.1%} | {low} to {high} | {sizes} |")
    shape, plain = measured["shape"], measured["memory"]["plain"]
    rows = "; ".join(f"{name} {row['seconds'] * 1e3:.1f} ms" for name, row in measured["data"].items())
    missing = "".join(f" {name} is missing: {why}." for name, why in measured["missing"].items())
    lines += [
        "",
        f"d = {shape['hidden']}, M = {shape['width']}, {shape['layers']} layers, {shape['tokens']} tokens, fp32 on "
        f"{shape['threads']} CPU threads, steps interleaved, {measured['rounds']} rounds; torch "
        f"{measured['environment']['torch']}. Plain: {plain['peak_mib']:.0f} MiB, {plain['optimizer_mib']:.1f} of them "
        f"the optimizer's. Data methods, for 1,000 rows: {rows}.{missing}",
        "",
    ]
    return "\n".join(lines)


def arm_table(results: Mapping[str, Any], arm: str) -> str:
    """One arm beside the baseline, a metric a row.

    Raises: KeyError for an arm without comparisons.
    """
    means, differences, metrics = _index(results)
    metrics = [metric for metric in metrics if (arm, metric) in differences]
    if "sweep" in results:
        metrics = [metric for metric in metrics if _measure(metric) in BRIEFLY]
    if not metrics:
        raise KeyError(f"the results compare no arm '{arm}'")
    baseline = differences[arm, metrics[0]]["baseline"]
    lines = [f"| | {baseline} | {arm} | difference | p |", "|---|---|---|---|---|"]
    for metric in metrics:
        pair = differences[arm, metric]
        before, after = (_number(metric, means[name, metric]["mean"]) for name in (baseline, arm))
        p_value = _p_value(pair.get("p_holm", pair["p_value"]))
        lines.append(f"| {_label(metric)} | {before} | {after} | {_difference(metric, pair)} | {p_value} |")
    return "\n".join([*lines, "", _caption(results), ""])


def _index(results: Mapping[str, Any]) -> tuple[dict[Any, Any], dict[Any, Any], list[str]]:
    means = {(row["arm"], row["metric"]): row for row in results["summary"]}
    differences = {(row["arm"], row["metric"]): row for row in results["comparisons"]}
    found = dict.fromkeys(row["metric"] for row in results["summary"])
    order = {measure: place for place, measure in enumerate(SHOWN)}
    shown = [metric for metric in found if _measure(metric) in SHOWN]
    return means, differences, sorted(shown, key=lambda metric: order[_measure(metric)])


def _measure(metric: str) -> str:
    return metric.rpartition("/")[2]


def _label(metric: str) -> str:
    name, _, measure = metric.rpartition("/")
    return f"`{name}`: {SHOWN[measure][0]}"


def _number(metric: str, value: float, sign: str = "") -> str:
    _, factor, digits = SHOWN[_measure(metric)]
    rounded = round(factor * value, digits) + 0.0  # no negative zero
    return f"{rounded:{sign}.{digits}f}"


def _span(metric: str, row: Mapping[str, Any], sign: str = "") -> str:
    return f"{_number(metric, row['low'], sign)} to {_number(metric, row['high'], sign)}"


def _difference(metric: str, pair: Mapping[str, Any]) -> str:
    return f"{_number(metric, pair['difference'], '+')} ({_span(metric, pair, '+')})"


def _p_value(value: float | None) -> str:
    if value is None:  # not ranked
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _caption(results: Mapping[str, Any]) -> str:
    seeds = max(row["n"] for row in results["summary"])
    pairs = results["comparisons"]
    facts = results["environment"]
    packages = ", ".join(f"{name} {facts['packages'][name]}" for name in ("torch", "transformers", "trl"))
    says = [f"{seeds} seed" + ("s" if seeds > 1 else ""), "95 % intervals in brackets"]
    if pairs:
        says.append(f"signed numbers are differences from {pairs[0]['baseline']}, paired by seed and example")
    if "sweep" in results:
        says.append("p corrected (Holm) as docs/evidence.md says")
    else:
        says += results.get("notes", [])
    return "; ".join(says) + f". Measured with {packages} on {facts['cpu_cores']} CPU cores."


def main() -> int:
    """Rewrites the pages, or checks them."""
    options = argparse.ArgumentParser(description="Fill measured numbers into the README and the method cards.")
    options.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is out of date")
    check = options.parse_args().check
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else None
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        wanted = render(text, results)
        if wanted == text:
            continue
        stale.append(str(page.relative_to(ROOT)))
        if not check:
            page.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"{'not up to date' if check else 'rewritten'}: {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
