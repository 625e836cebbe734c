"""Grafting: masks against sorting by hand, the search against autograd, and arms that end in a graft."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small import IDS, llama, lora, steer, train, weights
from small_trainer import Stop, trainer
from torch import Tensor, nn

import infosteer
from infosteer.core.calibration import take_batches
from infosteer.core.registry import method_info
from infosteer.errors import AttachError, ConfigError, NoEffectError
from infosteer.methods.params.grafting import Grafting, Search, graft, learn_mask
from infosteer.methods.params.grafting.learn import clip_at_rank, soft_mask
from infosteer.methods.params.grafting.masks import (
    changed,
    density,
    distribution,
    inverse,
    magnitude_mask,
    movement_mask,
    overlap,
    random_mask,
    union,
    without,
)
from infosteer.training.compat import task_batches

TASK = [{"input_ids": rows, "labels": rows} for rows in IDS.chunk(3)]


def pair() -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """A model, its layers' weights before some steps, and after them."""
    model = llama()
    start = {name: w for name, w in weights(model).items() if "layers." in name}
    trained = train(model, [], steps=6)
    return model, start, {name: trained[name] for name in start}


def test_masks_hold_the_largest_of_all_tensors_together() -> None:
    _, start, trained = pair()
    total = sum(w.numel() for w in start.values())
    moved = torch.cat([(trained[n] - w).abs().flatten() for n, w in start.items()]).float()
    for share in (0.0, 1e-9, 0.01, 0.5, 1.0):
        count = 0 if share == 0 else max(1, round(share * total))
        mask = movement_mask(start, trained, share)
        flat = torch.cat([mask[name].flatten() for name in start])
        assert int(flat.sum()) == count
        assert density(mask) == count / total
        if 0 < count < total:
            assert moved[flat].min() >= moved[~flat].max()
        for other in (magnitude_mask(trained, share), random_mask(trained, share, seed=3)):
            assert density(other) == count / total
    sizes = torch.cat([trained[name].abs().flatten() for name in start]).float()
    flat = torch.cat([magnitude_mask(trained, 0.1)[name].flatten() for name in start])
    assert sizes[flat].min() >= sizes[~flat].max()
    alike = {"a": torch.ones(5), "b": torch.ones(5)}  # ties: exactly so many, the first ones
    assert movement_mask({n: w * 0 for n, w in alike.items()}, alike, 0.6)["b"].tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert not torch.equal(*(random_mask(alike, 0.5, seed=s)["a"] for s in (0, 2)))


def test_masks_are_put_together_and_compared() -> None:
    first, second = {"w": torch.tensor([1, 1, 0, 0]).bool()}, {"w": torch.tensor([0, 1, 1, 1]).bool()}
    assert union(first, second)["w"].tolist() == [True] * 4
    assert without(first, second)["w"].tolist() == [True, False, False, False]
    assert inverse(first)["w"].tolist() == [False, False, True, True]
    empty = {"w": torch.zeros(4).bool()}
    found = overlap({"a": first, "b": second, "c": empty})
    assert found["a"] == {"a": 1.0, "b": pytest.approx(1 / 3), "c": 0.0}
    assert found["b"]["a"] == 0.5
    both = {"x.0": torch.tensor([True, False]), "x.1": torch.tensor([True, True])}
    places = distribution(both, lambda name: name.split(".")[1])
    assert places["0"] == {"density": 0.5, "share": pytest.approx(1 / 3)}
    assert places["1"] == {"density": 1.0, "share": pytest.approx(2 / 3)}
    with pytest.raises(ConfigError, match="one model"):
        union(first, {"v": torch.zeros(4).bool()})


@pytest.mark.parametrize("kind", ["movement", "random", "magnitude", "learned"])
def test_the_whole_mask_is_the_trained_model_and_none_the_start(kind: str) -> None:
    model, start, trained = pair()
    others = {name: w for name, w in weights(model).items() if name not in start}
    for share, wanted in ((1.0, trained), (0.0, start)):
        if kind == "learned" and share == 0:
            continue  # a search may turn entries over
        made = graft(model, start, trained, TASK, density=share, mask=kind, search=Search(epochs=0))
        assert made.density == share
        assert all(torch.equal(weights(model)[name], w) for name, w in wanted.items())
    half = graft(model, start, trained, density=0.3, mask="movement", inverted=True)
    assert half.density == pytest.approx(0.7, abs=0.01)
    now = weights(model)
    for name, part in half.mask.items():
        assert torch.equal(now[name], torch.where(part, trained[name], start[name]))
    assert all(torch.equal(now[name], w) for name, w in others.items())
    read = changed(start, {name: now[name] for name in start})
    assert all(torch.equal(read[name], part & (trained[name] != start[name])) for name, part in half.mask.items())


