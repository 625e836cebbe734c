"""Does Spectrum Tuning teach a model to follow draws in its context as Bayes would?

``python benchmarks/sanity_spectrum.py`` writes ``docs/evidence/methods/spectrum``. No download is needed.

Tasks are coins (uniform weight), urns with five colours (Dirichlet weights, all parameters 1) and normals rounded to
nine values (mean and spread from grids). A small model is pretrained on lines "task, then draws" of a few known tasks,
and then trained on sequences of many new ones. Held out are tasks of their own: after k draws its prediction of the
next one, renormalised over the outcomes, is compared with the task's weights, and with the Bayes posterior predictive
under the very prior, which nothing can beat on average.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import sanity

DRAWS = 12
SHOWN = (0, 1, 4, 11)
KNOWN = 16  # tasks of each family in pretraining
PRETRAINING = {"max_steps": 60, "learning_rate": 3e-3, "per_device_train_batch_size": 32}
TUNING = {"learning_rate": 5e-3, "per_device_train_batch_size": 16}
TASKS = 4000
HELD_OUT = 20  # of each family
SAMPLES = 40
FAMILIES = {
    "coin": ["heads", "tails"],
    "urn": ["red", "green", "blue", "white", "black"],
    "normal": [f"n{i}" for i in range(9)],
}
MEANS, SPREADS = range(1, 8), (0.6, 1.2, 2.4)
ROWS = {"method": "data/spectrum", "characters": 10_000}
# Arm -> it sees one in so many sequences, for how many epochs, and whether of likeliest outcomes alone.
ARMS = {"spectrum": (1, 1.0, False), "mode": (4, 1.0, True), "few": (20, 20.0, False)}


def weights_of_normal(mean: float, spread: float) -> list[float]:
    """Probabilities of the nine values."""
    found = [math.exp(-((i - mean) ** 2) / (2 * spread**2)) for i in range(9)]
    return [value / sum(found) for value in found]


NORMALS = [weights_of_normal(mean, spread) for mean in MEANS for spread in SPREADS]


def new_task(family: str, draw: random.Random) -> list[float]:
    """The weights of a task from its family's prior."""
    if family == "normal":
        return draw.choice(NORMALS)
    found = [draw.expovariate(1.0) for _ in FAMILIES[family]]  # Dirichlet(1, ..., 1)
    return [value / sum(found) for value in found]


def drawn(family: str, weights: list[float], draw: random.Random) -> list[int]:
    """Outcomes of one sequence."""
    return draw.choices(range(len(FAMILIES[family])), weights, k=DRAWS)


def bayes(family: str, seen: list[int]) -> list[float]:
    """Posterior predictive after some draws, exact."""
    size = len(FAMILIES[family])
    if family != "normal":  # Dirichlet-multinomial
        return [(1 + seen.count(i)) / (size + len(seen)) for i in range(size)]
    likely = [math.prod(one[i] for i in seen) for one in NORMALS]
    return [sum(p * one[i] for p, one in zip(likely, NORMALS, strict=True)) / sum(likely) for i in range(size)]


def rows_of(tasks: int, draw: random.Random, *, mode: bool = False) -> list[dict[str, Any]]:
    """Rows of new tasks, one a draw; each task's likeliest outcome in place of its draws for ``mode``."""
    rows = []
    for number in range(tasks):
        family = list(FAMILIES)[number % 3]
        weights = new_task(family, draw)
        found = [max(range(len(weights)), key=weights.__getitem__)] * DRAWS if mode else drawn(family, weights, draw)
        about = {"task": f"{family} {number}", "description": family}
        rows += [{"text": FAMILIES[family][i], "about": about} for i in found]
    return rows


def segments(family: str, seen: list[int], *, own: bool) -> list[dict[str, Any]]:
    """A held-out sequence in the form that a model knows: its pretraining's lines, or turns."""
    from infosteer.methods.data.spectrum import Pair, sequence

    words = [FAMILIES[family][i] for i in seen]
    if own:
        return sequence(family, [Pair(input="", output=word) for word in words])
    frame = [{"text": family, "loss": False}]
    return frame + [part for word in words for part in ({"text": " ", "loss": False}, {"text": word, "loss": True})]


def predicted(model: Any, tokenizer: Any, family: str, contexts: list[list[int]], *, own: bool) -> Any:
    """(S, DRAWS, outcomes) renormalised probabilities of each draw given those before it."""
    import torch

    from infosteer.training.segments import segment_tokens

    numbers = [tokenizer.convert_tokens_to_ids(word) for word in FAMILIES[family]]
    ids = torch.tensor([segment_tokens({"segments": segments(family, one, own=own)}, tokenizer)[0] for one in contexts])
    places = [t - 1 for t, token in enumerate(ids[0].tolist()) if token in numbers]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return logits[:, places][..., numbers].double().softmax(-1)


