"""GaLore here beside galore-torch 1.0, the authors' package: the same updates, a resume, odd gradients, time of a step.

    python benchmarks/galore_package.py     # with galore-torch and bitsandbytes, which it imports, on the path

Writes ``docs/evidence/methods/galore/package.json``. ``--render`` puts its table into the card (after
``<!-- package: galore -->``), ``--check`` says whether it is there; neither needs the package. Steps of the two are
interleaved; a step is the optimizer's alone, with new bases left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "evidence" / "methods" / "galore" / "package.json"
CARD = ROOT / "src" / "infosteer" / "methods" / "params" / "galore" / "card.md"
PLACE = re.compile(r"<!-- package: galore -->\n(?:.*<!-- package: end -->\n)?", re.DOTALL)
SHAPES = ((48, 32), (32, 48), (32, 32))


def pair(shape: tuple[int, int], mode: str, rank: int, gap: int = 5) -> tuple[Any, Any, Any]:
    """The same weight twice, with a function for a step of ours and the package's optimizer."""
    import galore_torch
    import torch
    from torch import nn

    from infosteer.methods.params.galore import LowRank
    from infosteer.methods.params.galore.low_rank import Settings

    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW([ours], **settings)
    handle = LowRank(
        [(ours, rank)],
        Settings(proj_type=mode, update_proj_gap=gap, scale=0.25, solver="exact", rotate=False, seed=0),
    )
    group = {"params": [theirs], "rank": rank, "update_proj_gap": gap, "scale": 0.25, "proj_type": mode}
    package = galore_torch.GaLoreAdamW([group], **settings, no_deprecation_warning=True)

    def step() -> None:
        handle.see_optimizer(optimizer, 0, None)
        handle.before_step(1.0)
        optimizer.step()
        handle.after_step(1.0)

    return (ours, optimizer, step), (theirs, package, package.step), generator


def attempt(action: Callable[[], Any]) -> str:
    """ "works", or the error's type."""
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "works"


def agreement(mode: str) -> float:
    """Largest relative difference of the weights after twelve steps, over three shapes."""
    import torch

    worst = 0.0
    for shape in SHAPES:
        (ours, optimizer, step), (theirs, _, other), generator = pair(shape, mode, 8)
        for t in range(1, 13):
            ours.grad = torch.randn(shape, generator=generator)
            theirs.grad = ours.grad.clone()
            # torch adds epsilon after the bias correction, the package before it
            optimizer.param_groups[0]["eps"] = 1e-6 / math.sqrt(1 - 0.999**t)
            step()
            other()
        worst = max(worst, float((ours - theirs).detach().norm() / theirs.detach().norm()))
    return worst


def facts() -> dict[str, Any]:
    """What each of the two does where they differ."""
    import torch

    found: dict[str, dict[str, str]] = {}

    def both(what: str, shape: tuple[int, int], mode: str, rank: int, make: Callable[[Any, Any], Any]) -> None:
        sides = pair(shape, mode, rank)
        found[what] = {
            name: attempt(make(side, sides[2])) for name, side in zip(("here", "package"), sides, strict=False)
        }

    def resumed(side: Any, generator: Any) -> Callable[[], Any]:
        def action() -> None:
            parameter, optimizer, step = side
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            step()
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer.load_state_dict(torch.load(file, weights_only=True))  # as transformers' Trainer loads it
            step()

        return action

    def after(value: float) -> Callable[[Any, Any], Any]:
        def make(side: Any, generator: Any) -> Callable[[], Any]:
            def action() -> None:
                parameter, _, step = side
                for t in range(6):  # a basis is due at the sixth step
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
                    if t == 5:
                        parameter.grad.fill_(value)
                    step()

            return action

        return make

    def once(side: Any, generator: Any) -> Callable[[], Any]:
        def action() -> None:
            parameter, _, step = side
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            step()

        return action

    both("resume from a checkpoint, as Trainer loads it (weights_only)", (48, 32), "std", 8, resumed)
    both("a gradient that is not finite where a basis is due", (48, 32), "std", 8, after(math.nan))
    both("reverse_std at full rank, wide matrix", (32, 48), "reverse_std", 32, once)
    return found


