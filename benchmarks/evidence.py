"""The evidence pages from committed sweeps: ``python benchmarks/evidence.py [render | check | pack | unpack] ...``.

- ``render``: rewrite the generated parts of ``docs/evidence.md`` and the figures beside every study's results.
- ``check``: change nothing; exit with 1 where the page says something else than the results. A test does the same.
- ``pack STUDY FOLDER``: take the results and all finished trials of a sweep's folder into ``docs/evidence/STUDY``; the
  results alone where the model lies in a folder of its own, since a trial elsewhere would be one of another model.
- ``unpack STUDY FOLDER``: give a sweep's folder its recipe and finished trials back, so that ``infosteer sweep RECIPE
  --output FOLDER --update``, with the study's recipe, goes on from them.

A generated part stands between ``<!-- evidence: STUDY PART -->`` and ``<!-- evidence: end -->``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from evidence_descent import descent_table
from evidence_dose import figure, mediation_table
from evidence_where import where_table

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "evidence"
PAGE = ROOT / "docs" / "evidence.md"
PART = re.compile(r"<!-- evidence: (?P<study>[\w-]+) (?P<part>[\w-]+) -->\n.*?<!-- evidence: end -->", re.DOTALL)
ALPHA = 0.05
# Metric -> its words, the factor to show it with, digits. Text columns of the tables in this order.
AXES = {
    "strangers_recall/exact_match": ("strangers, recalled", 100, 1),
    "strangers_questions/exact_match": ("strangers, asked", 100, 1),
    "new_people/exact_match": ("new people (ID)", 100, 1),
    "new_form/exact_match": ("new form", 100, 1),
    "new_word/exact_match": ("new word", 100, 1),
    "new_attribute/exact_match": ("new attribute", 100, 1),
    "combined/exact_match": ("form and word", 100, 1),
    "two_hop/exact_match": ("two hops", 100, 1),
    "recall/exact_match": ("recall, asked", 100, 1),
    "recall_unasked/exact_match": ("recall, unasked", 100, 1),
    "biographies/nll": ("text loss, nats", 1, 3),
    "new_people/answer_nll": ("answer loss, nats", 1, 3),
    "new_people/calibration_error": ("calibration error", 100, 1),
    "biographies/information_flux_nats": ("key entropy, nats", 1, 3),
    "biographies/token_information_nats": ("told about the token, nats", 1, 3),
}
UNSHOWN = ("new_people/answer_nll", "new_people/calibration_error")  # in the figure of doses
MEDIATED = ("new_people/exact_match", "new_form/exact_match", "new_attribute/exact_match", "recall/exact_match")


def read_results(study: str) -> dict[str, Any]:
    """A committed study's results, a sweep's or those of a script of its own."""
    found: dict[str, Any] = json.loads((EVIDENCE / study / "results.json").read_text(encoding="utf-8"))
    return found


class Study:
    """A committed sweep."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, EVIDENCE / name
        self.results = read_results(name)
        self.baseline = self.results["sweep"]["baseline"]
        self.means = {(row["arm"], row["metric"]): row for row in self.results["summary"]}
        self.pairs = {(row["arm"], row["metric"]): row for row in self.results["comparisons"]}
        self.arms = [arm for arm in dict.fromkeys(row["arm"] for row in self.results["summary"]) if arm != "base"]
        self.metrics = [metric for metric in AXES if (self.baseline, metric) in self.means]


