"""LAPT: only the answer's positions of one layer, against hooks of our own; a step's layer; strength; shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steered import VOCABULARY, llama
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

import infosteer
from infosteer.core.contract import Context
from infosteer.core.registry import build_method
from infosteer.errors import AttachError, ConfigError, DataError, NoEffectError
from infosteer.methods.interventions.latent_perturbation import LatentPerturbation, perturb_states
from infosteer.methods.interventions.latent_perturbation.method import largest_safe_share
from infosteer.ops.counter import mix
from infosteer.training.collate import MarkCollator
from infosteer.training.encode import encode_rows
from infosteer.training.loading import load_tokenizer


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    labels[:, :5] = -100
    return {"input_ids": ids, "labels": labels}


def outputs(model: Any, methods: list[Any], **inputs: torch.Tensor) -> list[torch.Tensor]:
    """What every layer puts out, (B, T, D), as the layer behind it gets it."""
    found: list[torch.Tensor] = []
    with infosteer.steer(model, methods):
        hooks = [
            layer.register_forward_hook(lambda _, __, output: found.append(output.detach()))
            for layer in model.model.layers
        ]
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def test_the_noise_has_the_statistics_of_the_state() -> None:
    h = 2 * torch.randn(6, 64) + 1
    v = perturb_states(h, mix(torch.arange(6))) - h
    torch.testing.assert_close(v.mean(-1), h.mean(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(v.std(-1), h.std(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        perturb_states(h, mix(torch.arange(6)), 2.0, 0.5), h + v, atol=1e-5, rtol=1e-5
    )  # scale times strength
    leaf = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(perturb_states(leaf, mix(torch.arange(6))).sum(), leaf)
    assert torch.equal(gradient, torch.ones_like(h)), "the noise is a constant"


def test_only_the_positions_that_predict_the_answer_are_perturbed() -> None:
    model, rows = llama(), batch()
    plain = outputs(model, [], **rows)
    noisy = outputs(model, [LatentPerturbation(layers=[1])], **rows)
    assert torch.equal(noisy[0], plain[0])
    changed = (noisy[1] != plain[1]).any(-1)
    wanted = torch.zeros(9, dtype=torch.bool)
    wanted[4:8] = True  # the labels of places 5 to 8 are predicted at 4 to 7
    assert torch.equal(changed, wanted.expand(3, 9))
    everywhere = outputs(model, [LatentPerturbation(layers=[1], positions="all")], **rows)
    assert (everywhere[1] != plain[1]).any(-1).all()
    without = outputs(model, [LatentPerturbation(layers=[1])], input_ids=rows["input_ids"])
    assert (without[1] != plain[1]).any(-1).all(), "without labels every row counts"


def test_the_published_positions_are_the_answers_own() -> None:
    model, rows = llama(), batch()
    plain = outputs(model, [], **rows)
    noisy = outputs(model, [LatentPerturbation(layers=[1], positions="response")], **rows)
    wanted = torch.zeros(9, dtype=torch.bool)
    wanted[5:] = True  # tokens 5 to 8 carry loss
    assert torch.equal((noisy[1] != plain[1]).any(-1), wanted.expand(3, 9))


@pytest.mark.parametrize("packed", [False, True])
def test_each_row_in_the_layer_that_it_names(packed: bool) -> None:
    """Against one call for each row with that layer alone; padded, and all rows in one sequence."""
    rows = [
        {"prompt": "Who is it?", "completion": " It is Ann.", "about": {"layer": 1}},
        {"prompt": "Who?", "completion": " Nobody that anybody here knows of.", "about": {"layer": 0}},
        {"prompt": "And who is this?", "completion": " Bob."},
    ]
    method = LatentPerturbation(at_once="row", layers=[0, 1])
    tokenizer = load_tokenizer("embedded")
    encoded = encode_rows(rows, tokenizer, methods=[method]).rows
    assert [row["marks_latent_perturbation"][-1] for row in encoded] == [2.0, 1.0, 0.0]
    collate = MarkCollator(DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=packed))
    inputs = collate(encoded)
    model = llama(vocab_size=len(tokenizer))
    plain = outputs(model, [], **{name: value for name, value in inputs.items() if "marks" not in name})
    mixed = outputs(model, [method], **inputs)
    lengths = [len(row["input_ids"]) for row in encoded]
    for number, row in enumerate(encoded):
        begin = sum(lengths[:number])
        place = (0, slice(begin, begin + lengths[number])) if packed else (number, slice(0, lengths[number]))
        counted = [label != -100 for label in row["labels"][1:]] + [False]
        for layer in (0, 1):
            changed = (mixed[layer][place] != plain[layer][place]).any(-1)
            own = rows[number].get("about", {}).get("layer")
            assert changed[torch.tensor(counted)].all() == (own is not None and own <= layer)
            if own == layer:  # layers behind see the change from their own attention
                assert torch.equal(changed, torch.tensor(counted))
        alone = MarkCollator(DataCollatorForLanguageModeling(tokenizer.pad_token_id))([row])
        if own is not None and not packed:  # the same noise, whatever stands beside the row
            one = LatentPerturbation(at_once="all", layers=[own])
            marks = alone.pop("marks_latent_perturbation")
            assert marks.eq(own + 1).all()
            torch.testing.assert_close(mixed[own][place], outputs(model, [one], **alone)[own][0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_rows_layers_survive_a_recompute_and_another_order_of_the_batch(reentrant: bool) -> None:
    marks = torch.tensor([[2.0], [0.0], [1.0]]).expand(3, 9)

    def found(order: list[int], checkpointing: bool) -> dict[str, torch.Tensor]:
        model, rows = llama(), {**batch(), "marks_latent_perturbation": marks}
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        with infosteer.steer(model, [LatentPerturbation(at_once="row")]) as session:
            inputs = {name: value[order] for name, value in rows.items()}
            session.loss(model(**inputs, use_cache=False).loss).backward()
        return {name: p.grad for name, p in model.named_parameters()}

    wanted = found([0, 1, 2], False)
    for order, checkpointing in (([0, 1, 2], True), ([2, 0, 1], False)):
        for name, gradient in found(order, checkpointing).items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6)


def test_rows_without_layers_and_batches_without_marks_are_refused() -> None:
    tokenizer, method = load_tokenizer("embedded"), LatentPerturbation(at_once="row", layers=[1])
    row = {"prompt": "Who?", "completion": " Ann."}
    for about, words in (({}, "in which layer"), ({"layer": "1"}, "number from 0"), ({"layer": -1}, "number from 0")):
        with pytest.raises(DataError, match=words):
            encode_rows([{**row, "about": about}], tokenizer, methods=[method])
    with infosteer.steer(llama(), [method]) as session, pytest.raises(AttachError, match="rows' layers"):
        session.model(**batch(), use_cache=False)
    marks = torch.full((3, 9), 1.0)
    with infosteer.steer(llama(), [method]) as session, pytest.raises(ConfigError, match="not perturbed"):
        session.model(**batch(), marks_latent_perturbation=marks, use_cache=False)


def test_one_layer_a_step_and_every_layer_has_its_turn() -> None:
    method, k, keys = LatentPerturbation(), torch.randn(4, 8), mix(torch.arange(4))
    turns = set()
    for step in range(40):
        acting = [
            layer
            for layer in (1, 3, 4)
            if method.edit(k, Context(layer=layer, step=step, strength=1.0, keys=keys, layers=(1, 3, 4))) is not k
        ]
        assert len(acting) == 1
        turns.add(acting[0])
    assert turns == {1, 3, 4}
    both = LatentPerturbation(at_once="all")
    first, second = (
        both.edit(k, Context(layer=layer, step=0, strength=1.0, keys=keys, layers=(0, 1))) for layer in (0, 1)
    )
    assert not torch.equal(first, second), "each layer has noise of its own"


def test_new_noise_in_every_step_the_same_in_a_repeat_and_none_in_evaluation() -> None:
    def losses() -> list[float]:
        model = llama()
        optimizer, found = torch.optim.SGD(model.parameters(), lr=0.0), []
        with infosteer.steer(model, [LatentPerturbation(layers=[1])]) as session:
            for _ in range(2):
                loss = model(**batch(), use_cache=False).loss
                session.loss(loss).backward()
                optimizer.step()
                found.append(float(loss.detach()))
            model.eval()
            found.append(float(model(**batch(), use_cache=False).loss.detach()))
        return found

    found = losses()
    assert found == losses()
    plain = float(llama().eval()(**batch(), use_cache=False).loss.detach())
    assert found[0] != found[1]
    assert found[2] == plain
    assert plain not in found[:2]


def test_hooks_go_and_leave_the_logits_bit_for_bit() -> None:
    model, rows = llama(), batch()
    before = model(**rows, use_cache=False).logits
    with infosteer.steer(model, [LatentPerturbation(scope="always")]):
        model.eval()
        assert not torch.equal(model(**rows, use_cache=False).logits, before)
    model.train()
    assert torch.equal(model(**rows, use_cache=False).logits, before)


def test_it_goes_with_an_edit_a_penalty_and_a_probe_of_layers() -> None:
    model = llama()
    methods = [
        {"method": "key_lift"}, {"method": "key_entropy"}, LatentPerturbation(layers=[0]),
        {"method": "geometry", "states": "layers", "every": 1},
    ]  # fmt: skip
    with infosteer.steer(model, methods) as session:
        session.loss(model(**batch(), use_cache=False).loss).backward()
        assert session.metrics()["infosteer/geometry/rankme/layer_0"] > 1


def test_noise_without_size_is_off_and_a_step_without_forward_is_an_error() -> None:
    assert LatentPerturbation(scale=0.0).off
    model = llama()
    with infosteer.steer(model, [LatentPerturbation()]), pytest.raises(NoEffectError):
        torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_shares_of_the_way_back() -> None:
    scores = {0.1: 0.50, 0.3: 0.46, 0.5: 0.44, 0.4: 0.452}
    assert largest_safe_share(scores, 0.5) == 0.4
    assert largest_safe_share({0.5: 0.1}, 0.5) == 0.0
    with pytest.raises(ConfigError):
        largest_safe_share({1.5: 0.5}, 0.5)


@pytest.mark.parametrize("settings", [{"scale": -1}, {"positions": "prompt"}, {"at_once": "two"}, {"layers": [9]}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        infosteer.steer(llama(), [build_method({"method": "interventions/latent_perturbation", **settings})])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_of_the_way_is_the_start_and_all_of_it_the_tuned_model(share: float) -> None:
    def tuned(methods: list[Any]) -> dict[str, torch.Tensor]:
        model = llama()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with infosteer.steer(model, methods) as session:
            session.loss(model(**batch(), use_cache=False).loss).backward()
            optimizer.step()
            session.finish()
        return dict(model.state_dict())

    lapt: list[Any] = [LatentPerturbation()]
    found = tuned([*lapt, {"method": "weight_interpolation", "alpha": share}])
    wanted = dict(llama().state_dict()) if share == 0 else tuned(lapt)
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