def test_gradient_of_the_search_is_autograds() -> None:
    """One step of plain descent on S, against autograd through the soft graft of a function of the weights."""
    generator = torch.Generator().manual_seed(0)
    start, trained, target = (torch.randn(4, 3, generator=generator) for _ in range(3))
    base, search = (
        torch.rand(4, 3, generator=generator) > 0.5,
        Search(epochs=1, optimizer="sgd", rate=7.0, bias=1.0, l1=0.3),
    )
    s = torch.rand(4, 3, generator=torch.Generator().manual_seed(search.seed)).requires_grad_(True)
    gamma = soft_mask(base, s, search.bias)
    loss = ((start + gamma * (trained - start) - target) ** 2).sum() + search.l1 * gamma.mean()
    (slope,) = torch.autograd.grad(loss, s)
    wanted = soft_mask(base, s.detach() - 7.0 * slope, search.bias) > 0.5
    assert not torch.equal(wanted, base)
    parameter, seen = nn.Parameter(torch.zeros(4, 3)), []

    def gradient(_: Any) -> None:
        torch.testing.assert_close(parameter.detach(), (start + gamma * (trained - start)).detach())
        ((parameter - target) ** 2).sum().backward()

    def score(mask: dict[str, Tensor]) -> float:
        seen.append(mask["w"])
        return float(len(seen))

    learned = learn_mask({"w": parameter}, {"w": start}, {"w": trained}, {"w": base}, gradient, TASK[:1], score, search)
    assert torch.equal(seen[0], base)
    assert torch.equal(learned.mask["w"], wanted)
    assert [entry["score"] for entry in learned.history] == [1.0, 2.0]
    kept = learn_mask(
        {"w": parameter}, {"w": start}, {"w": trained}, {"w": base}, gradient, TASK[:1], lambda mask: -len(seen), search
    )
    assert torch.equal(kept.mask["w"], base), "of equal scores the first, which is the base mask's"


def test_a_learnt_mask_is_better_than_its_base_and_keeps_a_budget() -> None:
    model, start, trained = pair()
    found = {}
    for rounding in ("threshold", "budget"):
        search = Search(epochs=8, optimizer="adam", rounding=rounding)
        made = graft(model, start, trained, TASK, density=0.05, search=search)
        scores = [entry["score"] for entry in made.history]
        assert max(scores) > scores[0] + 1e-3
        with torch.no_grad():
            losses = [float(model.eval()(**batch).loss) for batch in TASK]
        assert -sum(losses) / 3 == pytest.approx(max(scores))
        found[rounding] = made
    assert found["budget"].density == pytest.approx(0.05, abs=1e-3)
    again = graft(model, start, trained, TASK, density=0.05, search=Search(epochs=8, optimizer="adam"))
    assert all(torch.equal(again.mask[name], part) for name, part in found["threshold"].mask.items())
    best = graft(model, start, trained, TASK, density=0.05, score=lambda _: 0.0, search=Search(epochs=1))
    assert torch.equal(torch.cat([p.flatten() for p in best.mask.values()]), torch.cat(
        [p.flatten() for p in movement_mask(start, trained, 0.05).values()]))  # fmt: skip


def test_ranked_descent_does_not_depend_on_the_scale_of_the_loss() -> None:
    model, start, trained = pair()
    masks = []
    for factor in (1.0, 1e-6):

        def scaled(found: nn.Module, batch: Any, factor: float = factor) -> Tensor:
            return found(**batch).loss * factor

        made = graft(model, start, trained, TASK, density=0.02, loss=scaled, search=Search(epochs=8, strongest=0.5))
        masks.append(made.mask)
        assert made.history[-1]["score"] > made.history[0]["score"]
    assert all(torch.equal(part, masks[1][name]) for name, part in masks[0].items())
    sizes = torch.tensor([4.0, -2.0, 1.0, 0.5, 0.0])
    s = torch.zeros(5, requires_grad=True)
    for rank, wanted in ((1, sizes / 4), (2, (sizes / 2).clamp(-1, 1)), (5, sizes / 4), (9, sizes / 4)):
        s.grad = sizes.clone()  # where the limit would be 0, the largest is
        clip_at_rank([s], rank)
        torch.testing.assert_close(s.grad, wanted)
    s.grad = torch.zeros(5)
    clip_at_rank([s], 1)
    assert not s.grad.any()


def test_the_model_is_given_back_as_it_was() -> None:
    model, start, trained = pair()
    model.train().requires_grad_(False)
    model.lm_head.weight.requires_grad_(True).grad = torch.ones_like(model.lm_head.weight)
    graft(model, start, trained, TASK, search=Search(epochs=1))
    assert model.training
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["lm_head.weight"]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["lm_head.weight"]


def test_small_moves_of_bfloat16_weights_are_seen() -> None:
    start = {"w": torch.full((1000,), 256.0).bfloat16()}
    trained = {"w": start["w"].clone()}
    trained["w"][::10] = 258.0  # one unit in the last place
    assert torch.equal(movement_mask(start, trained, 0.1)["w"], trained["w"] != start["w"])


