"""The tables of docs/flux.md and the figures beside the results of the flux studies.

    python benchmarks/render_flux.py [--check] [--png FOLDER]

A generated part stands between ``<!-- flux: STUDY NAME -->`` and ``<!-- flux: end -->``. ``--check`` changes nothing
and fails where the page says something else than the results. A study without results names
the commands that make them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
PAGE = ROOT / "docs" / "flux.md"
PART = re.compile(r"<!-- flux: (?P<study>[\w-]+) (?P<name>[\w-]+) -->\n.*?<!-- flux: end -->", re.DOTALL)
BASE, PLAIN, HOOK = "base", "plain", ", hook on"
CLASSES = ("content", "function", "punctuation")
ALPHA = 0.05
TITLES = {"lab": "biographies of the lab", "english": "English", "ultrafeedback": "UltraFeedback"}
OTHERS = {
    "surprisal": "surprisal",
    "base_surprisal": "the base's surprisal",
    "frequency": "frequency",
    "position": "position",
    "rest": "content word, not function or punctuation",
    "function": "content word, not function word",
}


class Study:
    """The results of one study, by model and metric."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results, self.name = results, f"flux-{results['study']}"
        self.means = {(row["arm"], row["metric"]): row for row in results["summary"]}
        self.pairs = {(row["arm"], row["metric"]): row for row in results["comparisons"]}
        self.nulls = {(row["arm"], row["metric"]): row for row in results["nulls"]}
        self.corpora = list(results["corpora"])
        self.models: list[str] = results["models"]
        self.bare = [name for name in self.models if HOOK not in name]

    def by_seed(self, model: str, metric: str) -> list[float]:
        return [row["metrics"][metric] for row in self.results["arms"] if row["arm"] == model]


