"""GaLore against its lines written out, and against the authors' package."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import IDS, llama, steer, weights
from tests.scripts import load_script
from torch import Tensor, nn
from transformers.optimization import Adafactor

from infosteer.errors import AttachError, ConfigError, NoEffectError
from infosteer.methods.params.galore import Basis, GaLore, LowRank, find_basis, state_bytes
from infosteer.methods.params.galore.low_rank import Settings
from infosteer.methods.params.galore.projection import MODES, projected_shape, sides
from infosteer.methods.params.galore.tucker import TuckerBasis, find_tucker

ROOT = Path(__file__).resolve().parents[3]
SHAPES = {"tall": (9, 5), "wide": (5, 9), "square": (6, 6)}
PROJECTED = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "up_proj.weight", "gate_proj.weight",
             "down_proj.weight")  # fmt: skip


def handle(parameter: nn.Parameter, rank: int, **changes: Any) -> LowRank:
    settings = {"proj_type": "std", "update_proj_gap": 3, "scale": 1.0, "solver": "exact", "rotate": False, "seed": 0}
    return LowRank([(parameter, rank)], Settings(**{**settings, **changes}))


def step(found: LowRank, optimizer: torch.optim.Optimizer) -> None:
    found.see_optimizer(optimizer, 0, None)
    found.before_step(1.0)
    optimizer.step()
    found.after_step(1.0)


def gradients(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def by_hand(
    weight: Tensor,
    steps: list[Tensor],
    mode: str,
    rank: int,
    gap: int,
    *,
    lr: float = 0.1,
    wd: float = 0.2,
    scale: float = 0.25,
) -> Tensor:
    """The paper's lines with numpy-like products of whole matrices: projectors (m, m) and (n, n) instead of bases."""
    w = weight.clone()
    p = q = None
    m = v = torch.zeros(())
    for t, g in enumerate(steps):
        if t % gap == 0:
            u, _, vh = torch.linalg.svd(g)
            tall = g.shape[0] >= g.shape[1]
            use_right = mode in ("right", "full") or (mode == "std" and tall) or (mode == "reverse_std" and not tall)
            use_left = mode in ("left", "full") or (mode == "std" and not tall) or (mode == "reverse_std" and tall)
            p = u[:, :rank] if use_left else torch.eye(g.shape[0]).double()
            q = vh[:rank] if use_right else torch.eye(g.shape[1]).double()
        r = p.T @ g @ q.T
        m, v = 0.9 * m + 0.1 * r, 0.999 * v + 0.001 * r * r
        eta = lr * math.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        w = w - eta * scale * (p @ (m / v.sqrt()) @ q)
        w = w - lr * wd * w
    return w


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_papers_update(mode: str, shape: tuple[int, int]) -> None:
    weight, steps = gradients(shape, 1)[0], gradients(shape, 8)[1:]
    parameter = nn.Parameter(weight.clone())
    found = handle(parameter, 2, proj_type=mode, scale=0.25)
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.2, eps=1e-30)
    for gradient in steps:
        parameter.grad = gradient.clone()
        step(found, optimizer)
        assert torch.equal(parameter.grad, gradient)  # given back as it was
    torch.testing.assert_close(parameter.detach(), by_hand(weight, steps, mode, 2, 3), rtol=1e-9, atol=1e-11)
    assert optimizer.state[parameter]["exp_avg"].shape == projected_shape(shape, 2, mode)
    assert optimizer.state[parameter]["exp_avg_sq"].shape == projected_shape(shape, 2, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bases(mode: str, shape: tuple[int, int]) -> None:
    full, low = gradients(shape, 1)[0], gradients((shape[0], 2), 1)[0] @ gradients((2, shape[1]), 1)[0]
    for gradient, rank in ((full, min(shape)), (low, 2)):  # of full rank, or of a rank that is kept
        basis = find_basis(gradient, rank, mode)
        torch.testing.assert_close(basis.lift(basis.project(gradient)), gradient)
        assert basis.project(gradient).shape == projected_shape(shape, rank, mode)
    left, right = sides(shape, mode)
    assert (basis.left is not None, basis.right is not None) == (left, right)
    for side in (basis.left if left else None, basis.right.mT if right else None):
        if side is not None:
            torch.testing.assert_close(side.T @ side, torch.eye(2).double())
    stack = torch.stack([full, low])
    both = find_basis(stack, 2, mode)
    for index, gradient in enumerate(stack):
        one = find_basis(gradient, 2, mode)
        torch.testing.assert_close(both.lift(both.project(stack))[index], one.lift(one.project(gradient)))
    assert find_basis(torch.zeros(shape), 2, mode) is None
    assert find_basis(full.clone().fill_(float("nan")), 2, mode) is None


def test_the_randomized_solver_finds_the_same_directions_and_draws_from_its_seed_alone() -> None:
    strong = gradients((40, 30), 1)[0]
    strong += 50 * gradients((40, 3), 1)[0] @ gradients((3, 30), 1)[0]
    exact, state = find_basis(strong, 3), torch.get_rng_state()
    found, again = (
        find_basis(strong, 3, solver="randomized", seed=4),
        find_basis(strong, 3, solver="randomized", seed=4),
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found.right, again.right)
    difference = found.lift(found.project(strong)) - exact.lift(exact.project(strong))
    assert float(difference.norm() / strong.norm()) < 1e-3
    assert find_basis(strong.bfloat16(), 3).right.dtype == torch.bfloat16


def test_at_full_rank_and_scale_1_sgd_is_plain_sgd() -> None:
    for shape in SHAPES.values():
        weight, steps = gradients(shape, 1)[0], gradients(shape, 5)
        ours, theirs = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
        found = handle(ours, min(shape))
        settings = {"lr": 0.1, "weight_decay": 0.3}  # decay is part of the gradient here
        optimizers = torch.optim.SGD([ours], **settings), torch.optim.SGD([theirs], **settings)
        for gradient in steps:
            ours.grad, theirs.grad = gradient.clone(), gradient.clone()
            step(found, optimizers[0])
            optimizers[1].step()
        torch.testing.assert_close(ours.detach(), theirs.detach())


def test_the_basis_holds_for_the_gap_and_a_gradient_without_directions_leaves_it() -> None:
    parameter = nn.Parameter(gradients((9, 5), 1)[0])
    found, optimizer, seen = handle(parameter, 2), torch.optim.AdamW([parameter], lr=0.1), []
    steps = gradients((9, 5), 9)
    steps[6] = torch.zeros(9, 5).double()
    for gradient in [torch.zeros(9, 5).double(), *steps]:  # one before there is a basis: the parameter is left alone
        parameter.grad, before = gradient, parameter.detach().clone()
        step(found, optimizer)
        assert torch.equal(parameter.detach(), before) == (not seen and not gradient.any())
        if gradient.any() or seen:
            seen.append(optimizer.state[parameter]["galore_right"])
    same = [torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert same == [True, True, False, True, True, True, True, True]  # T = 3; the zero gradient came at step 6


def test_rotation_keeps_what_both_bases_share() -> None:
    """With the same directions in another order the lifted momentum is the same; without rotation it is another."""
    old = find_basis(gradients((9, 5), 1)[0], 3)
    new = Basis(right=old.right[[2, 0, 1]])
    low = gradients((9, 3), 1)[0]
    torch.testing.assert_close(new.lift(new.turn(low, old)), old.lift(low))
    results = {}
    for rotate in (False, True):
        parameter = nn.Parameter(gradients((9, 5), 1)[0])
        found, optimizer = (
            handle(parameter, 2, rotate=rotate, update_proj_gap=1),
            torch.optim.AdamW([parameter], lr=0.1),
        )
        for gradient in gradients((9, 5), 3):
            before = {
                name: value.clone()
                for name, value in optimizer.state.get(parameter, {}).items()
                if isinstance(value, Tensor)
            }
            parameter.grad = gradient
            step(found, optimizer)
        basis, older = (Basis(right=state["galore_right"]) for state in (optimizer.state[parameter], before))
        carried = basis.project(older.lift(before["exp_avg"])) if rotate else before["exp_avg"]
        wanted = 0.9 * carried + 0.1 * basis.project(gradient)
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], wanted)
        results[rotate] = parameter.detach().clone()
    assert not torch.equal(results[False], results[True])
    parameter.grad = gradients((9, 5), 1)[0]
    turned, plain = handle(parameter, 2, rotate=True, update_proj_gap=1), torch.optim.RMSprop([parameter])
    step(turned, plain)
    with pytest.raises(AttachError, match="cannot be turned"):
        step(turned, plain)


