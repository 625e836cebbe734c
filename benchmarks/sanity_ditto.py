"""Does DITTO bring the probability of further copies down by its factor, and loops with it, at no loss on plain text?

``python benchmarks/sanity_ditto.py`` writes ``docs/evidence/methods/ditto``. No download is needed.

A small model is first trained, once, on documents that say the same few facts again and again, in random order; the
facts are drawn anew for each document, so that it has to learn to copy, and reinforces itself. Every arm and seed then
makes the same number of steps from there on documents of its own, the DITTO arms on repetitions half the time. Held
out are other documents: their second sentence is repeated behind the first (``TP_n``: mean probability of the tokens of
copy n; ``IP_n``: share of tokens likelier than in the first copy; ``WR_n``: share of tokens that are the likeliest
ones), their beginnings are continued greedily for 60 tokens, and they are scored as plain text.

``--written`` adds a condition of fewer steps to these results: continuations by greedy decoding and by top-p 0.9, their
repetitions beside those of the held-out documents, and MAUVE of both, by features of the first model.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import sanity

THINGS, PLACES, FOODS = 24, 24, 24
COPIES = 5
PRETRAINING = {"max_steps": 700, "learning_rate": 3e-3, "per_device_train_batch_size": 32}
TUNING = {"max_steps": 300, "learning_rate": 1e-3, "per_device_train_batch_size": 32}
ROWS = {"method": "data/ditto", "characters": 220}
ARMS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "lambda 0.5": [ROWS, {"method": "losses/ditto", "decay": 0.5}],
    "lambda 1": [ROWS, {"method": "losses/ditto", "decay": 1.0}],
}
WRITTEN = {"max_steps": 120, "samples": 64, "tokens": 40}  # of the condition that looks at what models write


def document(draw: random.Random) -> str:
    """Eight sentences, each one of the four facts about two things."""
    facts = []
    for thing in draw.sample(range(THINGS), 2):
        facts.append(f"the thing{thing} lives in place{draw.randrange(PLACES)}.")
        facts.append(f"the thing{thing} eats food{draw.randrange(FOODS)}.")
    return " ".join(draw.choice(facts) for _ in range(8))


def measured(model: Any, tokenizer: Any, held_out: list[str]) -> dict[str, list[float]]:
    """All measures of one model; one number for each held-out document."""
    from infosteer.evaluation.decode import decode
    from infosteer.evaluation.repetition import repeated_ngrams, repeated_sentences, self_reinforcement
    from infosteer.methods.data.ditto.method import sentences

    pairs = [tuple(sentences(text)[:2]) for text in held_out]
    copies = self_reinforcement(model, tokenizer, pairs, copies=COPIES)
    ratios = copies.ratios()
    written = [one.text for one in decode(model, tokenizer, [first for first, _ in pairs[:64]], max_new_tokens=60)]
    tokens = [tokenizer(text)["input_ids"] for text in written]
    return {
        **{f"TP_{n}": [row[n - 1] for row in copies.probability] for n in (1, 2, COPIES)},
        **{f"TP_{n} / TP_{n - 1}": [ratio] for n, ratio in enumerate(ratios, start=2)},
        f"IP_{COPIES}": [row[-1] for row in copies.increased],
        "WR_1": [row[0] for row in copies.winners],
        f"WR_{COPIES}": [row[-1] for row in copies.winners],
        "rep-4, greedy": [repeated_ngrams(row, 4) for row in tokens],
        "rep-sentence, greedy": [repeated_sentences(text) for text in written],
        "tokens written, greedy": [float(len(row)) for row in tokens],
        "loss on plain text": sanity.losses(model, tokenizer, [{"text": text} for text in held_out]),
    }


def written(model: Any, tokenizer: Any, reader: Any, held_out: list[str]) -> dict[str, list[float]]:
    """Continuations of the first sentence, greedy and by top-p 0.9, against how the documents go on."""
    from infosteer.evaluation.decode import decode
    from infosteer.evaluation.mauve import mauve, text_features
    from infosteer.evaluation.repetition import repeated_ngrams, repeated_sentences
    from infosteer.evaluation.sampling import sample
    from infosteer.methods.data.ditto.method import sentences

    texts = held_out[: WRITTEN["samples"]]
    openings = [sentences(text)[0] for text in texts]
    human = [
        " ".join(text[len(opening) :].split()[: WRITTEN["tokens"]])
        for text, opening in zip(texts, openings, strict=True)
    ]
    said = {
        "greedy": [one.text for one in decode(model, tokenizer, openings, max_new_tokens=WRITTEN["tokens"])],
        "top-p 0.9": [
            row[0].text
            for row in sample(
                model, tokenizer, openings, samples=1, temperature=1.0, top_p=0.9, max_new_tokens=WRITTEN["tokens"]
            )
        ],
        "held-out texts": human,
    }
    features = {
        how: text_features(reader.model, reader.tokenizer, [f"{o} {t}" for o, t in zip(openings, found, strict=True)])
        for how, found in said.items()
    }
    found: dict[str, list[float]] = {}
    for how, continuations in said.items():
        found[f"rep-4, {how}"] = [repeated_ngrams(tokenizer(text)["input_ids"], 4) for text in continuations]
        found[f"rep-sentence, {how}"] = [repeated_sentences(text) for text in continuations]
        if how != "held-out texts":
            found[f"MAUVE, {how}"] = [mauve(features[how], features["held-out texts"])]
    return found


def main() -> None:
    """Trains the model, then every arm from it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=PRETRAINING["max_steps"], help="of the first training")
    options.add_argument("--written", action="store_true", help="the condition of what models write, beside the other")
    arguments, started = options.parse_args(), time.monotonic()
    numbered = [f"{name}{i}" for name, n in (("thing", THINGS), ("place", PLACES), ("food", FOODS)) for i in range(n)]
    arms = {arm: ARMS[arm] for arm in ARMS if arm in ("plain", "lambda 0.5")} if arguments.written else ARMS
    tuning = {**TUNING, "max_steps": WRITTEN["max_steps"]} if arguments.written else TUNING
    draw, scores = random.Random("sanity/ditto"), dict[str, dict[int, dict[str, list[float]]]]()
    held_out = [document(draw) for _ in range(128)]
    with tempfile.TemporaryDirectory() as folder:
        new = sanity.word_model(Path(folder) / "new", ["the", "lives", "in", "eats", *numbered], 1)
        own, saved = random.Random(1), Path(folder) / "first"
        rows = [{"text": document(own)} for _ in range(32 * arguments.steps)]
        first = {**PRETRAINING, "max_steps": arguments.steps}
        before = sanity.trained(rows, [], seed=1, model=new, keep=saved, **first)

        def look(done: Any) -> dict[str, list[float]]:
            if arguments.written:
                return written(done.model, done.tokenizer, before, held_out)
            return measured(done.model, done.tokenizer, held_out)

        found = look(before)
        scores["before"] = dict.fromkeys(range(1, arguments.seeds + 1), found)
        print(f"{time.monotonic() - started:.0f} s  before {said(found)}", flush=True)
        for seed in range(1, arguments.seeds + 1):
            own = random.Random(f"seed {seed}")
            rows = [{"text": document(own)} for _ in range(960)]
            for arm, methods in arms.items():
                done = sanity.trained(rows, methods, seed=seed, model=str(saved), **tuning)
                scores.setdefault(arm, {})[seed] = look(done)
                print(f"{time.monotonic() - started:.0f} s  seed {seed}  {arm} {said(scores[arm][seed])}", flush=True)
    command = f"python benchmarks/sanity_ditto.py{' --written' if arguments.written else ''}"
    about = {"command": command, "first": arguments.steps, "then": tuning}
    condition = f"{arguments.steps} steps of plain training, then {tuning['max_steps']} steps of every arm, batch 32"
    found_by_arm = {arm: scores[arm] for arm in ("plain", "before", *arms)}
    print(sanity.write("ditto", {condition: found_by_arm}, about, started, beside=arguments.written))


def said(found: dict[str, list[float]]) -> dict[str, float]:
    """Means, for the log."""
    return {name: round(sum(values) / len(values), 3) for name, values in found.items()}


if __name__ == "__main__":
    main()
