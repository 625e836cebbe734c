"""Does the divergence from the base keep what was known, what does it cost on the task, and what do its forms come to?

``python benchmarks/sanity_base_divergence.py`` writes ``docs/evidence/methods/base_divergence``. No download is needed.

A small model is first trained, once, on documents about things, each with a place and a food of its own. Every arm and
seed then learns from a few questions and answers about half of the things, for the same steps. Held out are questions
about the other half, and documents; the divergence is the mean of ln p - ln b over texts that the model itself writes
behind the questions, p the tuned model and b the one before.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import sanity

THINGS, PLACES, FOODS = 32, 8, 8
FIRST = {"max_steps": 500, "learning_rate": 3e-3, "per_device_train_batch_size": 32}
THEN = {"max_steps": 40, "learning_rate": 2e-3, "per_device_train_batch_size": 16}
ARMS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "full, 0.1": [{"method": "base_divergence", "weight": 0.1}],
    "full, 1": [{"method": "base_divergence", "weight": 1.0}],
    "target, 0.1": [{"method": "base_divergence", "weight": 0.1, "form": "target"}],
    "target, 1": [{"method": "base_divergence", "weight": 1.0, "form": "target"}],
    "square, 1": [{"method": "base_divergence", "weight": 1.0, "form": "square"}],
}


def document(draw: random.Random) -> str:
    """Four sentences about two things, whose facts are always the same."""
    told = []
    for thing in draw.sample(range(THINGS), 2):
        told += [
            f"the thing{thing} lives in place{thing * 5 % PLACES}.",
            f"the thing{thing} eats food{thing * 3 % FOODS}.",
        ]
    draw.shuffle(told)
    return " ".join(told)


def questions(things: list[int]) -> list[dict[str, str]]:
    """Two for each thing."""
    found = []
    for thing in things:
        found.append({"prompt": f"where is thing{thing}", "completion": f" place{thing * 5 % PLACES}"})
        found.append({"prompt": f"what wants thing{thing}", "completion": f" food{thing * 3 % FOODS}"})
    return found


def measured(done: Any, base: Any, rows: list[dict[str, str]], held_out: list[dict[str, str]], texts: list[str]) -> Any:
    """Losses on answers, trained on and held out, on documents, and how far the model went."""
    from infosteer.evaluation.reference import divergence_from, reference_samples

    # the space parts prompt and answer, since this tokenizer's words begin with none
    own = reference_samples(
        done.model, done.tokenizer, [f"{row['prompt']} " for row in held_out], samples=2, max_new_tokens=8, seed=1
    )
    apart = divergence_from(done.model, done.tokenizer, base.model, base.tokenizer, own)
    return {
        "held-out answers, loss": sanity.losses(done.model, done.tokenizer, held_out),
        "trained answers, loss": sanity.losses(done.model, done.tokenizer, rows),
        "documents, loss": sanity.losses(done.model, done.tokenizer, [{"text": text} for text in texts]),
        "divergence from the base": [sum(apart) / len(apart)],
    }


def main() -> None:
    """Trains the model, then every arm from it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=FIRST["max_steps"], help="of the first training")
    arguments, started = options.parse_args(), time.monotonic()
    numbered = [f"{name}{i}" for name, n in (("thing", THINGS), ("place", PLACES), ("food", FOODS)) for i in range(n)]
    words = ["the", "lives", "in", "eats", "where", "is", "what", "wants", *numbered]
    scores = dict[str, dict[int, dict[str, list[float]]]]()
    draw = random.Random("sanity/base divergence")
    texts = [document(draw) for _ in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        new, saved = sanity.word_model(Path(folder) / "new", words, 1), Path(folder) / "first"
        first = [{"text": document(draw)} for _ in range(32 * arguments.steps)]
        base = sanity.trained(first, [], seed=1, model=new, keep=saved, **{**FIRST, "max_steps": arguments.steps})
        for seed in range(1, arguments.seeds + 1):
            things = random.Random(seed).sample(range(THINGS), THINGS)
            rows, held_out = questions(things[: THINGS // 2]), questions(things[THINGS // 2 :])
            for arm, methods in {"plain": ARMS["plain"], "before": None, **ARMS}.items():
                done = base
                if methods is not None:
                    done = sanity.trained(rows, methods, seed=seed, model=str(saved), **THEN)
                found = measured(done, base, rows, held_out, texts)
                scores.setdefault(arm, {})[seed] = found
                said = {name: round(sum(values) / len(values), 3) for name, values in found.items()}
                print(f"{time.monotonic() - started:.0f} s  seed {seed}  {arm}  {said}", flush=True)
    about = {"command": "python benchmarks/sanity_base_divergence.py", "first": arguments.steps, "then": THEN}
    condition = f"{arguments.steps} steps on documents, then {THEN['max_steps']} on questions, in every arm"
    print(sanity.write("base_divergence", {condition: scores}, about, started))


if __name__ == "__main__":
    main()