def read_study(name: str) -> Study | None:
    """A committed study; None where it has not been made yet."""
    path = EVIDENCE / name / "results.json"
    return Study(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


# -- tables ---------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def sizes(study: Study) -> str:
    results = study.results
    lines = []
    for part, counts in results["corpora"].items():
        kinds = ", ".join(f"{counts[kind]:,} of {kind}" for kind in CLASSES)
        lines.append(f"- {TITLES[part]}: {counts['texts']} texts, {counts['tokens']:,} tokens ({kinds})")
    packages = results["environment"]["packages"]
    lines.append(
        f"- seeds {', '.join(map(str, results['seeds']))}; {results['shuffles']:,} shuffles; reading took "
        f"{results['cpu_minutes']:g} minutes of one core; torch {packages['torch']}, transformers "
        f"{packages['transformers']}"
    )
    return "\n".join(lines)


def means(study: Study) -> str:
    """Flux by class, in % of its largest value."""
    rows = []
    for part in study.corpora:
        for model in study.models:
            row = [TITLES[part], model, f"{study.means[model, f'{part}/surprisal']['mean']:.2f}"]
            row += [_percent(study.means[model, f"{part}/read_{kind}"]["mean"]) for kind in CLASSES]
            row.append(_interval(study.means[model, f"{part}/read_content_minus_rest"], _percent_signed))
            rows.append(row)
    return table(["text", "model", "surprisal, nats", *CLASSES, "content less the others"], rows)


def changes(study: Study) -> str:
    """Paired differences: plain from the base, all others from plain."""
    rows = []
    for part in study.corpora:
        for model in study.models[1:]:
            pairs = {key: study.pairs[model, f"{part}/read_{key}"] for key in (*CLASSES, "content_minus_rest")}
            last = pairs["content_minus_rest"]
            rows.append(
                [
                    TITLES[part],
                    f"{model} - {last['baseline']}",
                    *(_interval(pair, _percent_signed) for pair in pairs.values()),
                    _p(last["p_value"]),
                    _p(last["p_holm"]) if "p_holm" in last else "",
                ]
            )
    return table(["text", "pair", *CLASSES, "content less the others", "p", "Holm"], rows)


def correlates(study: Study) -> str:
    """Rank correlations of flux with one thing at a time."""
    rows = [
        [TITLES[part], model, *(f"{study.means[model, f'{part}/read_rank_{key}']['mean']:+.2f}" for key in OTHERS)]
        for part in study.corpora
        for model in study.bare
    ]
    return table(["text", "model", *OTHERS.values()], rows)


def partial(study: Study) -> str:
    """Correlation with 'content word' when surprisal, frequency and place are out, beside shuffled classes."""
    rows = []
    for part in study.corpora:
        for model in study.models:
            metric = f"{part}/read_partial_rest"
            null = study.nulls[model, metric]
            row = [TITLES[part], model, _interval(study.means[model, metric], _signed)]
            row.append(", ".join(f"{value:+.2f}" for value in study.by_seed(model, metric)))
            row += [f"{null['low']:+.2f} to {null['high']:+.2f}", _p(null["p_value"])]
            row += [
                f"{study.means[model, f'{part}/{key}']['mean']:+.2f}"
                for key in ("read_partial_base_rest", "read_partial_pieces_rest", "read_partial_function")
            ]
            rows.append(row)
    head = [
        "text",
        "model",
        "partial correlation",
        "by seed",
        "shuffled",
        "p",
        "base's surprisal out",
        "pieces out too",
    ]
    return table([*head, "against function words alone"], rows)


def partial_changes(study: Study) -> str:
    rows = []
    for part in study.corpora:
        for model in study.models[1:]:
            metric = f"{part}/read_partial_rest"
            pair, null = study.pairs[model, metric], study.nulls[model, metric]["difference"]
            row = [TITLES[part], f"{model} - {pair['baseline']}", _interval(pair, _signed3), _p(pair["p_value"])]
            row.append(_p(pair["p_holm"]) if "p_holm" in pair else "")
            rows.append([*row, f"{null['low']:+.3f} to {null['high']:+.3f}", _p(null["p_value"])])
    return table(["text", "pair", "partial correlation", "p", "Holm", "shuffled", "p of the shuffles"], rows)


def where_written(study: Study) -> str:
    """The same, with flux taken one place earlier, where the token is predicted."""
    rows = []
    for part in study.corpora:
        for model in study.models:
            row = [TITLES[part], model]
            row.append(_interval(study.means[model, f"{part}/written_content_minus_rest"], _percent_signed))
            metric = f"{part}/written_partial_rest"
            row += [_interval(study.means[model, metric], _signed), _p(study.nulls[model, metric]["p_value"])]
            pair = study.pairs.get((model, f"{part}/written_content_minus_rest"))
            row.append("" if pair is None else f"{_interval(pair, _percent_signed)} ({pair['baseline']})")
            rows.append(row)
    return table(["text", "model", "content less the others", "partial correlation", "p", "change (from)"], rows)


def verdict(study: Study) -> str:
    """Each part of the claim for each steered arm: what the corrected intervals allow to say."""
    lines = []
    for model in study.bare:
        if model in (BASE, PLAIN):
            continue
        for part in study.corpora:
            pairs = {kind: study.pairs[model, f"{part}/read_{kind}"] for kind in CLASSES}
            moves = ", ".join(f"{kind} {_direction(pair, pair['p_value'])}" for kind, pair in pairs.items())
            gap = study.pairs[model, f"{part}/read_content_minus_rest"]
            held = study.pairs[model, f"{part}/read_partial_rest"]
            lines.append(
                f"- **{model}**, {TITLES[part]}: against plain SFT {moves}; content words against the others "
                f"{_direction(gap, gap['p_holm'])}, their partial correlation {_direction(held, held['p_holm'])}."
            )
    return "\n".join(lines)


def _direction(pair: Mapping[str, Any], p: float) -> str:
    if p >= ALPHA:
        return "undecided"
    return "up" if pair["difference"] > 0 else "down"


def not_yet(name: str) -> str:
    short = name.removeprefix("flux-")
    return f"(not measured yet: `infosteer run {name}`, then `python benchmarks/flux_claim.py {short} runs/{name}`)"


def figure(study: Study) -> str:
    return f"![Content words less the others, and the partial correlation, by model](evidence/{study.name}/claim.svg)"


def sentence(study: Study) -> str:
    return f"![One sentence as the base and the trained models read it](evidence/{study.name}/example.svg)"


PARTS: dict[str, Callable[[Study], str]] = {
    "sizes": sizes,
    "figure": figure,
    "sentence": sentence,
    "means": means,
    "changes": changes,
    "correlates": correlates,
    "partial": partial,
    "partial-changes": partial_changes,
    "written": where_written,
    "verdict": verdict,
}


def _interval(row: Mapping[str, Any], show: Callable[[float], str]) -> str:
    middle = row["mean"] if "mean" in row else row["difference"]
    return f"{show(middle)} ({show(row['low'])} to {show(row['high'])})"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _percent_signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _signed3(value: float) -> str:
    return f"{value:+.3f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


# -- page and figures -----------------------------------------------------------------------------------------------


def rendered(text: str, studies: Mapping[str, Study | None]) -> str:
    """The page with every generated part made anew. Raises: KeyError for a part or a study that there is not."""

    def part(match: re.Match[str]) -> str:
        make, study = PARTS[match["name"]], studies[match["study"]]
        body = not_yet(match["study"]) if study is None else make(study)
        return f"<!-- flux: {match['study']} {match['name']} -->\n{body}\n<!-- flux: end -->"

    return PART.sub(part, text)


def draw(study: Study, folder: Path, png: Path | None = None) -> None:
    """``claim.svg`` and ``example.svg`` into the folder, and as PNG where asked for."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": study.name, "font.size": 8, "svg.fonttype": "none"}):
        for kind, make in (("claim", claim_figure), ("example", example_figure)):
            figure = make(study)
            figure.savefig(folder / f"{kind}.svg", metadata={"Date": None, "Creator": None})
            if png is not None:
                png.mkdir(parents=True, exist_ok=True)
                figure.savefig(png / f"{study.name}-{kind}.png", dpi=200)
            pyplot.close(figure)


def claim_figure(study: Study) -> Any:
    """Content less the others above, partial correlations below: intervals, seeds, and what shuffled classes give."""
    from matplotlib import pyplot

    rows = (("read_content_minus_rest", 100, "flux of content words less the others, % of ln M"),
            ("read_partial_rest", 1, "partial rank correlation with 'content word'"))  # fmt: skip
    figure, axes = pyplot.subplots(
        len(rows), len(study.corpora), figsize=(3.4 * len(study.corpora) + 1, 0.5 * len(study.models) + 2),
        sharey=True, squeeze=False,
    )  # fmt: skip
    for line, (key, factor, words) in zip(axes, rows, strict=True):
        for axis, part in zip(line, study.corpora, strict=True):
            for place, model in enumerate(reversed(study.models)):
                metric, color = f"{part}/{key}", "#b4431f" if HOOK in model else "#0b6e99"
                null = study.nulls.get((model, metric))
                if null is not None:
                    axis.plot([null["low"], null["high"]], [place] * 2, color="#cccccc", lw=7, solid_capstyle="butt")
                row = study.means[model, metric]
                axis.plot([factor * row["low"], factor * row["high"]], [place] * 2, color=color, lw=1.5)
                seeds = [factor * value for value in study.by_seed(model, metric)]
                axis.plot(seeds, [place] * len(seeds), "|", color=color, ms=7)
                axis.plot(factor * row["mean"], place, "o", color=color, ms=3.5)
            axis.axvline(0, color="#444444", lw=0.8)
            axis.set_yticks(range(len(study.models)), list(reversed(study.models)))
            axis.set_title(TITLES[part], fontsize=8)
            axis.set_xlabel(words, fontsize=7)
            axis.tick_params(length=2)
            for side in ("top", "right", "left"):
                axis.spines[side].set_visible(False)
    figure.tight_layout()
    return figure


def example_figure(study: Study) -> Any:
    """One sentence, a line a model: the darker a token, the higher its flux within the line."""
    from matplotlib import pyplot

    example = study.results["example"]
    tokens = [_shown(token) for token in example["tokens"]]
    widths = [len(token) + 0.6 for token in tokens]
    total = sum(widths)
    figure, axis = pyplot.subplots(figsize=(0.085 * total + 1.4, 0.3 * len(example["flux"]) + 0.25))
    for line, (model, flux) in enumerate(example["flux"].items()):
        low, high = min(flux), max(flux)
        left = 0.0
        for token, width, value in zip(tokens, widths, flux, strict=True):
            strength = (value - low) / (high - low) if high > low else 0.5
            axis.add_patch(
                pyplot.Rectangle((left, -line - 0.45), width, 0.9, color="#0b6e99", alpha=0.7 * strength, lw=0)
            )
            axis.text(left + width / 2, -line, token, ha="center", va="center", family="monospace", fontsize=7)
            left += width
        axis.text(-0.6, -line, model, ha="right", va="center")
    axis.set_xlim(-14, total)
    axis.set_ylim(-len(example["flux"]) + 0.4, 0.6)
    axis.axis("off")
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.98)
    return figure


def _shown(token: str) -> str:
    """A token's text for a figure: math signs of matplotlib and what no font has are written out."""
    return token.strip().replace("$", r"\$").encode("ascii", "backslashreplace").decode() or " "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    parser.add_argument("--png", type=Path, help="write the figures there as PNG too")
    options = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8")
    studies = {name: read_study(name) for name in dict.fromkeys(match["study"] for match in PART.finditer(before))}
    after = rendered(before, studies)
    if options.check:
        if before != after:
            raise SystemExit(f"{PAGE} is not what the results say: run python benchmarks/render_flux.py")
        return
    PAGE.write_text(after, encoding="utf-8")
    for study in studies.values():
        if study is not None:
            draw(study, EVIDENCE / study.name, options.png)


if __name__ == "__main__":
    main()
