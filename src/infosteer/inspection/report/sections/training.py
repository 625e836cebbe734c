"""Training: loss and what the session measured, by arm, over the optimiser's steps."""

from __future__ import annotations

from infosteer.inspection.report.charts import show
from infosteer.inspection.report.gather import curves, training_lines
from infosteer.inspection.report.markup import el, join
from infosteer.inspection.report.multiples import multiples
from infosteer.inspection.report.section import Context, Section, absent
from infosteer.inspection.report.sections.geometry import GEOMETRY_LOG
from infosteer.inspection.report.sections.regions import REGIONS_LOG

ID, TITLE = "training", "Training"
_KNOWN = {
    "loss": "loss, penalty included",
    "infosteer/task_loss": "loss of the task alone",
    "infosteer/entropy": "key entropy, nats",
    "infosteer/change": "relative change of k",
    "infosteer/sign_change": "signs changed",
    "infosteer/penalty": "penalty",
    "mean_token_accuracy": "accuracy of the next token",
    "entropy": "entropy of the output, nats",
    "grad_norm": "norm of the gradient",
    "learning_rate": "learning rate",
}
_OWN = "infosteer/"
_ELSEWHERE = (GEOMETRY_LOG, REGIONS_LOG)  # shown in sections of their own
_PER_LAYER = "/layer_"


def make_training(context: Context) -> Section:
    """The section, from metrics.jsonl."""
    log = context.run.log
    present = dict.fromkeys(key for line in log if line.get("event") == "train" for key in line)
    own = [
        key
        for key in present
        if key.startswith(_OWN) and key not in _KNOWN and _PER_LAYER not in key and not key.startswith(_ELSEWHERE)
    ]
    lines = training_lines(log)
    found = {_KNOWN.get(key, key.removeprefix(_OWN)): curves(lines, key) for key in [*_KNOWN, *own] if key in present}
    found = {
        title: by_arm
        for title, by_arm in found.items()
        if any(value for by_seed in by_arm.values() for points in by_seed.values() for _, value in points)
    }
    if not found and context.run.is_sweep:
        return absent(
            ID, TITLE, "Each trial of a sweep is a run: ", el("code", "infosteer report SWEEP/trials/HASH"),
            " shows how it trained.",
        )  # fmt: skip
    if not found:
        return absent(
            ID, TITLE, "No log lines: ", el("code", "metrics.jsonl"), " is written while a run trains; ",
            el("code", "train.logging_steps"), " says how often.",
        )  # fmt: skip
    chart, numbers = multiples(context, name="training", what="Curves over training steps", found=found)
    caption = (
        "Means over seeds, thin lines the seeds. The trainer's loss contains the penalty of arms that have one, so it "
        "compares only arms without; the loss of the task alone is that of the logged step's own batch."
    )
    skipped = context.run.skipped_lines
    torn = el("p", f"{skipped} unreadable lines of metrics.jsonl were skipped.", class_="note") if skipped else None
    body = join(show(chart, caption), el("details", el("summary", "The numbers as a table"), numbers), torn)
    return Section(id=ID, title=TITLE, body=body, charts=[chart])
