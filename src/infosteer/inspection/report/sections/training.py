"""Training: loss and what the session measured, by arm, over the optimiser's steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infosteer.inspection.report.charts import Chart, show
from infosteer.inspection.report.drawings import curves as draw_curves
from infosteer.inspection.report.drawings import mean_of_seeds
from infosteer.inspection.report.gather import curves, training_lines
from infosteer.inspection.report.markup import clip, el, join, table, visible
from infosteer.inspection.report.section import Context, Section, absent, chip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "training", "Training"
MOST_POINTS = 240  # of a curve; a log with more is thinned evenly
_LOSSES = {"loss": "loss, penalty included", "infosteer/task_loss": "loss of the task alone"}
_KNOWN = {
    **_LOSSES,
    "infosteer/entropy": "key entropy, nats",
    "infosteer/change": "relative change of k",
    "infosteer/sign_change": "signs changed",
    "infosteer/penalty": "penalty",
    "mean_token_accuracy": "accuracy of the next token",
    "entropy": "entropy of the output, nats",
    "grad_norm": "norm of the gradient",
    "learning_rate": "learning rate",
}
_PER_LAYER = "/layer_"
_LEFT_OUT = {"step", "seed", "epoch", "num_tokens"}


def make_training(context: Context) -> Section:
    """The section, from metrics.jsonl."""
    log = context.run.log
    present = dict.fromkeys(key for line in log if line.get("event") == "train" for key in line)
    own = [key for key in present if key.startswith("infosteer/") and _PER_LAYER not in key and key not in _KNOWN]
    wanted = [key for key in [*_KNOWN, *own] if key in present and key not in _LEFT_OUT]
    lines = training_lines(log)
    found = {key: curves(lines, key) for key in wanted}
    found = {
        key: {arm: by_seed for arm, by_seed in by_arm.items() if arm in context.looks}
        for key, by_arm in found.items()
        if any(value for by_seed in by_arm.values() for points in by_seed.values() for _, value in points)
    }
    found = {key: by_arm for key, by_arm in found.items() if by_arm}
    if not found:
        return absent(
            ID, TITLE, "No log lines: ", el("code", "metrics.jsonl"), " is written while a run trains; ",
            el("code", "train.logging_steps"), " says how often.",
        )  # fmt: skip
    titles = {key: clip(_KNOWN.get(key, visible(key.removeprefix("infosteer/"))), 30) for key in found}
    panels = {
        titles[key]: {
            arm: {seed: thinned(points) for seed, points in by_seed.items()} for arm, by_seed in by_arm.items()
        }
        for key, by_arm in found.items()
    }
    looks = dict(context.looks)

    def draw(width: float) -> Figure:
        return draw_curves(panels, looks, width=width)

    ends = {
        key: {arm: mean_of_seeds(by_seed) for arm, by_seed in by_arm.items()} for key, by_arm in found.items()
    }  # fmt: skip
    label = "Curves over training steps, one panel each: " + ", ".join(titles.values())
    chart = Chart(name="training", label=label, draw=draw)
    arms = [arm for arm in context.looks if any(arm in by_arm for by_arm in found.values())]
    rows: list[list[object]] = [
        [chip(arm, context.look(arm)), *(_last(ends[key].get(arm, [])) for key in found)] for arm in arms
    ]
    caption = (
        "Means over seeds, thin lines the seeds. The trainer's loss contains the penalty of arms that have one, so it "
        "compares only arms without; the loss of the task alone is that of the logged step's own batch."
    )
    numbers = table(["arm", *titles.values()], rows, caption="Last logged values, mean over seeds")
    skipped = context.run.skipped_lines
    torn = el("p", f"{skipped} unreadable lines of metrics.jsonl were skipped.", class_="note") if skipped else None
    body = join(show(chart, caption), el("details", el("summary", "The last values as a table"), numbers), torn)
    return Section(id=ID, title=TITLE, body=body, charts=[chart])


def thinned(points: list[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points, evenly chosen, the last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _last(points: list[tuple[float, float]]) -> str:
    return f"{points[-1][1]:.4g}" if points else "\u2013"
