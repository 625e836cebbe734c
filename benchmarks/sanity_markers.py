"""Do markers of length and task act as levers, does the model infer them, and who gains: the rare task or the frequent?

``python benchmarks/sanity_markers.py`` writes ``docs/evidence/methods/markers``. A tiny Llama learns from scratch to
copy (70 %), reverse (20 %), sort (8 %) or dedupe (2 %) letters, and to say the answer one to three times, which the
prompt does not tell. All arms see the same rows in the same order. Names of arms: p_D / p_S, and how it is asked:
with nothing but the prompt (inferred), with task and length given in the prompt (fixed), or with them written at the
head of its answer, to go on from (forced). In "0/50" exactly one of the two
markers is dropped, so that no prompt is without a list, as is nearly always so with many markers.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from typing import Any

import sanity

SHARES = {"copy": 0.70, "reverse": 0.20, "sort": 0.08, "dedupe": 0.02}
CUES = {
    "copy": ("repeat", "again", "echo"),
    "reverse": ("back", "turn", "mirror"),
    "sort": ("order", "rank", "arrange"),
    "dedupe": ("once", "unique", "distinct"),
}
LETTERS, WIDTH, TIMES = "abcdef", 4, (1, 2, 3)
MARKED = {"method": "markers", "count": ["length_tokens"], "taxonomy": {"task": list(SHARES)}}
ARMS: dict[str, list[dict[str, Any]]] = {
    "no markers": [],
    "50/50": [MARKED],
    "0/50": [{**MARKED, "drop_all": 0.0, "exact": True}],
}
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
BATCH, RATE, LONGEST = 64, 4e-3, 24
MODES = ("inferred", "fixed", "forced")


def solve(task: str, letters: list[str]) -> list[str]:
    """What the task makes of the letters."""
    if task == "dedupe":
        return list(dict.fromkeys(letters))
    return {"copy": letters, "reverse": letters[::-1], "sort": sorted(letters)}[task]


def row_of(task: str, draw: random.Random) -> dict[str, Any]:
    """One row; its task is known, its length is counted."""
    letters = [draw.choice(LETTERS) for _ in range(WIDTH)]
    answer = solve(task, letters) * draw.choice(TIMES)
    prompt = f"{draw.choice(CUES[task])} {' '.join(letters)}"
    return {"prompt": prompt, "completion": " " + " ".join(answer), "about": {"task": task}}


def tokens(text: str) -> list[str]:
    """Tags, words and line breaks."""
    return re.findall(r"<[^>]*>|[^\s<]+|\n", text)


def decode(model: Any, prompts: list[list[int]], end: int) -> list[list[int]]:
    """Greedy continuations of prompts of one length."""
    import torch

    ids = torch.tensor(prompts)
    done, cache = torch.zeros(len(ids), dtype=torch.bool), None
    with torch.no_grad():
        for _ in range(LONGEST):
            out = model(input_ids=ids if cache is None else ids[:, -1:], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            new = out.logits[:, -1].argmax(-1).masked_fill(done, end)
            ids, done = torch.cat([ids, new[:, None]], 1), done | (new == end)
            if done.all():
                break
    return [row[len(prompts[0]) :] for row in ids.tolist()]


def train(rows: list[dict[str, Any]], known: dict[str, int], seed: int, steps: int) -> Any:
    """A tiny Llama, trained on the rows in their order; loss on completions alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(known), **SHAPE)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min((t + 1) / 40, 1 - t / (steps + 1)))
    encoded = [[[known[word] for word in tokens(row[side])] for side in ("prompt", "completion")] for row in rows]
    for step in range(steps):
        part = encoded[step * BATCH : (step + 1) * BATCH]
        width = max(len(prompt) + len(answer) + 1 for prompt, answer in part)
        ids, labels = torch.zeros(BATCH, width, dtype=torch.long), torch.full((BATCH, width), -100)
        for n, (prompt, answer) in enumerate(part):
            whole = torch.tensor([*prompt, *answer, 0])
            ids[n, : len(whole)] = whole
            labels[n, len(prompt) : len(whole)] = whole[len(prompt) :]
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def judged(model: Any, known: dict[str, int], tests: list[dict[str, Any]], *, marked: bool, mode: str) -> Any:
    """Metric -> scores of the test rows."""
    from infosteer.methods.data.markers import add_list, read_list, write_list

    words = {number: word for word, number in known.items()}
    given, heads, prompts = [], [], []
    for row in tests:
        wanted = {"task": row["about"]["task"], "length_tokens": str(len(tokens(row["completion"])))}
        given.append(wanted if mode == "fixed" else {})
        heads.append(write_list(wanted) if mode == "forced" else "")
        prompts.append([known[word] for word in tokens(add_list(row["prompt"], given[-1]) + heads[-1])])
    scores: dict[str, list[float]] = {}
    for row, asked, head, out in zip(tests, given, heads, decode(model, prompts, 0), strict=True):
        text = head + " ".join(words[number] for number in out[: out.index(0) if 0 in out else None])
        written, answer = read_list(text)
        task, said = row["about"]["task"], tokens(answer)
        one = solve(task, tokens(row["prompt"])[1:])
        right = float(any(said == one * times for times in TIMES))
        kind = {"copy": "right, copy (70 %)", "dedupe": "right, dedupe (2 %)"}.get(task, "right, reverse and sort")
        scores.setdefault(kind, []).append(right)
        near = abs(len(said) - len(tokens(row["completion"]))) <= 1
        scores.setdefault("length within 1 of the wanted", []).append(float(near))
        if marked and not head:
            scores.setdefault("own task marker right", []).append(float((written or {}).get("task") == task))
        for category, value in asked.items():
            scores.setdefault("given markers copied", []).append(float((written or {}).get(category) == value))
    return scores


