"""Speed of the tensor maths beside plain PyTorch and beside the layer that it is added to.

Everything is run in turn, round after round, in one process; the figures are medians over rounds, and shares medians of
the ratios within a round, so that a busy machine disturbs both sides alike. "plain layer again" shows the noise.

    python benchmarks/ops.py [--rounds 15] [--threads 2] [--rows 512] [--hidden 896] [--width 4864] [--dtype float32]

A second table has the edit alone by fraction: by native code, by places and by a mask in PyTorch, and written down
plainly; the last have edit, penalty and both alone by the number of rows and by width. ``--output`` keeps them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import torch
from overhead import write_json
from torch import Tensor
from torch.nn import functional

from infosteer.ops.backends import use_backend
from infosteer.ops.entropy import entropy_gradient_rows
from infosteer.ops.inject import inject
from infosteer.ops.intervene import intervene
from infosteer.ops.steered import add_entropy_gradient
from infosteer.ops.together import intervene_and_inject

FRACTION = 0.01
FRACTIONS = (0.01, 0.03, 0.1, 0.25, 0.5)
ROWS = (256, 512, 1024, 2048, 4096)
WIDTHS = (1024, 4864, 8960, 11008, 18944)


class Layer(torch.nn.Module):
    """Attention and a gated FFN, with a place for one function of the key coefficients."""

    def __init__(self, hidden: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = max(1, hidden // 64)
        self.qkvo = torch.nn.ModuleList(torch.nn.Linear(hidden, hidden, bias=False, dtype=dtype) for _ in range(4))
        self.gate, self.up = (torch.nn.Linear(hidden, width, bias=False, dtype=dtype) for _ in range(2))
        self.down = torch.nn.Linear(width, hidden, bias=False, dtype=dtype)

    def forward(self, x: Tensor, steer: Callable[[Tensor], Tensor] | None) -> Tensor:
        b, t, d = x.shape
        h = functional.layer_norm(x, (d,))
        q, k, v = (linear(h).view(b, t, self.heads, -1).transpose(1, 2) for linear in self.qkvo[:3])
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.qkvo[3](mixed.transpose(1, 2).reshape(b, t, d))
        h = functional.layer_norm(x, (d,))
        coefficients = functional.silu(self.gate(h)) * self.up(h)
        return x + self.down(coefficients if steer is None else steer(coefficients))


def naive_intervene(k: Tensor, fraction: float = FRACTION) -> Tensor:
    m = max(1, round(fraction * k.shape[-1]))
    index = torch.sort(k.detach().abs(), dim=-1, stable=True).indices[..., :m]
    mask = torch.zeros_like(k, dtype=torch.bool).scatter(-1, index, True)
    mean = k.float().abs().mean(-1, keepdim=True)
    return torch.where(mask, torch.where(k < 0, -mean, mean).to(k.dtype), k)


def naive_intervene_topk(k: Tensor, fraction: float = FRACTION) -> Tensor:
    m = max(1, round(fraction * k.shape[-1]))
    index = torch.topk(k.detach().abs(), m, dim=-1, largest=False).indices
    mask = torch.zeros_like(k, dtype=torch.bool).scatter(-1, index, True)
    mean = k.float().abs().mean(-1, keepdim=True)
    return torch.where(mask, torch.where(k < 0, -mean, mean).to(k.dtype), k)


def naive_entropy_loss(k: Tensor) -> Tensor:
    p = k.float().abs()
    p = p / p.sum(-1, keepdim=True)
    return -torch.special.xlogy(p, p).sum()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def by_fraction(k: Tensor, upstream: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of edit and backward pass, by fraction and by way."""

    def forced(share: float, fraction: float) -> Tensor:
        with mock.patch("infosteer.ops.masked_rows.MASK_FROM", share):
            return edited_by("torch", fraction)

    def edited_by(backend: str, fraction: float) -> Tensor:
        with use_backend(backend):
            return differentiated(intervene(k, fraction))

    def differentiated(edited: Tensor) -> Tensor:
        return torch.autograd.grad(edited, k, upstream)[0]

    found: dict[str, dict[str, float]] = {}
    for fraction in FRACTIONS:
        ways: dict[str, Callable[[], Tensor]] = {
            "native": lambda fraction=fraction: edited_by("native", fraction),
            "PyTorch, places": lambda fraction=fraction: forced(1.0, fraction),
            "PyTorch, mask": lambda fraction=fraction: forced(0.0, fraction),
            "plain, top-k": lambda fraction=fraction: differentiated(naive_intervene_topk(k, fraction)),
            "plain, sort": lambda fraction=fraction: differentiated(naive_intervene(k, fraction)),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(-1, rounds):
            for way, work in ways.items():
                seconds = timed(work)
                if turn >= 0:
                    times[way].append(seconds)
        found[f"{fraction:g}"] = {way: 1e3 * statistics.median(values) for way, values in times.items()}
    return found


def by_shape(shapes: Mapping[str, tuple[int, int]], dtype: torch.dtype, rounds: int) -> dict[str, dict[str, float]]:
    """Best milliseconds of edit, penalty and both, forward and backward, for rows of named shapes; beside two copies of
    the rows, the memory traffic that an edit cannot do without."""
    scale = torch.tensor(1e-6)

    def add(k: Tensor, gradient: Tensor, factor: Tensor) -> Tensor | None:
        return add_entropy_gradient(k, gradient, factor, "magnitude")

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "edit": lambda k: intervene(k, FRACTION),
        "penalty": lambda k: inject(k, None, scale, entropy_gradient_rows, add),
        "both": lambda k: intervene_and_inject(k, None, scale, FRACTION),
        "two copies": lambda k: k.clone(),  # one in the forward, and what autograd hands on is copied below
    }
    inputs = {name: torch.randn(shape, dtype=dtype, requires_grad=True) for name, shape in shapes.items()}
    grads = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    times: dict[tuple[str, str], list[float]] = {(name, way): [] for name in shapes for way in ways}
    for turn in range(-1, rounds):
        for name, way in times:

            def work(name: str = name, way: str = way) -> None:
                (found,) = torch.autograd.grad(ways[way](inputs[name]), inputs[name], grads[name])
                if way == "two copies":
                    found.clone()

            seconds = timed(work)
            if turn >= 0:
                times[name, way].append(seconds)
    return {name: {way: 1e3 * min(times[name, way]) for way in ways} for name in shapes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--width", type=int, default=4864)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--output", type=Path, help="write the table by fraction to this file, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)

    layer = Layer(options.hidden, options.width, dtype)
    x = torch.randn(1, options.rows, options.hidden, dtype=dtype, requires_grad=True)
    k = (functional.silu(torch.randn(options.rows, options.width)) * torch.randn(options.rows, options.width)).to(dtype)
    k.requires_grad_()
    upstream = torch.randn_like(k)
    scale = torch.tensor(1e-6)

    def through_layer(steer: Callable[[Tensor], Tensor] | None) -> Callable[[], object]:
        return lambda: layer(x, steer).sum().backward()

    def alone(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(k), k, upstream)

    def lift(k: Tensor) -> Tensor:
        return intervene(k, FRACTION)

    def penalise(k: Tensor) -> Tensor:
        return inject(k, None, scale, entropy_gradient_rows, add_rows)

    def add_rows(k: Tensor, gradient: Tensor, factor: Tensor) -> Tensor | None:
        return add_entropy_gradient(k, gradient, factor, "magnitude")

    works: dict[str, Callable[[], object]] = {
        "plain layer": through_layer(None),
        "layer + intervene": through_layer(lift),
        "layer + inject entropy": through_layer(penalise),
        "layer + both": through_layer(lambda k: intervene_and_inject(k, None, scale, FRACTION)),
        "plain layer again": through_layer(None),
        "intervene alone": alone(lift),
        "  naive, sort": alone(naive_intervene),
        "  naive, topk": alone(naive_intervene_topk),
        "inject entropy alone": alone(penalise),
        "  naive entropy loss": lambda: torch.autograd.grad(naive_entropy_loss(k), k),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():  # first calls allocate and pick kernels
        work()
    for _ in range(options.rounds):
        for name, work in works.items():
            times[name].append(timed(work))

    print(f"rows {options.rows}, d {options.hidden}, M {options.width}, {options.dtype}, {options.threads} threads")
    print(f"{'forward + backward':<26}{'median ms':>10}{'best ms':>10}{'of layer':>10}{'over plain':>12}")
    for name, values in times.items():
        share = statistics.median(a / b for a, b in zip(values, times["plain layer"], strict=True))
        over = f"{share - 1:+.1%}" if "layer" in name else ""
        print(f"{name:<26}{1e3 * statistics.median(values):>10.2f}{1e3 * min(values):>10.2f}{share:>10.1%}{over:>12}")

    fractions = by_fraction(k, upstream, options.rounds)
    print("\nedit and backward pass alone, median ms")
    for fraction, row in fractions.items():
        print(f"{fraction:>6}  " + "  ".join(f"{way} {value:.2f}" for way, value in row.items()))
    shape = {name: getattr(options, name) for name in ("rows", "width", "dtype", "threads", "rounds")}
    print("\nforward and backward alone, best ms, by rows and by width")
    sizes = {
        "by_rows": by_shape({str(rows): (rows, options.width) for rows in ROWS}, dtype, options.rounds),
        "by_width": by_shape({str(width): (options.rows, width) for width in WIDTHS}, dtype, options.rounds),
    }
    for found in sizes.values():
        for name, row in found.items():
            print(f"{name:>6}  " + "  ".join(f"{way} {value:.2f}" for way, value in row.items()))
    result = {"shape": shape, "torch": torch.__version__, "fractions": fractions, **sizes}
    write_json(result, options.output)


if __name__ == "__main__":
    main()
