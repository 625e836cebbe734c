"""Does a model that has seen examples in one place of the prompt only depend on that place, and its twin not?

``python benchmarks/sanity_demo_position.py`` writes ``docs/evidence/methods/demo_position``. No download is needed.

A row is a chat: three examples that map words to labels (a word and its label are one token), and a question
for the label of one of the words. One arm is trained on rows with the examples in the slot ``sum``, its twin on the
same rows with the slot drawn anew for each of them. Both are asked about held-out maps by the probe itself.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import sanity

WORDS, LABELS, MAPS = 3, 4, 10
INSTRUCTION = "label"
TRAINING = {"learning_rate": 5e-3, "per_device_train_batch_size": 32}
ARMS: dict[str, tuple[str, ...]] = {"slot sum": ("sum",), "every slot": ("ssp", "esp", "sum", "eum")}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}{{ '<end>' if m['role'] == 'assistant' else '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
SHOWN = ("ssp", "esp", "sum", "eum", "zero_shot")


def chat(labels: list[int], slots: tuple[str, ...], draw: random.Random) -> dict[str, Any]:
    """A training row."""
    from infosteer.core.demo_slots import BETWEEN, place

    order = draw.sample(range(WORDS), WORDS)
    examples = BETWEEN.join(f"w{word}l{labels[word]}" for word in order)
    asked = draw.randrange(WORDS)
    prompt = place(draw.choice(slots), INSTRUCTION, examples, f"w{asked}")
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": f"l{labels[asked]}"}]}


def measured(model: Any, tokenizer: Any, maps: list[list[int]]) -> dict[str, list[float]]:
    """What the probe says, over all maps; one number for each map."""
    from infosteer.evaluation.demo_slots import demo_slot_report
    from infosteer.evaluation.sets import EvalSet

    found: dict[str, list[float]] = {}
    for number, labels in enumerate(maps):
        rows = [
            {"prompt": f"w{word}", "lead": "", "answer": f"l{label}", "options": None, "stop": []}
            for word, label in enumerate(labels)
        ]
        chats = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
        one = EvalSet(name="map", rows=chats, max_new_tokens=2)
        settings = {"demos": WORDS, "seed": number, "instruction": INSTRUCTION}
        (report,) = demo_slot_report(model, tokenizer, [one], shown=rows, **settings).values()
        for name, value in report.items():
            found.setdefault(name, []).append(value)
    kept = [f"accuracy_{slot}" for slot in SHOWN] + [f"accuracy_change_{slot}" for slot in SHOWN[:-1]]
    kept += [f"prediction_change_{slot}" for slot in SHOWN if slot != "sum"]
    kept += [f"{what}_{slot}" for what in ("improved", "worsened", "no_answer") for slot in ("sum", "eum")]
    means = [sum(found[f"accuracy_{slot}"]) / len(maps) for slot in SHOWN[:-1]]
    return {name: found[name] for name in kept} | {"mean": found["mean"], "spread": [max(means) - min(means)]}


def main() -> None:
    """Trains both arms from every seed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=800)
    arguments, started = options.parse_args(), time.monotonic()
    words = [INSTRUCTION, "system", "user", "assistant", *(f"w{w}" for w in range(WORDS))]
    words += [f"l{n}" for n in range(LABELS)] + [f"w{w}l{n}" for w in range(WORDS) for n in range(LABELS)]
    draw, scores = random.Random("sanity/demo_position"), dict[str, dict[int, dict[str, list[float]]]]()
    all_maps = [list(labels) for labels in itertools.product(range(LABELS), repeat=WORDS)]
    draw.shuffle(all_maps)
    held_out, known = all_maps[:MAPS], all_maps[MAPS:]
    for seed in range(1, arguments.seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            new = sanity.word_model(Path(folder), words, seed)
            add_template(new)
            for arm, slots in ARMS.items():
                own, maps = random.Random(seed), random.Random(100 + seed)
                rows = [chat(maps.choice(known), slots, own) for _ in range(32 * arguments.steps)]
                done = sanity.trained(rows, [], seed=seed, model=new, max_steps=arguments.steps, **TRAINING)
                found = measured(done.model, done.tokenizer, held_out)
                scores.setdefault(arm, {})[seed] = found
                said = {name: round(sum(values) / len(values), 3) for name, values in found.items()}
                print(f"{time.monotonic() - started:.0f} s  seed {seed}  {arm}  {said}", flush=True)
    about = {"command": "python benchmarks/sanity_demo_position.py", "steps": arguments.steps, **TRAINING}
    condition = f"{arguments.steps} steps of every arm, batch 32, {MAPS} maps held out of {LABELS**WORDS}"
    print(sanity.write("demo_position", {condition: scores}, about, started))


def add_template(folder: str) -> None:
    """Gives the saved tokenizer a chat template with a system role."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
