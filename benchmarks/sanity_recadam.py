"""Does RecAdam forget less than plain AdamW at an equal gain?

``python benchmarks/sanity_recadam.py`` writes ``docs/evidence/methods/recadam``. The embedded base is tuned on the
lab's questions for equal steps. Gain: the loss on the answers of questions about other people. Forgetting: the loss on
the sentences of pretraining. Distance: of all weights from the base. "base" is the model before.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import sanity

SETTINGS, PEOPLE = {"learning_rate": 4e-4, "num_train_epochs": 4}, 20
ARMS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "recadam": [{"method": "recadam"}],
    "l2 to the start": [{"method": "recadam", "k": 0.0, "pull": 0.02}],
}


def main() -> None:
    """Trains every arm from every seed."""
    import torch

    from infosteer import lab
    from infosteer.training.loading import load_model, load_tokenizer

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--held-out", type=int, default=96)
    arguments, started = options.parse_args(), time.monotonic()
    asked = [
        {"prompt": row["prompt"], "completion": f" {row['answer']}"}
        for row in lab.load("facts/new_people", limit=arguments.held_out)
    ]
    told = [{"text": row["text"]} for row in lab.load("facts/biographies", limit=arguments.held_out)]
    base = load_model("embedded").eval()
    start = {name: p.detach().clone() for name, p in base.named_parameters()}

    def measured(model: Any, tokenizer: Any) -> dict[str, list[float]]:
        with torch.no_grad():
            squares = sum(
                float((p.float() - start[name]).double().square().sum()) for name, p in model.named_parameters()
            )
        return {
            "loss on new questions, nats a token": sanity.losses(model, tokenizer, asked),
            "loss on pretraining sentences, nats a token": sanity.losses(model, tokenizer, told),
            "distance from the base": [squares**0.5],
        }

    before = measured(base, load_tokenizer("embedded"))
    scores: sanity.Scores = {}
    for seed in range(1, arguments.seeds + 1):
        rows = lab.load("facts", seed=seed, people=PEOPLE)
        for arm, methods in ARMS.items():
            done = sanity.trained(rows, methods, seed=seed, **SETTINGS)
            found = measured(done.model, done.tokenizer)
            scores.setdefault(arm, {})[seed] = found
            said = {name: round(sum(v) / len(v), 3) for name, v in found.items()}
            print(f"{time.monotonic() - started:.0f} s  seed {seed}  {arm}  {done.steps} steps  {said}", flush=True)
        scores.setdefault("base", {})[seed] = before
    about = {"command": "python benchmarks/sanity_recadam.py", "base": "embedded", "people": PEOPLE, **SETTINGS}
    print(sanity.write("recadam", {"questions of the lab": scores}, about, started))


if __name__ == "__main__":
    main()