def test_measured_state_is_what_the_formula_says() -> None:
    model = llama().float()
    with steer(model, [GaLore(rank=3)]) as session:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        matrices = {n: p for n, p in model.named_parameters() if n.endswith(PROJECTED)}
        wanted = 0
        for parameter in matrices.values():
            small, large = sorted(parameter.shape)
            wanted += 4 * (small * 3 + 2 * large * 3) + 4  # basis, two moments, and torch's count of steps
            assert {tuple(v.shape) for k, v in optimizer.state[parameter].items() if k.startswith("exp")} <= {
                (parameter.shape[0], 3), (3, parameter.shape[1])
            }  # fmt: skip
        assert state_bytes(optimizer, matrices.values()) == wanted
        metrics = session.metrics()
        assert metrics["infosteer/galore/state_mib"] * 2**20 == pytest.approx(wanted)
        assert metrics["infosteer/galore/matrices"] == len(matrices) == 14
        assert metrics["infosteer/galore/projected_rate"] == pytest.approx(0.25 * 1e-2)
        others = [p for p in model.parameters() if all(p is not q for q in matrices.values())]
        assert state_bytes(optimizer, others) == sum(8 * p.numel() + 4 for p in others)
        assert state_bytes(optimizer) == wanted + state_bytes(optimizer, others)