def measured(model: Any, tokenizer: Any, *, own: bool = True) -> dict[str, list[float]]:
    """All measures of one model, with one number for each held-out task (one a family for samples)."""
    from infosteer.evaluation.confidence import calibration_error
    from infosteer.evaluation.distributions import sampled_coverage
    from infosteer.methods.data.spectrum import prompt_text
    from infosteer.methods.probes.spectrum import divergence

    draw = random.Random("sanity/spectrum")
    found: dict[str, list[float]] = {
        f"JS from the {what}, {k} draws": [] for what in ("task", "posterior") for k in SHOWN
    }
    found |= {"order, JS": [], "nats an outcome, k >= 1": []}
    confidence: list[float] = []
    right: list[bool] = []
    for family in FAMILIES:
        tasks = [new_task(family, draw) for _ in range(HELD_OUT)]
        contexts = [drawn(family, weights, draw) for weights in tasks]
        p = predicted(model, tokenizer, family, contexts, own=own)
        mixed = [[*draw.sample(one[:-1], DRAWS - 1), one[-1]] for one in contexts]
        q = predicted(model, tokenizer, family, mixed, own=own)
        for number, context in enumerate(contexts):
            for k in SHOWN:
                mine = p[number, k].tolist()
                found[f"JS from the task, {k} draws"].append(divergence(mine, tasks[number]))
                found[f"JS from the posterior, {k} draws"].append(divergence(mine, bayes(family, context[:k])))
            nats = [-math.log(float(p[number, k, context[k]])) for k in range(1, DRAWS)]
            found["nats an outcome, k >= 1"].append(sum(nats) / len(nats))
            found["order, JS"].append(divergence(p[number, -1].tolist(), q[number, -1].tolist()))
            confidence += p[number, 1:].max(-1).values.tolist()
            right += [int(p[number, k].argmax()) == context[k] for k in range(1, DRAWS)]
    found["calibration error"] = [calibration_error(confidence, right)]
    if own:  # lines of pretraining end nowhere, so nothing that was sampled of them would be valid
        prompts, names = [prompt_text(family, (), "") for family in FAMILIES], list(FAMILIES)
        covered = sampled_coverage(
            model, tokenizer, prompts, lambda n, text: text in FAMILIES[names[n]], samples=SAMPLES, max_new_tokens=2
        )
        found["valid samples"] = [one.valid for one in covered]
        found["distinct of all outcomes"] = [
            one.number / len(FAMILIES[n]) for one, n in zip(covered, names, strict=True)
        ]
        # fewer than two valid samples: none that differ
        found["pairwise uniqueness"] = [0.0 if math.isnan(one.uniqueness) else one.uniqueness for one in covered]
    return found


def main() -> None:
    """Trains the model, then every arm from it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--tasks", type=int, default=TASKS, help="new tasks of the arm spectrum")
    arguments, started = options.parse_args(), time.monotonic()
    known = [f"{family}{i}" for family in FAMILIES for i in range(KNOWN)]
    words = ["description", "input", "output", *FAMILIES, *known, *itertools.chain(*FAMILIES.values())]
    scores: dict[str, dict[int, dict[str, list[float]]]] = {}
    for seed in range(1, arguments.seeds + 1):
        draw = random.Random(seed)
        with tempfile.TemporaryDirectory() as folder:
            new = sanity.word_model(Path(folder) / "new", words, seed)
            tasks = {name: (f := name.rstrip("0123456789"), new_task(f, draw)) for name in known}
            lines = []
            for _ in range(32 * PRETRAINING["max_steps"]):
                name, (family, weights) = draw.choice(list(tasks.items()))
                told = name if draw.random() < 0.75 else family
                lines.append({"text": " ".join([told, *(FAMILIES[family][i] for i in drawn(family, weights, draw))])})
            first = Path(folder) / "first"
            start = sanity.trained(lines, [], seed=seed, model=new, keep=first, **PRETRAINING)
            scores.setdefault("start", {})[seed] = measured(start.model, start.tokenizer, own=False)
            print(f"{time.monotonic() - started:.0f} s  seed {seed} start {said(scores['start'][seed])}", flush=True)
            for arm, (part, epochs, mode) in ARMS.items():
                rows = rows_of(max(arguments.tasks // part, 3), draw, mode=mode)
                settings = {**TUNING, "num_train_epochs": epochs}
                done = sanity.trained(rows, [ROWS], seed=seed, model=str(first), **settings)
                scores.setdefault(arm, {})[seed] = measured(done.model, done.tokenizer)
                print(f"{time.monotonic() - started:.0f} s  seed {seed} {arm} {said(scores[arm][seed])}", flush=True)
    about = {"command": "python benchmarks/sanity_spectrum.py", "first": PRETRAINING, "then": TUNING}
    condition = f"{arguments.tasks} new tasks of {DRAWS} draws, batch {TUNING['per_device_train_batch_size']}"
    print(sanity.write("spectrum", {condition: {arm: scores[arm] for arm in ("start", *ARMS)}}, about, started))


def said(found: dict[str, list[float]]) -> dict[str, float]:
    """Means, for the log."""
    return {name: round(sum(values) / len(values), 3) for name, values in found.items()}


if __name__ == "__main__":
    main()