def speed(rounds: int) -> dict[str, Any]:
    """Median ratio of our step's time to the package's, at a matrix of 512 x 2048 and rank 128."""
    import torch

    ours, theirs, generator = pair((512, 2048), "std", 128, gap=10**9)
    ratios = []
    for turn in range(rounds + 1):
        gradient = torch.randn((512, 2048), generator=generator)
        taken = {}
        for side in (ours, theirs) if turn % 2 else (theirs, ours):
            side[0].grad = gradient.clone()
            started = time.perf_counter()
            side[2]()
            taken[id(side)] = time.perf_counter() - started
        ratios += [taken[id(ours)] / taken[id(theirs)]] if turn else []
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"ratio_median": middle, "ratio_quartiles": [low, high], "rounds": rounds}


def memory() -> dict[str, float]:
    """MiB of optimizer state for a matrix of 512 x 2048 in fp32, rank 128, as torch and bitsandbytes hold it."""
    import bitsandbytes
    import torch
    from torch import nn

    from infosteer.methods.params.galore import LowRank, state_bytes
    from infosteer.methods.params.galore.low_rank import Settings

    settings = Settings(proj_type="std", update_proj_gap=200, scale=0.25, solver="exact", rotate=False, seed=0)
    found = {}
    for name, make in (("AdamW", torch.optim.AdamW), ("8-bit AdamW", bitsandbytes.optim.AdamW8bit)):
        for projected in (False, True):
            parameter = nn.Parameter(torch.randn(512, 2048, generator=torch.Generator().manual_seed(1)))
            optimizer = make([parameter], lr=1e-3)
            handle = LowRank([(parameter, 128)] if projected else [], settings)
            parameter.grad = torch.randn(512, 2048, generator=torch.Generator().manual_seed(2))
            handle.see_optimizer(optimizer, 0, None)
            handle.before_step(1.0)
            optimizer.step()
            handle.after_step(1.0)
            found[f"{name}, projected" if projected else name] = state_bytes(optimizer) / 2**20
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Everything."""
    import torch

    from infosteer.methods.params.galore.projection import MODES

    torch.set_num_threads(1)
    return {
        "command": "python benchmarks/galore_package.py",
        "environment": {
            "torch": torch.__version__,
            "package": f"galore-torch {importlib.metadata.version('galore-torch')}",
            "bitsandbytes": importlib.metadata.version("bitsandbytes"),
        },
        "agreement": {mode: agreement(mode) for mode in MODES},
        "facts": facts(),
        "speed": speed(rounds),
        "memory_mib": memory(),
    }


def render(text: str) -> str:
    """The card with the table of what was measured."""
    if not OUT.is_file():
        return text
    found = json.loads(OUT.read_text(encoding="utf-8"))
    worst, pace = max(found["agreement"].values()), found["speed"]
    low, high = pace["ratio_quartiles"]
    lines = [
        f"| | here | {found['environment']['package']} |",
        "|---|---|---|",
        *(f"| {what} | {said['here']} | {said['package']} |" for what, said in found["facts"].items()),
        f"| time of a step, 512 x 2048, rank 128 (ratio) | {pace['ratio_median']:.2f} ({low:.2f} to {high:.2f}) | 1 |",
        "",
        f"Weights after twelve steps with two new bases: the same in all {len(found['agreement'])} projections, to "
        f"{worst:.0e} of their norm at most. By `{found['command']}`; torch {found['environment']['torch']}.",
        "",
        "Optimizer state of a 512 x 2048 matrix, measured, rank 128, MiB: "
        + ", ".join(f"{name} {size:.2f}" for name, size in found["memory_mib"].items())
        + f" (bitsandbytes {found['environment']['bitsandbytes']}, on a CPU).",
    ]
    table = "\n".join(lines)
    return PLACE.sub(lambda _: f"<!-- package: galore -->\n{table}\n<!-- package: end -->\n", text)


def main() -> int:
    """Measures, and fills the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--render", action="store_true", help="measure nothing, fill the card")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the card is out of date")
    options = parser.parse_args()
    if not (options.render or options.check):
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(measure(options.rounds), indent=1) + "\n", encoding="utf-8")
    text = CARD.read_text(encoding="utf-8")
    wanted = render(text)
    if wanted != text and not options.check:
        CARD.write_text(wanted, encoding="utf-8")
    return int(options.check and wanted != text)


if __name__ == "__main__":
    sys.exit(main())