def test_tensors_of_four_dimensions_are_projected_along_each() -> None:
    """Against einsum with the factors, the moments' shapes, and a convolution's training by hand."""
    shape, rank = (7, 5, 3, 3), 3
    full = gradients(shape, 1)[0]
    basis = find_basis(full, rank)
    assert isinstance(basis, TuckerBasis)
    a, b, c, d = basis.factors
    for factor, n in zip(basis.factors, shape, strict=True):
        assert factor.shape == (n, min(rank, n))
        torch.testing.assert_close(factor.mT @ factor, torch.eye(min(rank, n)).double())
    low = torch.einsum("ijkl,ia,jb,kc,ld->abcd", full, a, b, c, d)
    torch.testing.assert_close(basis.project(full), low)
    torch.testing.assert_close(basis.lift(low), torch.einsum("abcd,ia,jb,kc,ld->ijkl", low, a, b, c, d))
    assert low.shape == projected_shape(shape, rank, "std")
    # of a low rank it is kept whole; otherwise it is kept better than by the unfoldings' directions alone
    small = basis.lift(low)
    again = find_basis(small, rank)
    torch.testing.assert_close(again.lift(again.project(small)), small)
    alone = TuckerBasis(
        factors=tuple(
            torch.linalg.svd(full.movedim(k, 0).flatten(1), full_matrices=False)[0][:, : min(rank, n)]
            for k, n in enumerate(shape)
        )
    )
    lost = [float((full - one.lift(one.project(full))).norm()) for one in (basis, alone)]
    assert lost[0] <= lost[1]
    older = find_basis(gradients(shape, 2)[1], rank)
    torch.testing.assert_close(basis.turn(low, older), basis.project(older.lift(low)))
    parameter, mode = nn.Parameter(gradients(shape, 1)[0]), {"update_proj_gap": 10, "scale": 0.25}
    found, optimizer = handle(parameter, rank, **mode), torch.optim.AdamW([parameter], lr=0.1, eps=1e-30)
    steps, w, m, v = gradients(shape, 4), parameter.detach().clone(), torch.zeros(()), torch.zeros(())
    first = find_basis(steps[0], rank)
    for t, gradient in enumerate(steps, 1):
        parameter.grad = gradient
        step(found, optimizer)
        r = first.project(gradient)
        m, v = 0.9 * m + 0.1 * r, 0.999 * v + 0.001 * r * r
        w = w - 0.1 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * 0.25 * first.lift(m / v.sqrt())
        w = w - 0.1 * 0.01 * w
    torch.testing.assert_close(parameter.detach(), w, rtol=1e-9, atol=1e-11)
    assert optimizer.state[parameter]["exp_avg"].shape == (3, 3, 3, 3)
    sizes = sum(8 * n for n in (7 * 3, 5 * 3, 3 * 3, 3 * 3)) + 2 * 8 * 81 + 4
    assert state_bytes(optimizer) == sizes
    assert find_basis(torch.zeros(shape), rank) is None
    other = handle(parameter, 4, **mode)
    other.see_optimizer(optimizer, 0, None)
    with pytest.raises(AttachError, match="another rank or mode"):
        other.before_step(1.0)
    assert GaLore(rank=0.5).rank_of(shape) == 4
    assert find_tucker(gradients((12, 2, 1, 1), 1)[0], 5).factors[0].shape == (12, 5)  # fewer columns than directions


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_adafactor_goes_by_the_size_of_the_whole_weights(package: str) -> None:
    """Its factored moments and its clipping act on the projection, its size is that of the matrix."""
    weight, steps = gradients((9, 5), 1)[0].float(), [g.float() for g in gradients((9, 5), 5)[1:]]
    parameter = nn.Parameter(weight.clone())
    if package == "torch":
        optimizer = torch.optim.Adafactor([parameter], lr=0.01, weight_decay=0.2)
    else:
        optimizer = Adafactor([parameter], lr=0.01, relative_step=False, scale_parameter=True, weight_decay=0.2)
    found = handle(parameter, 3, update_proj_gap=10, scale=0.5)
    basis, w = find_basis(steps[0], 3), weight.clone()
    row, column = torch.zeros(9), torch.zeros(3)
    for t, gradient in enumerate(steps, 1):
        parameter.grad = gradient.clone()
        step(found, optimizer)
        r = basis.project(gradient)
        # torch's second moment is a mean with weights 1 - t^-0.8, and so is that of transformers
        share = 1 - t**-0.8
        row = share * row + (1 - share) * (r * r).mean(1)
        column = share * column + (1 - share) * (r * r).mean(0)
        update = r / (row[:, None] * column / row.mean()).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        rate = min(0.01, 1 / math.sqrt(t)) if package == "torch" else 0.01
        size = max(1e-3, float(w.square().mean().sqrt()))
        w = w - 0.5 * rate * size * basis.lift(update)
        w = w - 0.2 * 0.01 * (1 if package == "torch" else size) * w
    torch.testing.assert_close(parameter.detach(), w, rtol=1e-4, atol=1e-6)


