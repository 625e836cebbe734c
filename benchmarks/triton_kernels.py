"""The Triton kernels on a GPU: are they right there, and what do they cost in time and memory?

    python benchmarks/triton_kernels.py                       # both, as tables
    python benchmarks/triton_kernels.py --json --output kernels.json
    python benchmarks/triton_kernels.py --skip speed          # only whether they are right

Right: masks bit by bit against a stable sort, values and gradients against the PyTorch back end, for every type, order,
reference and normalization, at widths that are no powers of two, on hostile rows and on random ones.

Speed: forward and backward of one layer's ``k = act(gate) * up`` with what each arm adds, arms in turn in one process,
so that whatever else the card does disturbs all alike. A round gives each arm's time less the plain arm's of the same
round; medians with quartiles are reported, times the number of layers. "plain again" is the noise, "copy of k" one pass
over k (read and write), the unit in which memory traffic is counted. Peak: of one forward and backward over that of the
plain arm. Kept: what lies between forward and backward over that of the plain arm, times layers, which is what counts
without activation checkpointing.

Shape by default: 28 layers of Qwen2.5-1.5B (M = 8960), 16384 tokens, bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from infosteer.experiments.environment import environment
from infosteer.ops.backends import use_backend
from infosteer.ops.entropy import entropy_gradient_rows, key_entropy
from infosteer.ops.gated import gated
from infosteer.ops.inject import inject, inject_value
from infosteer.ops.intervene import intervene
from infosteer.ops.rows import unpack_entries
from infosteer.ops.select import count_smallest
from infosteer.ops.steered import add_entropy_gradient, steer_rows
from infosteer.ops.together import intervene_and_inject
from infosteer.ops.trials import TOLERANCES, awkward_rows, close

WIDTHS = (4864, 8960, 9216, 11008, 18944)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NORMALIZATIONS = ("magnitude", "square", "softmax")
Arm = Callable[[Tensor, Tensor], Tensor]


# -- right ----------------------------------------------------------------------------------------------------------


def check(width: int, dtype: torch.dtype, device: str, rows: int) -> list[dict[str, Any]]:
    """One row for every setting: whether masks are equal, and values and gradients close."""
    k = torch.cat([awkward_rows(width, dtype, torch.device(device)), torch.randn(rows, width, device=device).to(dtype)])
    found = []
    for order in ("magnitude", "signed"):
        for fraction in (0.01, 0.5, 1.0):
            m = count_smallest(fraction, width)
            with use_backend("triton" if device != "cpu" else None):
                entries = steer_rows(k, m, 1.0, order, "mean", 1.0, None, True, "")[1]
            mask = torch.zeros_like(k, dtype=torch.bool).scatter(1, unpack_entries(entries)[0], True)
            key = k.abs() if order == "magnitude" else k
            want = torch.zeros_like(mask).scatter(1, key.sort(dim=-1, stable=True).indices[:, :m], True)
            found.append({"what": f"mask {order} {fraction}", "right": torch.equal(mask, want)})
        for reference in ("magnitude_mean", "mean"):
            for strength in (1.0, 0.4):

                def edit(x: Tensor, o: str = order, r: str = reference, s: float = strength) -> Tensor:
                    return intervene(x, 0.01, 1.5, o, r, strength=s)

                found.append({"what": f"intervene {order} {reference} {strength}", "right": same(edit, k)})
    for normalization in NORMALIZATIONS:

        def entropy(x: Tensor, n: str = normalization) -> Tensor:
            return key_entropy(x, n)

        found.append({"what": f"entropy {normalization}", "right": same(entropy, k)})
    for activation in ("silu", "gelu_tanh"):

        def fused(x: Tensor, a: str = activation) -> Tensor:
            return gated(x, x.flip(-1), a, normalization="magnitude")[0]

        found.append({"what": f"gated {activation}", "right": same(fused, k[8:])})
    return [{"width": width, "dtype": str(dtype).removeprefix("torch."), **row} for row in found]


def same(function: Callable[[Tensor], Tensor], k: Tensor) -> bool:
    """Whether value and gradient of both back ends are close, NaN and infinities in the same places."""
    results = []
    for backend in (None, "torch"):  # on a GPU, None is the kernels
        with use_backend(backend):
            leaf = k.clone().requires_grad_()
            out = function(leaf)
            upstream = torch.linspace(-1, 1, out.numel(), device=k.device).view(out.shape).to(out.dtype)
            results.append((out.detach(), torch.autograd.grad(out, leaf, upstream)[0]))
    tolerance = 4 * TOLERANCES[k.dtype]
    return all(close(want, got, tolerance) for got, want in zip(*results, strict=True))


# -- speed ----------------------------------------------------------------------------------------------------------


def arms(fraction: float, rows: int, device: str) -> dict[str, tuple[str | None, Arm]]:
    """Arms by name: the back end and the function from gate and up to what the down projection gets."""
    weight, scale = torch.ones(rows, device=device), torch.tensor(1e-6, device=device)

    def product(gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    def add(k: Tensor, grad: Tensor, factor: Tensor) -> Tensor:
        return add_entropy_gradient(k, grad, factor, "magnitude")

    def penalise(k: Tensor) -> Tensor:
        return inject(k, weight, scale, entropy_gradient_rows, add)

    def lift(gate: Tensor, up: Tensor) -> Tensor:
        return intervene(product(gate, up), fraction)

    def regularise(gate: Tensor, up: Tensor) -> Tensor:
        return penalise(product(gate, up))

    def both(gate: Tensor, up: Tensor) -> Tensor:
        return penalise(lift(gate, up))

    def joined(gate: Tensor, up: Tensor) -> Tensor:
        return intervene_and_inject(product(gate, up), weight, scale, fraction)

    def fused_lift(gate: Tensor, up: Tensor) -> Tensor:
        return gated(gate, up, fraction=fraction)[0]

    def fused_both(gate: Tensor, up: Tensor) -> Tensor:
        k, entropy = gated(gate, up, fraction=fraction, normalization="magnitude")
        assert entropy is not None
        return inject_value(k, entropy, weight, scale)

    return {
        "plain": (None, product),
        "plain again": (None, product),
        "intervention, PyTorch": ("torch", lift),
        "intervention, kernels": (None, lift),
        "intervention, fused": (None, fused_lift),
        "regularisation, PyTorch": ("torch", regularise),
        "regularisation, kernels": (None, regularise),
        "both, PyTorch": ("torch", both),
        "both, kernels": (None, both),
        "both, kernels joined": (None, joined),
        "both, fused": (None, fused_both),
    }


def run(arm: tuple[str | None, Arm], gate: Tensor, up: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    backend, function = arm
    with use_backend(backend):
        return torch.autograd.grad(function(gate, up), (gate, up), upstream)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds on the card."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an arm; see the top of this file."""
    torch.manual_seed(0)
    dtype = DTYPES[options.dtype]
    shape = (options.rows, options.width)
    gate, up = (torch.randn(shape, device="cuda", dtype=dtype).requires_grad_() for _ in range(2))
    upstream = torch.randn(shape, device="cuda", dtype=dtype)
    spare = torch.empty_like(upstream)
    todo = arms(options.fraction, options.rows, "cuda")
    works: dict[str, Callable[[], object]] = {
        name: lambda arm=arm: run(arm, gate, up, upstream) for name, arm in todo.items()
    }
    works["copy of k"] = lambda: spare.copy_(upstream)
    for work in works.values():  # compiles, tries the kernels, fills the allocator
        work()
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(timed(works[name]))
    memory = {name: footprint(arm, gate, up, upstream) for name, arm in todo.items()}
    found = []
    for name, values in times.items():
        over = [a - b for a, b in zip(values, times["plain"], strict=True)]
        low, middle, high = (options.layers * q for q in statistics.quantiles(over, n=4))
        row: dict[str, Any] = {
            "arm": name,
            "ms": options.layers * statistics.median(values),
            "over_plain_ms": {"low": low, "median": middle, "high": high},
        }
        if name in memory:
            peak, kept = (a - b for a, b in zip(memory[name], memory["plain"], strict=True))
            row |= {"peak_mib": peak / 2**20, "kept_mib": options.layers * kept / 2**20}
        found.append(row)
    return found