def one_seed(seed: int, steps: int, tests: list[dict[str, Any]], known: dict[str, int]) -> dict[str, Any]:
    """Name of arm and mode -> metric -> scores; trains every arm."""
    import torch

    import infosteer

    torch.set_num_threads(1)
    draw = random.Random(f"markers/{seed}")
    tasks = draw.choices(list(SHARES), list(SHARES.values()), k=steps * BATCH)
    plain, scores = [row_of(task, draw) for task in tasks], {}
    for arm, methods in ARMS.items():
        begun = time.process_time()
        model = train(infosteer.transform_rows(plain, methods, seed=seed), known, seed, steps)
        for mode in MODES if methods else ("",):
            name = f"{arm} {mode}".strip()
            scores[name] = judged(model, known, tests, marked=bool(methods), mode=mode)
            said = {metric: round(sum(v) / len(v), 3) for metric, v in scores[name].items()}
            print(f"seed {seed}  {name}  {said}  {time.process_time() - begun:.0f} s of CPU", flush=True)
    return scores


def main() -> None:
    """Trains every arm from every seed, and asks with and without markers."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=900)
    options.add_argument("--tests", type=int, default=64, help="questions of each task")
    options.add_argument("--workers", type=int, default=1, help="seeds at a time")
    arguments, started = options.parse_args(), time.monotonic()
    draw = random.Random("markers/test")
    tests = [row_of(task, draw) for task in SHARES for _ in range(arguments.tests)]
    tags = ("MARKER_LIST", "task", "length_tokens")
    words = ["\n", *LETTERS, *(cue for cues in CUES.values() for cue in cues), *SHARES, *map(str, range(1, 13))]
    words += [form.format(tag) for tag in tags for form in ("<{}>", "</{}>")]
    known = {word: number for number, word in enumerate(["<end>", *words])}
    scores = sanity.each_seed(one_seed, range(1, arguments.seeds + 1), arguments.workers, arguments.steps, tests, known)
    about = {"command": "python benchmarks/sanity_markers.py", "shape": SHAPE, "steps": arguments.steps, "batch": BATCH,
             "learning_rate": RATE, "shares": SHARES}  # fmt: skip
    print(sanity.write("markers", {"a tiny Llama from scratch, four tasks on letters": scores}, about, started))


if __name__ == "__main__":
    main()