def test_unsound_settings_optimizers_and_moments_are_refused() -> None:
    for wrong in ({"rank": 0}, {"rank": 2.5}, {"proj_type": "both"}, {"parts": "ears"}, {"parts": []},
                  {"update_proj_gap": 0}, {"scale": -1}, {"solver": "guess"}, {"target_modules": ["("]},
                  {"target_modules": [3]}):  # fmt: skip
        with pytest.raises(ConfigError):
            GaLore(**wrong)
    for strength in (0.5, {"points": [[0, 1.0], [5, 0.0]]}):
        with pytest.raises(ConfigError, match="on or off"):
            steer(llama(), [GaLore(strength=strength)])
    assert GaLore.preset("paper").rank == 128
    assert GaLore.preset("fine-tuning").scale == 4.0
    model = llama()
    started = torch.optim.AdamW(model.parameters())
    model(input_ids=IDS, labels=IDS).loss.backward()
    started.step()
    grouped = torch.optim.AdamW([{"params": list(model.parameters()), "update_proj_gap": 200}])
    timed = Adafactor(model.parameters())
    for optimizer, words in ((started, "whole gradients"), (grouped, "already"), (timed, "its own rate")):
        before = weights(model)
        with steer(model, [GaLore()]) as session:
            with pytest.raises(AttachError, match=words):
                optimizer.step()
            session.remove()
        assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    with steer(model, [GaLore()]) as session:
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.step()
        with session.pause(), pytest.raises(AttachError, match="switched off"):
            optimizer.step()
    with steer(llama().requires_grad_(False), [GaLore()]) as session:
        head = session.model.lm_head.requires_grad_(True)
        with pytest.raises(NoEffectError, match="galore"):
            torch.optim.SGD(head.parameters()).step()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_equals_the_authors_package(mode: str, shape: tuple[int, int]) -> None:
    """galore-torch 1.0 in fp32; it adds its epsilon before the bias correction, torch after it."""
    package = pytest.importorskip(
        "galore_torch", reason="pip install galore-torch (and bitsandbytes, which it imports)"
    )
    start, steps = gradients(shape, 1)[0].float(), [g.float() for g in gradients(shape, 8)[1:]]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = handle(ours, 2, proj_type=mode, scale=0.25)
    settings = {"lr": 0.05, "eps": 1e-6, "weight_decay": 0.1}
    group = {"params": [theirs], "rank": 2, "update_proj_gap": 3, "scale": 0.25, "proj_type": mode}
    optimizer = torch.optim.AdamW([ours], **settings)
    other = package.GaLoreAdamW([group], **settings, no_deprecation_warning=True)
    for t, gradient in enumerate(steps, 1):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.param_groups[0]["eps"] = 1e-6 / math.sqrt(1 - 0.999**t)
        step(found, optimizer)
        other.step()
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=2e-4, atol=2e-5)


def test_quantised_moments() -> None:
    """8-bit AdamW of bitsandbytes steps in the projection: a quarter of the moments' bytes, and close to 32 bits."""
    bnb = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    states, ends = {}, {}
    for name, make in (("8", lambda p: bnb.optim.AdamW8bit(p, lr=1e-2, min_8bit_size=16)), ("32", torch.optim.AdamW)):
        model = llama(hidden_size=64, intermediate_size=128).float()
        with steer(model, [GaLore(rank=16)]) as session:
            optimizer = make(model.parameters()) if name == "8" else make(model.parameters(), lr=1e-2)
            for _ in range(5):
                model(input_ids=IDS, labels=IDS).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            states[name] = session.metrics()["infosteer/galore/state_mib"]
            optimizer.load_state_dict(optimizer.state_dict())
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            ends[name] = float(model(input_ids=IDS, labels=IDS).loss.detach())
    assert states["8"] < 0.55 * states["32"]
    assert ends["8"] == pytest.approx(ends["32"], rel=0.1)


def test_the_card_holds_what_was_measured_beside_the_package() -> None:
    script = load_script("galore_package")
    text = script.CARD.read_text(encoding="utf-8")
    assert "| resume from a checkpoint" in text
    assert script.render(text) == text, "run: python benchmarks/galore_package.py --render"