def footprint(arm: tuple[str | None, Arm], gate: Tensor, up: Tensor, upstream: Tensor) -> tuple[int, int]:
    """Bytes at the peak of a forward and backward, and bytes that lie between the two, over what was there before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with use_backend(arm[0]):
        out = arm[1](gate, up)
        kept = torch.cuda.memory_allocated() - before
        grads = torch.autograd.grad(out, (gate, up), upstream)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del out, grads
    return peak, kept


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384, help="tokens of a batch")
    parser.add_argument("--width", type=int, default=8960)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--fraction", type=float, default=0.01)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--skip", choices=["right", "speed"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "No GPU that PyTorch can use: there is nothing to measure here.\n"
            "The kernels' results are tested without one by: python -m pytest tests/ops/test_triton.py",
            file=sys.stderr,
        )
        return 2
    checks = []
    if options.skip != "right":
        for dtype in DTYPES.values():
            for width in WIDTHS:
                checks += check(width, dtype, "cuda", rows=256)
    arms_found = speed(options) if options.skip != "speed" else []
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    report = {"environment": environment(), "settings": settings, "right": checks, "speed": arms_found}
    text = json.dumps(report, indent=1)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text if options.json else as_tables(checks, arms_found))
    return 0 if all(row["right"] for row in checks) else 1


def as_tables(checks: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    wrong = [row for row in checks if not row["right"]]
    lines = [f"{len(checks) - len(wrong)} of {len(checks)} checks agree"] if checks else []
    lines += [f"  DIFFERS: {row['dtype']} M = {row['width']}: {row['what']}" for row in wrong]
    if found:
        heads = f"{'ms':>9}{'over plain':>12}{'quartiles':>20}{'peak MiB':>10}{'kept MiB':>10}"
        lines.append(f"{'all layers, forward + backward':<32}{heads}")
    for row in found:
        over = row["over_plain_ms"]
        span = f"{over['low']:+.2f} to {over['high']:+.2f}"
        memory = f"{row['peak_mib']:>10.0f}{row['kept_mib']:>10.0f}" if "peak_mib" in row else ""
        lines.append(f"{row['arm']:<32}{row['ms']:>9.2f}{over['median']:>+12.2f}{span:>20}{memory}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