def test_an_arm_that_ends_in_a_graft() -> None:
    start, plain = weights(llama()), train(llama(), [], steps=4)
    for settings in ({"mask": "movement"}, {"mask": "learned", "epochs": 2}, {"mask": "movement", "strength": 0.25}):
        model = llama()
        with steer(model, [Grafting(density=0.1, **settings)], task=TASK) as session:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
            for _ in range(4):
                model(input_ids=IDS, labels=IDS).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            session.finish()
            made = session.applied.handles[0].result
            assert session.metrics()["infosteer/grafting/density"] == made.density
        strength = settings.get("strength", 1.0)
        for name, value in weights(model).items():
            if "layers." in name or name == "model.norm.weight":
                rest = (1 - strength) * plain[name] + strength * start[name]
                torch.testing.assert_close(value, torch.where(made.mask[name], plain[name], rest))
            else:
                assert torch.equal(value, plain[name]), "embeddings and head keep what they learnt"


def test_refusals_and_warnings(caplog: pytest.LogCaptureFixture) -> None:
    for wrong in ({"density": 1.1}, {"mask": "best"}, {"parts": "ears"}, {"batches": 0}, {"optimizer": "lion"},
                  {"held_out": 1.0}, {"rounding": "up"}, {"keep": "disk"}):  # fmt: skip
        with pytest.raises(ConfigError):
            Grafting(**wrong)
    assert Grafting.preset("paper").search == Search(epochs=10, rate=1e7, optimizer="sgd", bias=10.0, accumulate=0)
    with pytest.raises(ConfigError, match="batches of the training task"):
        infosteer.steer(llama(), [Grafting()])
    with pytest.raises(ConfigError, match="tokens or labels"):
        infosteer.steer(llama(), [Grafting()], task=[{"input_ids": IDS}])
    with pytest.raises(AttachError, match="adapter"):
        steer(lora(llama(), ["q_proj"]), [Grafting()], task=TASK)
    model, start, trained = pair()
    with pytest.raises(ConfigError, match="needs batches"):
        graft(model, start, trained)
    with pytest.raises(ConfigError, match="same weights"):
        graft(model, start, start, TASK)
    with pytest.raises(ConfigError, match="one model"):
        graft(model, start, {name: w[..., :-1] for name, w in trained.items()}, TASK)
    with pytest.raises(ConfigError, match="one model"):
        graft(model, {"other": IDS}, trained, TASK)
    with caplog.at_level(logging.WARNING, "infosteer"):
        model = llama()
        with steer(model, [Grafting()], task=TASK):
            optimizer = torch.optim.SGD(model.parameters())
            optimizer.step()
    assert "nothing is grafted" in caplog.text
    frozen = llama().requires_grad_(False)
    with steer(frozen, [Grafting()], task=TASK), pytest.raises(NoEffectError, match="grafting"):
        torch.optim.SGD(frozen.lm_head.requires_grad_(True).parameters()).step()


def test_in_a_trainer_and_after_a_kill(tmp_path: Path) -> None:
    """The search gets the same rows again: the same bits as without the kill; and the graft is what is saved."""
    method = {"method": "grafting", "density": 0.2, "epochs": 2, "batches": 2, "held_out": 0.5}

    def made(folder: str) -> Any:
        found = trainer(tmp_path / folder)
        infosteer.attach(found, [method])
        return found

    whole, killed = made("whole"), made("killed")
    start = weights(whole.model)
    whole.train()
    killed.add_callback(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = made("killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    wanted = weights(whole.model)
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, wanted[name]), name
    read = density(
        changed({n: start[n] for n in start if "layers." in n}, {n: wanted[n] for n in wanted if "layers." in n})
    )
    assert 0.05 < read < 0.6


def test_the_cards_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    card = method_info("grafting").card.read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    model = llama()
    exec(snippet, {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1.0), "batches": TASK})
    printed = capsys.readouterr().out
    assert "'movement': {'learned':" in printed


def test_batches_of_a_trainer_are_spread_over_its_rows(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    rows = [row["input_ids"] for row in made.train_dataset]
    found = task_batches(made, 2)  # of 12 rows in batches of 4
    assert [batch["input_ids"].tolist() for batch in found] == [
        [rows[i * 12 // 8] for i in part] for part in (range(4), range(4, 8))
    ]
    assert all(torch.equal(batch["labels"], batch["input_ids"]) for batch in found)
    assert sum(len(batch["input_ids"]) for batch in task_batches(made, 99)) == 12
    made.train_dataset = made.train_dataset.to_iterable_dataset()  # a stream: its first rows
    assert [batch["input_ids"].tolist() for batch in task_batches(made, 2)] == [rows[:4], rows[4:8]]
    assert [len(batch) for batch in take_batches(iter([{"input_ids": 1, "labels": 2, "extra": 3}] * 5), 2)] == [2, 2]
