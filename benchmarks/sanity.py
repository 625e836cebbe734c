"""What the sanity experiments of single methods share, and their tables in the cards.

``python benchmarks/sanity.py [--check]`` puts the tables of ``docs/evidence/methods/<name>/results.json`` into the
cards that hold ``<!-- sanity: <name> -->``; ``--check`` changes nothing and exits with 1 when a card says otherwise.

An experiment (``benchmarks/sanity_<name>.py``) trains with the very function that ``infosteer run`` uses, and hands its
scores to ``write``. ``results.json`` holds one entry of ``conditions`` for each comparison, with the usual keys
(``arms``, ``summary``, ``comparisons``), and one ``environment``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "methods"
CARDS = sorted((ROOT / "src" / "infosteer" / "methods").glob("*/*/card.md"))
PLACE = re.compile(r"<!-- sanity: (?P<name>[\w-]+) -->\n(?:(?:(?!<!-- sanity: ).)*<!-- sanity: end -->\n)?", re.DOTALL)
BAR = r"\|"  # in a table's cell
Scores = dict[str, dict[int, dict[str, list[float]]]]  # arm -> seed -> metric -> scores of the examples


def trained(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[Any],
    *,
    seed: int,
    model: str = "embedded",
    keep: Path | None = None,
    **settings: Any,
) -> Any:
    """A model after one training, as ``infosteer.training.sft.Trained``; saved in the folder ``keep``, if any."""
    from infosteer.training.settings import TrainSettings
    from infosteer.training.sft import train_sft

    common = {
        "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "save_model": keep is not None,
        "warmup_steps": 0.06, "per_device_train_batch_size": 16, "max_length": 128,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = train_sft(
            model=model, rows=rows, settings=TrainSettings(**{**common, **settings}), methods=methods, seed=seed,
            output_dir=keep or Path(folder),
        )  # fmt: skip
    found.close()
    return found


def word_model(folder: Path, words: Sequence[str], seed: int) -> str:
    """A random model of 0.1 M weights, saved in a folder; its tokens are these words, apart from the marks of ends."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(["<pad>", "<end>", ".", *words])}
    tokens = Tokenizer(models.WordLevel(numbers, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokens.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token="<end>", pad_token="<pad>", unk_token="<pad>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(numbers), hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, bos_token_id=None, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def losses(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], batch_size: int = 32) -> list[float]:
    """Of each row the mean negative log-likelihood of its completion's tokens (of all for plain text), in nats."""
    import torch
    import torch.nn.functional as F

    from infosteer.training.encode import encode_row

    encoded, found = [encode_row(row, tokenizer) for row in rows], []
    for start in range(0, len(encoded), batch_size):
        part = encoded[start : start + batch_size]
        longest = max(len(row["input_ids"]) for row in part)
        ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in part])
        labels = torch.tensor([row["labels"] + [-100] * (longest - len(row["labels"])) for row in part])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        each = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
        found += (each.sum(1) / (labels[:, 1:] != -100).sum(1)).tolist()
    return found


def each_seed(
    one_seed: Callable[..., Any], seeds: Sequence[int], workers: int, *given: Any
) -> dict[str, dict[int, Any]]:
    """``one_seed(seed, *given)`` -> arm -> metrics, from every seed, so many at a time; arm -> seed -> metrics."""
    asked = [(seed, *given) for seed in seeds]
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            found = pool.starmap(one_seed, asked)
    else:
        found = [one_seed(*each) for each in asked]
    arms = dict.fromkeys(arm for by_arm in found for arm in by_arm)
    return {arm: {seed: by_arm[arm] for seed, by_arm in zip(seeds, found, strict=True)} for arm in arms}


def write(
    name: str, scores: Mapping[str, Scores], about: Mapping[str, Any], started: float, *, beside: bool = False
) -> Path:
    """Writes ``results.json`` of an experiment: condition -> scores, and what was done (``about``).

    With ``beside`` the conditions that the file holds already are kept, but for those of the same name, and ``about``
    stands under the names of the new ones.
    """
    from infosteer.evaluation import analyse
    from infosteer.experiments.environment import environment

    path = EVIDENCE / name / "results.json"
    before = json.loads(path.read_text(encoding="utf-8")) if beside and path.is_file() else None
    conditions: dict[str, Any] = {} if before is None else before["conditions"]
    done = {**about, "minutes": round((time.monotonic() - started) / 60, 1)}
    for condition, found in scores.items():
        judged = analyse(found)
        means = [
            {"arm": arm, "seed": seed, "metrics": {metric: sum(v) / len(v) for metric, v in values.items()}}
            for arm, seeds in found.items()
            for seed, values in seeds.items()
        ]
        conditions[condition] = {"arms": means, **judged}
    results = {
        "schema": 1,
        "environment": environment(),
        "about": done if before is None else {**before["about"], **dict.fromkeys(scores, done)},
        "conditions": conditions,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def render(text: str) -> str:
    """A card with its tables filled; a place without results is left as it is."""

    def fill(match: re.Match[str]) -> str:
        path = EVIDENCE / match["name"] / "results.json"
        if not path.is_file():
            return match[0]
        table = tables(json.loads(path.read_text(encoding="utf-8")))
        return f"<!-- sanity: {match['name']} -->\n{table}<!-- sanity: end -->\n"

    return PLACE.sub(fill, text)


def tables(results: Mapping[str, Any]) -> str:
    """One table for each condition: a metric a row, an arm a column; intervals and differences in brackets."""
    blocks = []
    for condition, found in results["conditions"].items():
        means = {(row["arm"], row["metric"]): row for row in found["summary"]}
        pairs = {(row["arm"], row["metric"]): row for row in found["comparisons"]}
        arms = list(dict.fromkeys(row["arm"] for row in found["summary"]))
        lines = [f"*{condition}*", "", "| | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
        for metric in dict.fromkeys(row["metric"] for row in found["summary"]):
            cells = [_cell(means.get((arm, metric)), pairs.get((arm, metric))) for arm in arms]
            lines.append(f"| {metric.replace('|', BAR)} | " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines))
    seeds = max(row["n"] for found in results["conditions"].values() for row in found["summary"])
    packages = ", ".join(f"{name} {results['environment']['packages'][name]}" for name in ("torch", "transformers"))
    caption = (
        f"n = {seeds} seeds; in brackets 95 % intervals, after a semicolon the paired difference from the first arm, "
        f"with its own. {packages}, {results['environment']['cpu_cores']} CPU cores."
    )
    return "\n\n".join([*blocks, caption]) + "\n"


def _cell(mean: Mapping[str, Any] | None, pair: Mapping[str, Any] | None) -> str:
    if mean is None:
        return "-"
    span = f"({_number(mean['low'])} to {_number(mean['high'])})"
    if pair is None:
        return f"{_number(mean['mean'])} {span}"
    return f"{_number(mean['mean'])}; {pair['difference']:+.3g} ({pair['low']:+.2g} to {pair['high']:+.2g})"


def _number(value: float) -> str:
    return f"{value:.3g}"


def main() -> int:
    """Rewrites the cards, or checks them."""
    options = argparse.ArgumentParser(description="Fill the tables of sanity experiments into the method cards.")
    options.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a card is out of date")
    check, stale = options.parse_args().check, []
    for card in CARDS:
        text = card.read_text(encoding="utf-8")
        wanted = render(text)
        if wanted != text:
            stale.append(str(card.relative_to(ROOT)))
            if not check:
                card.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"{'not up to date' if check else 'rewritten'}: {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
