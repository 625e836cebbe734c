"""Does entropy rise everywhere, or where the base is uncertain? ``python benchmarks/evidence_where.py [--seeds 3]``

The embedded base is tuned on the lab's questions, plain and steered, at the cell that the main table's tuning chose for
plain SFT. Held-out texts (biographies, and questions with their answers, about people of no training) are read by all
models without any edit. Tokens are put into four equal groups by how uncertain the base was of what follows them
(entropy of its prediction), and each group's change of the key entropy from plain SFT of the same seed is averaged.

Results: docs/evidence/where/results.json; ``python benchmarks/evidence.py`` shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EVIDENCE = Path(__file__).resolve().parents[1] / "docs" / "evidence"
OUTPUT = EVIDENCE / "where" / "results.json"
BASELINE = "plain"
ARMS: dict[str, list[dict[str, Any]]] = {
    BASELINE: [],
    "lift, a quarter": [{"method": "key_lift", "fraction": 0.25}],
    "lift, the paper's letter": [{"method": "key_lift", "preset": "paper"}],
    "entropy, weight 0.01": [{"method": "key_entropy", "weight": 0.01}],
    "entropy, weight 0.1": [{"method": "key_entropy", "weight": 0.1}],
}
GROUPS = 4


def tuned_cell() -> dict[str, Any]:
    """Settings of ``train`` that the main table's tuning chose for plain SFT."""
    chosen = json.loads((EVIDENCE / "main" / "results.json").read_text(encoding="utf-8"))["sweep"]["chosen"]
    return {key.removeprefix("train."): value for key, value in chosen[BASELINE]["cell"].items()}


def held_out(tokenizer: Any, count: int) -> dict[str, list[list[int]]]:
    """Kind -> texts that no training saw, as token ids."""
    from infosteer import lab

    told = [row["text"] for row in lab.load("facts/biographies", limit=count)]
    asked = [f"{row['prompt']} {row['answer']}" for row in lab.load("facts/new_people", limit=count)]
    return {"biographies": tokenizer(told)["input_ids"], "questions": tokenizer(asked)["input_ids"]}


def read(model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Of every token but a text's last, in nats: the mean over layers of the key entropy, the entropy of the prediction
    of the next token."""
    import torch

    import infosteer
    from infosteer.functional import key_entropy

    flux: list[Tensor] = []
    handles = [
        site.module.register_forward_pre_hook(lambda module, args: flux.append(key_entropy(args[0])[0, :-1].double()))
        for site in infosteer.locate(model)
    ]
    entropies, uncertainties = [], []
    with torch.no_grad():
        for ids in rows:
            flux.clear()
            logits = model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0, :-1].double()
            entropies.append(torch.stack(flux).mean(0))
            uncertainties.append(torch.distributions.Categorical(logits=logits).entropy())
    for handle in handles:
        handle.remove()
    return torch.cat(entropies), torch.cat(uncertainties)


def groups(values: Tensor) -> list[Tensor]:
    """Places of the values in rising order, in GROUPS equal parts."""
    return list(values.argsort().tensor_split(GROUPS))


def where_table(results: dict[str, Any]) -> str:
    """Each arm's change of key entropy by group of tokens, mean over seeds and the seeds' range."""
    heads = [f"{g} quarter of tokens" for g in ("surest", "second", "third", "least sure")]
    lines = [f"| text | arm | {' | '.join(heads)} |", "|---|---|" + "---|" * GROUPS]
    for kind, found in results["texts"].items():
        spans = " | ".join(f"{low:.1f} to {high:.1f}" for low, high in found["uncertainty"])
        lines.append(f"| {kind} | (the base's uncertainty, nats) | {spans} |")
        for arm, seeds in found["changes"].items():
            columns = zip(*seeds.values(), strict=True)
            cells = [f"{mean(c):+.3f} ({min(c):+.3f} to {max(c):+.3f})" for c in columns]
            lines.append(f"| {kind} | {arm} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    import sanity

    from infosteer import lab
    from infosteer.training.compat import versions
    from infosteer.training.loading import load_model, load_tokenizer

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=100)
    arguments = parser.parse_args()
    base, cell = load_model("embedded").eval(), tuned_cell()
    texts = held_out(load_tokenizer("embedded"), arguments.texts)
    parts: dict[str, list[Tensor]] = {}
    results: dict[str, Any] = {"schema": 1, "versions": versions(), "cell": cell, "texts": {}}
    for kind, rows in texts.items():
        values = read(base, rows)[1]
        parts[kind] = groups(values)
        spans = [[float(values[part].min()), float(values[part].max())] for part in parts[kind]]
        results["texts"][kind] = {"tokens": len(values), "uncertainty": spans, "changes": {}}
    for seed in range(901, 901 + arguments.seeds):
        plain: dict[str, Tensor] = {}
        for arm, methods in ARMS.items():
            model = sanity.trained(lab.load("facts", seed=seed), methods, seed=seed, bf16=True, **cell).model
            for kind, rows in texts.items():
                entropies = read(model, rows)[0]
                if arm == BASELINE:
                    plain[kind] = entropies
                    continue
                changes = [float((entropies - plain[kind])[part].mean()) for part in parts[kind]]
                results["texts"][kind]["changes"].setdefault(arm, {})[str(seed)] = changes
                print(f"seed {seed}  {arm}  {kind}  {[round(change, 4) for change in changes]}", flush=True)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
