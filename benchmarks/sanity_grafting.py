"""Do few trained weights carry a task, are they better calibrated and more robust than all, and do tasks share them?

``python benchmarks/sanity_grafting.py`` writes ``docs/evidence/methods/grafting``. A small Llama is pretrained on word
salads that have a topic and a register, then tuned to name the topic (or the register) of one after a token that asks
for it. In tuning every topic shows half of its words; out of distribution it shows the other half, which pretraining
knew. Masks are chosen on training rows, out of the weights of the layers. ECE: ten bins, on the options' probabilities.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import sanity

TOPICS, REGISTERS, WORDS, LENGTH = 6, 3, 16, 16
FUNCTION = 1 + TOPICS * WORDS  # first function word; 0 is left free
ASK = {"topic": FUNCTION + REGISTERS * WORDS, "register": FUNCTION + REGISTERS * WORDS + 1}
LABEL = {"topic": ASK["register"] + 1, "register": ASK["register"] + 1 + TOPICS}
CLASSES = {"topic": TOPICS, "register": REGISTERS}
VOCABULARY = LABEL["register"] + REGISTERS
SHAPE = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}
TUNERS = {"SGD": (1.0, 300), "AdamW": (2e-3, 200)}  # rate, steps
DENSITIES = (0.001, 0.003, 0.01, 0.03, 0.1)
BATCH, ROWS, TEST, NOISE = 32, 256, 400, 0.4


def salad(draw: random.Random, topic: int, register: int, words: range, noise: float = NOISE) -> list[int]:
    """A row of words: of the topic, of the register, and some of any kind."""
    found = []
    for _ in range(LENGTH):
        kind = draw.random()
        if kind < noise:
            found.append(draw.randrange(1, ASK["topic"]))
        elif kind < noise + (1 - noise) * 0.65:
            found.append(1 + topic * WORDS + draw.choice(words))
        else:
            found.append(FUNCTION + register * WORDS + draw.choice(words))
    return found


def task_rows(draw: random.Random, task: str, count: int, words: range, noise: float = NOISE) -> Any:
    """Rows with the asking token and the label behind them; (count, LENGTH + 2)."""
    import torch

    rows = []
    for _ in range(count):
        topic, register = draw.randrange(TOPICS), draw.randrange(REGISTERS)
        label = LABEL[task] + (topic if task == "topic" else register)
        rows.append([*salad(draw, topic, register, words, noise), ASK[task], label])
    return torch.tensor(rows)


def as_batches(rows: Any) -> list[dict[str, Any]]:
    """Batches whose label is the last token."""
    found = []
    for part in rows.split(BATCH):
        labels = part.clone()
        labels[:, :-1] = -100
        found.append({"input_ids": part, "labels": labels})
    return found


def pretrained(seed: int, steps: int) -> Any:
    """A model that knows topics and registers, and no question."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model, draw = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **SHAPE)).train(), random.Random(f"pre/{seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        rows = [salad(draw, draw.randrange(TOPICS), draw.randrange(REGISTERS), range(WORDS)) for _ in range(BATCH)]
        said = draw.randrange(ASK["topic"], VOCABULARY)  # words of questions and answers, each by itself
        rows[0] = [said if draw.random() < 0.7 else draw.randrange(1, VOCABULARY) for _ in range(LENGTH)]
        ids = torch.tensor(rows)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def tune(model: Any, batches: list[dict[str, Any]], tuner: str, seed: int) -> None:
    """Tunes the layers; embeddings and head stay, as in the paper."""
    import torch

    rate, steps = TUNERS[tuner]
    trained = [p for name, p in model.named_parameters() if "layers." in name]
    optimizer = torch.optim.SGD(trained, lr=rate) if tuner == "SGD" else torch.optim.AdamW(trained, lr=rate)
    draw = random.Random(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        model(**draw.choice(batches)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        model.zero_grad()


def judged(model: Any, sets: dict[str, Any], task: str) -> dict[str, list[float]]:
    """Accuracy on every set, and the loss and calibration error of the first."""
    import torch

    from infosteer.evaluation.confidence import calibration_error

    found = {}
    for name, rows in sets.items():
        with torch.no_grad():
            logits = model.eval()(input_ids=rows[:, :-1]).logits[:, -1]
        options = logits[:, LABEL[task] : LABEL[task] + CLASSES[task]].softmax(-1)
        confidence, choice = options.max(-1)
        right = (choice == rows[:, -1] - LABEL[task]).double().tolist()
        found[f"{name}: right answers"] = right
        found[f"{name}: calibration error"] = [calibration_error(confidence.tolist(), right)]
    return found


def layers_of(model: Any) -> dict[str, Any]:
    """A copy of the layers' weights."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if "layers." in name}


def reset(model: Any, start: dict[str, Any]) -> None:
    """Puts the layers' weights back."""
    model.load_state_dict(start, strict=False)


def single_task(seed: int, base: Any, scores: dict[str, sanity.Scores]) -> None:
    """One task, tuned in two ways; every kind of mask at every density."""
    from infosteer.methods.params.grafting import Search, graft, set_weights
    from infosteer.methods.params.grafting.masks import distribution, inverse

    draw = random.Random(f"task/{seed}")
    batches = as_batches(task_rows(draw, "topic", ROWS, range(WORDS // 2)))
    sets = {
        "in distribution": task_rows(draw, "topic", TEST, range(WORDS // 2)),
        "other words": task_rows(draw, "topic", TEST, range(WORDS // 2, WORDS)),
        "more noise": task_rows(draw, "topic", TEST, range(WORDS // 2), 0.7),
    }
    start, model = layers_of(base), base
    for tuner in TUNERS:
        reset(model, start)
        at_start = judged(model, sets, "topic")
        tune(model, batches, tuner, seed)
        trained = layers_of(model)
        here = scores.setdefault(f"tuned by {tuner}; masks that begin with 1 % of the layers' weights", {})

        def keep(arm: str, density: float, into: sanity.Scores = here) -> None:
            found = {**judged(model, sets, "topic"), "density, %": [100 * density]}
            into.setdefault(arm, {})[seed] = found

        keep("tuned", 1.0)
        here.setdefault("base", {})[seed] = {**at_start, "density, %": [0.0]}
        curve = scores.setdefault(f"tuned by {tuner}: right answers in distribution, by density of the base mask", {})
        for density in DENSITIES:
            count = density  # the learnt mask comes first, and the others get as many weights as it has
            for kind in ("learned", "movement", "random", "magnitude"):
                made = graft(
                    model, start, trained, batches[:6], held_out=batches[6:], density=count, mask=kind, seed=seed,
                    search=Search(seed=seed),
                )  # fmt: skip
                count = made.density
                right = judged(model, sets, "topic")["in distribution: right answers"]
                row = {f"{density:.1%}: right answers": right, f"{density:.1%}: density, %": [100 * made.density]}
                curve.setdefault(kind, {}).setdefault(seed, {}).update(row)
                if density == 0.01:
                    keep(kind, made.density)
                if density == 0.01 and kind == "learned":
                    set_weights(model, start, trained, inverse(made.mask))
                    keep("all but the learned", 1 - made.density)
                    found = scores.setdefault(f"tuned by {tuner}: where the learned mask lies", {})
                    for where, share in distribution(made.mask, _place).items():
                        row = {"share of the mask, %": [100 * share["share"]], "density, %": [100 * share["density"]]}
                        found.setdefault(where, {})[seed] = row


def _place(name: str) -> str:
    layer = int(name.split("layers.")[1].split(".")[0])
    part = "attention" if "attn" in name else "norms" if "norm" in name else "FFN"
    return part if part == "norms" else f"{part} {layer}"


def two_tasks(seed: int, base: Any, start: dict[str, Any], scores: dict[str, sanity.Scores]) -> None:
    """One model tuned on both tasks, a mask for each, their union, and the union without one."""
    from infosteer.methods.params.grafting import Search, graft, set_weights
    from infosteer.methods.params.grafting.masks import density, overlap, random_mask, union, without

    draw, model = random.Random(f"two/{seed}"), base
    rows = {task: task_rows(draw, task, ROWS, range(WORDS)) for task in ASK}
    tests = {task: task_rows(draw, task, TEST, range(WORDS)) for task in ASK}
    batches = {task: as_batches(found) for task, found in rows.items()}
    reset(model, start)
    tune(model, [*batches["topic"], *batches["register"]], "AdamW", seed)
    trained, masks = layers_of(model), {}
    here = scores.setdefault("two tasks in one model, tuned by AdamW", {})

    def keep(arm: str, mask: dict[str, Any] | None) -> None:
        if mask is not None:
            set_weights(model, start, trained, mask)
        found = {f"{task}: right answers": judged(model, {"": tests[task]}, task)[": right answers"] for task in ASK}
        here.setdefault(arm, {})[seed] = {**found, "density, %": [100 * (1.0 if mask is None else density(mask))]}

    keep("tuned", None)
    for task in ASK:
        made = graft(
            model, start, trained, batches[task][:6], held_out=batches[task][6:], density=0.01,
            search=Search(seed=seed),
        )  # fmt: skip
        masks[task] = made.mask
        keep(f"graft of {task}", made.mask)
    keep("union", union(*masks.values()))
    keep("union without topic", without(union(*masks.values()), masks["topic"]))
    found, chance = overlap(masks), random_mask(start, density(masks["topic"]), seed)
    shared = scores.setdefault("two tasks in one model: weights that the two masks share", {})
    by_chance = overlap({**masks, "random": chance})["random"]["topic"]
    shared.setdefault("topic and register", {})[seed] = {"overlap, %": [100 * found["topic"]["register"]]}
    shared.setdefault("topic and a random mask", {})[seed] = {"overlap, %": [100 * by_chance]}


def main() -> None:
    """Pretrains a base for every seed and grafts."""
    import torch

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=500, help="of pretraining")
    arguments, started = options.parse_args(), time.monotonic()
    torch.set_num_threads(1)
    scores: dict[str, sanity.Scores] = {}
    for seed in range(1, arguments.seeds + 1):
        base = pretrained(seed, arguments.steps)
        start = layers_of(base)
        single_task(seed, base, scores)
        two_tasks(seed, base, start, scores)
        for condition, arms in scores.items():
            for arm, found in arms.items():
                said = {name: round(sum(v) / len(v), 3) for name, v in found[seed].items()}
                print(f"{time.monotonic() - started:.0f} s  seed {seed}  {condition}  {arm}  {said}", flush=True)
    about = {"command": "python benchmarks/sanity_grafting.py", "shape": SHAPE, "tuning": TUNERS,
             "pretraining_steps": arguments.steps}  # fmt: skip
    print(sanity.write("grafting", scores, about, started))


if __name__ == "__main__":
    main()
