"""Does a loss on instructions overfit less where they are long and outputs short, and not the other way round?

``python benchmarks/sanity_instruction_modelling.py`` writes ``docs/evidence/methods/instruction_modelling``.

Long instructions: sentences about a person of the lab, then a question about one of them; the output is one word.
Short instructions: a request to describe a person; the output is those sentences. Rows to train on and rows held out
are about different people. Losses are on output tokens alone, in nats a token; "train" is the loss after training on
the rows trained on.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import sanity

SENTENCES = 2
CONDITIONS = {  # name -> rows, epochs
    "long instruction, one-word output, few rows": (240, 4),
    "short instruction, long output, one pass": (320, 1),
}
SETTINGS = {"per_device_train_batch_size": 8}
ARMS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "plain": ([], {}),
    "instruction_modelling": ([{"method": "instruction_modelling"}], {}),
    "weight_0.1": ([{"method": "instruction_modelling", "weight": 0.1}], {}),
}


def rows_about(people: list[Any], seed: int, *, long: bool) -> list[dict[str, str]]:
    """One row for each person."""
    from infosteer.lab.facts import phrasings, sentence
    from infosteer.lab.questions import AXES, SEEN_FORMS, prompt
    from infosteer.lab.words import ATTRIBUTES

    rows, draw = [], random.Random(f"sanity/{seed}")
    asked = AXES["new_people"].attributes()
    for person in people:
        attribute = draw.choice(asked)
        told = [attribute, *draw.sample([a for a in ATTRIBUTES if a is not attribute], SENTENCES - 1)]
        draw.shuffle(told)
        text = " ".join(sentence(person, a, draw.randrange(len(phrasings(a)))) for a in told)
        if long:
            word = draw.choice(AXES["new_people"].words(attribute))
            question = prompt(draw.choice(SEEN_FORMS), word, person.name)
            rows.append({"prompt": f"{text}\n{question}", "completion": f" {person.facts[attribute.name]}"})
        else:
            rows.append({"prompt": f"Question: Please tell me of {person.name}.\nAnswer:", "completion": f" {text}"})
    return rows


def main() -> None:
    """Trains every arm in both conditions."""
    from infosteer.lab.facts import make_world

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--held-out", type=int, default=160)
    arguments, started = options.parse_args(), time.monotonic()
    world, scores = make_world(), dict[str, sanity.Scores]()
    for condition, (count, epochs) in CONDITIONS.items():
        held_out = rows_about(list(world.test)[: arguments.held_out], 0, long=epochs > 1)
        for seed in range(1, arguments.seeds + 1):
            people = random.Random(seed).sample(list(world.pool), count)
            rows = rows_about(people, seed, long=epochs > 1)
            for arm, (methods, settings) in ARMS.items():
                done = sanity.trained(
                    rows, methods, seed=seed, learning_rate=4e-4, num_train_epochs=epochs, **SETTINGS, **settings
                )
                found = {
                    "held-out output loss": sanity.losses(done.model, done.tokenizer, held_out),
                    "train output loss": sanity.losses(done.model, done.tokenizer, rows[:160]),
                }
                scores.setdefault(condition, {}).setdefault(arm, {})[seed] = found
                said = {name: round(sum(values) / len(values), 3) for name, values in found.items()}
                print(f"{time.monotonic() - started:.0f} s  {condition}  seed {seed}  {arm}  {said}", flush=True)
    about = {"command": "python benchmarks/sanity_instruction_modelling.py", "base": "embedded", "learning_rate": 4e-4}
    print(sanity.write("instruction_modelling", scores, about, started))


if __name__ == "__main__":
    main()