def table(study: Study) -> str:
    """Every arm against the tuned baseline: the baseline's means, then paired differences with 95 % intervals."""
    heads = [AXES[metric][0] for metric in study.metrics]
    lines = ["| arm | n | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for arm in study.arms:
        n = study.means[arm, study.metrics[0]]["n"]
        cells = [_cell(study, arm, metric) for metric in study.metrics]
        lines.append(f"| {arm} | {n} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _legend(study), ""])


def headroom(study: Study) -> str:
    """What the base stores, what tuned plain SFT leaves, and what these seeds can detect."""
    lines = ["| axis | base | tuned plain (95 % interval) | smallest difference found | seeds for one point |"]
    lines.append("|---|---|---|---|---|")
    for metric in study.metrics:
        words, factor, digits = AXES[metric]
        row, base = study.means[study.baseline, metric], study.means.get(("base", metric))
        spans = [study.pairs[arm, metric] for arm in study.arms if (arm, metric) in study.pairs]
        found = sorted(pair["detectable"] for pair in spans if pair.get("detectable") is not None)
        needed = sorted(pair["seeds_for_one_point"] for pair in spans if pair.get("seeds_for_one_point") is not None)
        lines.append(
            f"| {words} | {'-' if base is None else _number(base['mean'], factor, digits)} | "
            f"{_number(row['mean'], factor, digits)} ({_span(row, factor, digits)}) | "
            f"{_range(found, lambda v, f=factor, d=digits: _number(v, f, d))} | "
            f"{_range(needed, str)} |"
        )
    return "\n".join([*lines, ""])


def chosen(study: Study) -> str:
    """The cell that each arm's own tuning chose, and what the tuning cost."""
    sweep = study.results["sweep"]
    keys = sweep["keys"]
    lines = ["| arm | " + " | ".join(key.rpartition(".")[2].replace("_", " ") for key in keys) + " | score | trials |"]
    lines.append("|---|" + "---|" * (len(keys) + 2))
    for arm, choice in sweep["chosen"].items():
        cells = [f"{choice['cell'][key]:g}" for key in keys]
        trials = sweep["budget"][arm].get("tune_trials", 0)
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {100 * choice['score']:.1f} | {trials} |")
    seeds = ", ".join(str(seed) for seed in sweep["tuning"]["seeds"])
    lines += ["", f"Score: the mean of {', '.join(sweep['tuning']['metrics'])} on tuning seeds {seeds}, in %.", ""]
    return "\n".join(lines)


def verdicts(study: Study) -> str:
    """One line an arm: what can be said about the primary metrics, and about nothing else."""
    lines = []
    for metric in study.results["sweep"]["primary"]:
        words, factor, digits = AXES[metric]
        found: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
        for arm in study.arms:
            pair = study.pairs.get((arm, metric))
            if pair is None or not pair["ranked"]:
                continue
            sure = pair["p_holm"] < ALPHA
            better = pair["difference"] > 0
            kind = ("better" if better else "worse") if sure else "undecided"
            found[kind].append(f"{arm} {_signed(pair['difference'], factor, digits)}")
        lines.append(f"**{words}**, against {_called(study)}, p corrected (Holm) below {ALPHA:g}:")
        lines += [f"- {kind}: {', '.join(arms) or 'none'}" for kind, arms in found.items()]
    return "\n".join([*lines, ""])


def gradient(found: Mapping[str, Any]) -> str:
    """What ``benchmarks/mechanism.py`` found: the share of gradient energy on overwritten entries, and the turn."""
    lines = [
        "| intervention | energy on the entries, before | after | cosine of the FFN gradients | loss change, nats |"
    ]
    lines.append("|---|---|---|---|---|")
    for name, runs in found["settings"].items():
        first = [run["layers"][0] for run in runs]
        before, after = (_mean([one[f"energy {when}"] for one in first]) for when in ("before", "after"))
        cosine, change = _mean([run["cosine"] for run in runs]), _mean([run["loss change"] for run in runs])
        lines.append(f"| {name} | {before:.1e} | {after:.1e} | {cosine:.4f} | {change:+.3f} |")
    return "\n".join([*lines, ""])


def mediation(study: Study) -> str:
    """Does the entropy of the coefficients carry what a dose does?"""
    axes = {metric: AXES[metric][0] for metric in MEDIATED if metric in study.metrics}
    return mediation_table(study.results, study.baseline, study.arms, axes)


PARTS: dict[str, Callable[[str], str]] = {
    "table": lambda study: table(Study(study)),
    "headroom": lambda study: headroom(Study(study)),
    "chosen": lambda study: chosen(Study(study)),
    "verdicts": lambda study: verdicts(Study(study)),
    "mediation": lambda study: mediation(Study(study)),
    "gradient": lambda study: gradient(read_results(study)),
    "descent": lambda study: descent_table(read_results(study)),
    "where": lambda study: where_table(read_results(study)),
}


def render(text: str) -> str:
    """A page's text with every generated part made anew. Raises: KeyError for a part that does not exist."""

    def part(match: re.Match[str]) -> str:
        body = PARTS[match["part"]](match["study"])
        return f"<!-- evidence: {match['study']} {match['part']} -->\n{body}<!-- evidence: end -->"

    return PART.sub(part, text)


def forest(study: Study, path: Path) -> None:
    """A forest plot of the differences from tuned plain, one panel an axis, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    metrics = [metric for metric in study.metrics if metric.endswith("exact_match")]
    arms = [arm for arm in study.arms if arm != study.baseline]
    with pyplot.rc_context({"svg.hashsalt": study.name, "font.size": 8, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            1, len(metrics), figsize=(1.7 * len(metrics) + 1.2, 0.24 * len(arms) + 1), sharey=True, squeeze=False
        )
        for axis, metric in zip(axes[0], metrics, strict=True):
            for place, arm in enumerate(reversed(arms)):
                pair = study.pairs.get((arm, metric))
                if pair is None:
                    continue
                sure = pair["low"] > 0 or pair["high"] < 0
                color = "#0b6e99" if pair["low"] > 0 else "#b4431f" if pair["high"] < 0 else "#888888"
                axis.plot([100 * pair["low"], 100 * pair["high"]], [place, place], color=color, lw=1.5)
                axis.plot(100 * pair["difference"], place, "o" if sure else "|", color=color, ms=4)
            axis.axvline(0, color="#444444", lw=0.8)
            axis.set_title(AXES[metric][0], fontsize=8)
            axis.set_yticks(range(len(arms)), list(reversed(arms)))
            axis.tick_params(length=2)
            for side in ("top", "right", "left"):
                axis.spines[side].set_visible(False)
        figure.supxlabel(f"points more than {study.baseline}, 95 % interval", fontsize=8)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def pack(study: str, folder: Path) -> None:
    """Results and finished trials of a sweep's folder into ``docs/evidence/STUDY``, the same bytes every time."""
    target = EVIDENCE / study
    target.mkdir(parents=True, exist_ok=True)
    archived = target / "trials.tar.xz"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    model = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["model"]
    local = Path(model).is_absolute()
    # of a path on one machine the last two parts say enough
    kept = _with(results, model, "/".join(Path(model).parts[-2:])) if local else results
    (target / "results.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if local:
        archived.unlink(missing_ok=True)
        return
    outcomes = sorted(folder.glob("trials/*/outcomes/*/*.json"))
    with tarfile.open(archived, "w:xz", preset=9) as archive:
        for file in (folder / "recipe.yaml", *itertools.chain(*((o.parents[2] / "recipe.yaml", o) for o in outcomes))):
            info = tarfile.TarInfo(str(file.relative_to(folder)))
            data = file.read_bytes()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _with(value: Any, old: str, new: str) -> Any:
    """The same with another text in the place of one, wherever it stands."""
    if isinstance(value, dict):
        return {key: _with(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with(inner, old, new) for inner in value]
    return value.replace(old, new) if isinstance(value, str) else value


def unpack(study: str, folder: Path) -> None:
    """The recipe and the finished trials of a committed study into a sweep's folder."""
    with tarfile.open(EVIDENCE / study / "trials.tar.xz", "r:xz") as archive:
        archive.extractall(folder, filter="data")


def _cell(study: Study, arm: str, metric: str) -> str:
    _, factor, digits = AXES[metric]
    row, pair = study.means.get((arm, metric)), study.pairs.get((arm, metric))
    if row is None:
        return "-"
    if arm == study.baseline:
        return f"{_number(row['mean'], factor, digits)} ({_span(row, factor, digits)})"
    if pair is None:
        return _number(row["mean"], factor, digits)
    text = f"{_signed(pair['difference'], factor, digits)} ({_span(pair, factor, digits, signed=True)})"
    if not pair["ranked"]:
        return f"{text} not ranked"
    return f"**{text}**" if pair["p_holm"] is not None and pair["p_holm"] < ALPHA else text


def _called(study: Study) -> str:
    """The baseline in words."""
    return "tuned plain SFT" if study.baseline == "plain" else study.baseline


def _legend(study: Study) -> str:
    return (
        f"First row: means of tuned {study.baseline} SFT; other rows: paired differences from it over the same seeds "
        "and questions. Right answers in %, errors and losses are better when small. Bold: Holm-corrected p below "
        f"{ALPHA:g} within its family (the primary metric, or all arms on all sets of one measure)."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float, factor: float, digits: int) -> str:
    return f"{factor * value:.{digits}f}"


def _signed(value: float, factor: float, digits: int) -> str:
    return f"{factor * value:+.{digits}f}"


def _span(row: Mapping[str, Any], factor: float, digits: int, *, signed: bool = False) -> str:
    show = _signed if signed else _number
    return f"{show(row['low'], factor, digits)} to {show(row['high'], factor, digits)}"


def _range(values: Sequence[Any], show: Callable[[Any], str]) -> str:
    if not values:
        return "-"
    low, high = show(values[0]), show(values[-1])
    return low if low == high else f"{low} to {high}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", nargs="?", default="render", choices=("render", "check", "pack", "unpack"))
    parser.add_argument("study", nargs="?")
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.verb in ("pack", "unpack"):
        if arguments.study is None or arguments.folder is None:
            parser.error(f"{arguments.verb} needs a study and a sweep's folder")
        packed = sorted(path.parent.name for path in EVIDENCE.glob("*/trials.tar.xz"))
        if arguments.verb == "unpack" and arguments.study not in packed:
            parser.error(f"no trials are packed of {arguments.study}; there are those of {', '.join(packed)}")
        (pack if arguments.verb == "pack" else unpack)(arguments.study, arguments.folder)
        return 0
    text = PAGE.read_text(encoding="utf-8")
    new = render(text)
    if arguments.verb == "check":
        print("docs/evidence.md agrees with the results" if new == text else "docs/evidence.md is out of date")
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    for name in sorted({match["study"] for match in PART.finditer(new) if match["part"] == "table"}):
        forest(Study(name), EVIDENCE / name / "forest.svg")
    for name in sorted({match["study"] for match in PART.finditer(new) if match["part"] == "mediation"}):
        study = Study(name)
        shown = {metric: AXES[metric][:2] for metric in study.metrics if metric not in UNSHOWN}
        figure(study.pairs, study.arms, shown, study.baseline, EVIDENCE / name / "dose.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
