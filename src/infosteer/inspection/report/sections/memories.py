"""The memory explorer: search a word, see the memories that write it, in the base and in the steered model."""

from __future__ import annotations

from typing import Any

from infosteer.inspection.data import Memories, Memory
from infosteer.inspection.report.markup import clip, el, join, visible
from infosteer.inspection.report.section import Context, Section, models_of, not_inspected

ID, TITLE = "memories", "Memory explorer"
BUDGET = 1_300_000  # characters of data
_WORDS = 8  # of each memory
_LONGEST = 40  # characters of a word or a concept


def make_memories(context: Context) -> Section:
    """The section, from inspection/memories.json."""
    memories = context.run.memories
    if memories is None or not any(layer.memories for layer in memories.layers):
        return not_inspected(context, ID, TITLE, "the memory vectors of its models were not read")
    models = models_of(context, ((layer.model, layer.seed, False) for layer in memories.layers))
    chosen, whole = _chosen(memories)
    layers = [
        {
            "model": models.order[(layer.model, layer.seed, False)],
            "layer": layer.layer,
            "memories": [_memory(m) for m in layer.memories if (layer.layer, m.index) in chosen],
        }
        for layer in memories.layers
    ]
    numbers = sorted({layer.layer for layer in memories.layers})
    norm = "after the model's final norm" if memories.final_norm else "without the final norm"
    body = join(
        el(
            "p",
            "A memory vector, read through the model's output head, is a distribution over words: what it writes. ",
            f"Words are ranked by probability, {norm}; specificity is {visible(memories.specificity)}.",
        ),
        el("p", memories.note, class_="note") if memories.note else None,
        el(
            "div",
            el(
                "label", "Word ",
                el("input", type="search", id="memory-search", autocomplete="off", spellcheck="false",
                   placeholder="e.g. river"),
            ),
            el(
                "label", "Layer ",
                el("select", el("option", "all", value=""), [el("option", n, value=n) for n in numbers],
                   id="memory-layer"),
            ),
            id="memory-controls",
            class_="controls",
        ),
        el("p", id="memory-count", role="status", class_="note"),
        el("div", id="memory-list", class_="memories"),
        el("noscript", el("p", "The memory explorer needs JavaScript.", class_="absent")),
        None if len(chosen) == whole else el(
            "p", f"The {len(chosen):,} most specific of {whole:,} memories are on this page, to keep it small; all are "
            "in inspection/memories.json.", class_="note",
        ),
    )  # fmt: skip
    return Section(id=ID, title=TITLE, body=body, data={"memory-data": {"models": models.listed, "layers": layers}})


def _memory(memory: Memory) -> list[Any]:
    words = [[clip(visible(word), _LONGEST), round(p, 4)] for word, p in memory.words[:_WORDS]]
    made: list[Any] = [memory.index, round(memory.specificity, 3), words]
    return made if memory.concept is None else [*made, clip(visible(memory.concept), _LONGEST)]


def _chosen(memories: Memories) -> tuple[set[tuple[int, int]], int]:
    """(layer, index) of the most specific memories that fit, in any model; and how many there are. The same ones are
    kept of every model, so that base and steered can be compared."""
    best: dict[tuple[int, int], float] = {}
    size: dict[tuple[int, int], int] = {}
    for layer in memories.layers:
        for memory in layer.memories:
            key = (layer.layer, memory.index)
            best[key] = max(best.get(key, memory.specificity), memory.specificity)
            text = sum(
                min(len(word), _LONGEST) * (1 if word.isascii() else 6) + 12 for word, _ in memory.words[:_WORDS]
            )
            size[key] = size.get(key, 0) + text + 20
    chosen: set[tuple[int, int]] = set()
    room = BUDGET
    for key in sorted(best, key=lambda key: -best[key]):
        room -= size[key]
        if room < 0:
            break
        chosen.add(key)
    return chosen, len(best)
