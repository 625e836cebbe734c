"""What the models of a run do, left in the run's folder for its report: token heatmaps, region shift, memories.

One model is in memory at a time. The first one is the base: its coefficients fix the regions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infosteer.core.surfaces import InterventionMethod
from infosteer.errors import ConfigError
from infosteer.inspection.data import (
    Memories,
    Memory,
    MemoryLayer,
    RegionReading,
    Regions,
    Text,
    TokenReading,
    Tokens,
    write,
)
from infosteer.inspection.memories import Concepts, overlap, read_memories
from infosteer.inspection.observe import observe
from infosteer.inspection.reading import read_text, token_texts
from infosteer.methods.probes.region_shift import RegionObserver
from infosteer.models import locate, select_layers

MEMORIES = 256  # of a layer, in the file
WORDS = 8
_PERCENTILES = (25.0, 75.0)
_DIGITS = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model of a run.

    Attributes:
        name: the arm, or ``base``.
        seed: the arm's; None for the base.
        load: gives model and tokenizer.
        edits: the arm's interventions; where there are any, it is read with them as well.
    """

    name: str
    seed: int | None = None
    load: Callable[[], tuple[nn.Module, Any]]
    edits: Sequence[InterventionMethod] = ()

    @property
    def title(self) -> str:
        """The model in words."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


def write_inspection(
    run: Path,
    subjects: Sequence[Subject],
    texts: Mapping[str, str],
    corpus: Sequence[str],
    *,
    layers: str | Sequence[int] = "all",
    source: str = "",
    note: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Reads every model and writes ``inspection/tokens.json``, ``regions.json`` and ``memories.json`` of the run.

    Args:
        subjects: the base first.
        texts: name -> text, shown token by token; a text that a model cannot take whole is an error.
        corpus: on which key regions are fixed, by the base, and counted, for all.
        source: where corpus and texts come from, in words.
        note: told what is being read.

    Returns:
        The files; they are written when all models have been read.

    Raises:
        ConfigError: no model or no text. Otherwise what reading the models raises.
    """
    if not subjects or not texts or not corpus:
        raise ConfigError(
            "there is nothing to inspect",
            where=run,
            got=f"{len(subjects)} models, {len(texts)} texts, a corpus of {len(corpus)} texts",
        )
    readings: dict[str, list[TokenReading]] = {name: [] for name in texts}
    shares: list[RegionReading] = []
    concepts: dict[str, list[Concepts]] = {}
    cutoffs: dict[int, tuple[float, float]] = {}
    for subject in subjects:
        note(f"reading {subject.title}")
        model, tokenizer = subject.load()
        model.eval()
        sites = locate(model)
        chosen = [sites[i] for i in select_layers(layers, len(sites))]
        if not cutoffs:
            regions = RegionObserver(percentiles=_PERCENTILES)
            observe(model, tokenizer, corpus, [regions], layers=layers)
            regions.calibrated()
            cutoffs, widths = regions.cutoffs, {site.layer: site.width for site in chosen}
            decode = functools.partial(token_texts, tokenizer)
        for edits in [(), subject.edits] if subject.edits else [()]:
            regions = RegionObserver(percentiles=_PERCENTILES, cutoffs=cutoffs)
            observe(model, tokenizer, corpus, [regions], layers=layers, edits=edits)
            shares.append(_region_reading(subject, regions, hook=bool(edits)))
            for name, text in texts.items():
                reading = read_text(
                    model, tokenizer, text, name=subject.name, seed=subject.seed, layers=layers, edits=edits
                )
                readings[name].append(_rounded(reading))
        concepts[subject.title] = [read_memories(model, site, top=WORDS) for site in chosen]
        del model
    of = f" {source}" if source else ""
    return [
        write(
            run,
            Tokens(
                texts=tuple(Text(name=name, readings=tuple(found)) for name, found in readings.items()),
                note=f"Texts{of}, each read whole and alone.",
            ),
        ),
        write(
            run,
            Regions(
                percentiles=_PERCENTILES,
                readings=tuple(shares),
                note=f"On {len(corpus):,} texts{of}; by magnitude. The base fixes the regions on the same texts.",
            ),
        ),
        write(run, _memories(subjects, concepts, widths, decode)),
    ]


def _region_reading(subject: Subject, regions: RegionObserver, *, hook: bool) -> RegionReading:
    found = regions.shares()
    return RegionReading(
        model=subject.name,
        seed=subject.seed,
        hook=hook,
        layer_numbers=tuple(found),
        shares=tuple(tuple(round(share, 6) for share in row) for row in found.values()),
    )


def _rounded(reading: TokenReading) -> TokenReading:
    """Fewer digits: the file is half as large, and no reader sees it."""
    told = reading.surprisal
    return dataclasses.replace(
        reading,
        flux=tuple(round(value, _DIGITS) for value in reading.flux),
        layers=tuple(tuple(round(value, _DIGITS) for value in row) for row in reading.layers),
        surprisal=None if told is None else tuple(None if v is None else round(v, _DIGITS) for v in told),
    )


def _memories(
    subjects: Sequence[Subject],
    concepts: Mapping[str, list[Concepts]],
    widths: Mapping[int, int],
    decode: Callable[[list[int]], list[str]],
) -> Memories:
    """The same memories of every model: of each layer those that are the most specific in any of them."""
    layers: list[MemoryLayer] = []
    for place, number in enumerate(widths):
        best = torch.stack([found[place].specificity for found in concepts.values()]).amax(dim=0)
        chosen = best.topk(min(MEMORIES, len(best))).indices.sort().values.tolist()
        for subject in subjects:
            read = concepts[subject.title][place]
            memories = [
                Memory(
                    index=index,
                    specificity=round(float(read.specificity[index]), _DIGITS),
                    words=tuple(
                        (word, round(p, _DIGITS))
                        for word, p in zip(
                            decode(read.tokens[index].tolist()), read.probabilities[index].tolist(), strict=True
                        )
                    ),
                )
                for index in chosen
            ]
            layers.append(
                MemoryLayer(
                    model=subject.name,
                    seed=subject.seed,
                    layer=number,
                    width=widths[number],
                    memories=tuple(memories),
                )
            )
    base, *others = [subject.title for subject in subjects]
    kept = {
        title: sum(float(overlap(a, b).mean()) for a, b in zip(concepts[base], concepts[title], strict=True))
        / len(widths)
        for title in others
    }
    said = ", ".join(f"{title} {100 * share:.1f} %" for title, share in kept.items())
    note = f"The most specific {MEMORIES} of each layer, in any model, at most."
    if said:
        note += (
            f" Of a memory's {WORDS} words, these shares are the same as in the base (mean of all memories): {said}."
        )
    return Memories(layers=tuple(layers), final_norm=True, note=note)
