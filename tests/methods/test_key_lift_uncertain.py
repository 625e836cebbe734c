"""key_lift where the model before training was uncertain: which rows, asked when, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from steered import VOCABULARY, batch, gradients, llama, watch
from test_key_lift import checkpointed
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import infosteer
from infosteer.core.base_model import BaseModel
from infosteer.core.ledger import Call
from infosteer.errors import ArchitectureError, AttachError, ConfigError
from infosteer.functional import intervene

FRACTION = 0.2


def entropy_of(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    """(B, T): what the model does not know of the next token, in nats, by its own logits."""
    with torch.no_grad():
        logits = model(**{k: rows[k] for k in ("input_ids", "attention_mask")}, use_cache=False).logits.double()
    return torch.distributions.Categorical(logits=logits).entropy()


def threshold(rows: dict[str, Tensor]) -> float:
    """An uncertainty that about half of the rows of an untrained model have, far from any of theirs."""
    values = entropy_of(llama(), rows).flatten().sort().values
    low, high = values[len(values) // 2 - 1], values[len(values) // 2]
    assert high - low > 1e-5
    return float(low + high) / 2


def test_rows_that_the_model_before_training_was_uncertain_of_are_lifted_and_no_others() -> None:
    rows, seen = batch(), {}
    bound = threshold(rows)
    chosen = entropy_of(llama(), rows) >= bound
    for name, methods in {
        "plain": [],
        "uncertain": [infosteer.Intervention(fraction=FRACTION, layers=[0], uncertain_from=bound)],
    }.items():
        model = llama()
        with infosteer.steer(model, methods):
            watched = watch(model)
            model(**rows, use_cache=False)
        seen[name] = watched[0][0]
    lifted = intervene(seen["plain"], fraction=FRACTION)
    assert 0 < int(chosen.sum()) < chosen.numel()
    assert torch.equal(seen["uncertain"], torch.where(chosen.unsqueeze(-1), lifted, seen["plain"]))


def test_it_is_the_model_before_training_that_is_asked_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = batch(), []
    bound, entropy = threshold(rows), BaseModel.entropy

    def counting(self: BaseModel, call: Call) -> Tensor:
        asked.append(entropy(self, call))
        return asked[-1]

    monkeypatch.setattr(BaseModel, "entropy", counting)
    model = llama()
    wanted = entropy_of(model, rows).flatten().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with infosteer.steer(model, [infosteer.Intervention(fraction=FRACTION, uncertain_from=bound)]) as session:
        for _ in range(3):
            session.loss(model(**rows, use_cache=False).loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert len(asked) == 3, "two layers, three calls"
    for found in asked:
        torch.testing.assert_close(found, wanted)
    assert not torch.allclose(entropy_of(model, rows).flatten().float(), wanted, atol=1e-2)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recompute_lifts_the_same_rows(reentrant: bool) -> None:
    rows = batch()
    methods = [infosteer.Intervention(fraction=FRACTION, uncertain_from=threshold(rows), tokens="answer")]
    found = []
    for checkpoints in (False, True):
        model = llama()
        with infosteer.steer(model, methods) as session:
            if checkpoints:
                checkpointed(model, reentrant)
            found.append(gradients(model, session.loss(model(**rows, use_cache=False).loss)))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_bound_below_every_row_lifts_them_all() -> None:
    rows, found = batch(), []
    for bound in (0.0, 1e-9):
        model = llama()
        with infosteer.steer(model, [infosteer.Intervention(fraction=FRACTION, uncertain_from=bound)]) as session:
            found.append(gradients(model, session.loss(model(**rows, use_cache=False).loss)))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


def base_entropies(model: nn.Module, monkeypatch: pytest.MonkeyPatch, **inputs: Tensor) -> Tensor:
    """What the base said of the rows of one call, (N,)."""
    said, entropy = [], BaseModel.entropy

    def kept(self: BaseModel, call: Call) -> Tensor:
        said.append(entropy(self, call))
        return said[-1]

    monkeypatch.setattr(BaseModel, "entropy", kept)
    with infosteer.steer(model, [infosteer.Intervention(fraction=FRACTION, uncertain_from=0.1)]):
        model(**inputs)
    monkeypatch.undo()
    return said[0]


def own_entropies(model: nn.Module, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.distributions.Categorical(logits=model.eval()(**inputs).logits.double()).entropy().flatten()


def test_the_base_reads_masks_and_positions_as_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = batch()
    ids, mask = rows["input_ids"], rows["attention_mask"]
    documents = torch.arange(9) // 5  # two in each row: none sees the other
    blocks = torch.tril(documents[:, None] == documents[None]).expand(4, 1, 9, 9)
    gpt2 = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCABULARY, initializer_range=0.3, n_positions=32)
    torch.manual_seed(0)
    shifted = {"attention_mask": mask, "position_ids": torch.arange(9).expand(4, 9) + 3}
    for model, more in (
        (llama(), {"attention_mask": torch.where(blocks, 0.0, -1e9)}),
        (GPT2LMHeadModel(gpt2).train(), shifted),
    ):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        told = base_entropies(model, monkeypatch, input_ids=ids, use_cache=False, **more)
        alone = own_entropies(model, input_ids=ids, use_cache=False)
        wanted = own_entropies(model, input_ids=ids, use_cache=False, **more)
        torch.testing.assert_close(told.double(), wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(alone, wanted, atol=1e-2)


def test_a_call_that_goes_on_from_a_cache_is_refused() -> None:
    model, ids = llama(), batch()["input_ids"]
    cache = model(input_ids=ids[:, :5], use_cache=True).past_key_values
    with (
        infosteer.steer(model, [infosteer.Intervention(uncertain_from=1.0)]),
        pytest.raises(AttachError, match="whole sequence"),
    ):
        model(input_ids=ids[:, 5:], past_key_values=cache)


def test_what_cannot_be_kept_is_refused_when_steering_begins() -> None:
    method = infosteer.Intervention(uncertain_from=1.0)
    model = llama()
    with torch.device("meta"):
        model.lm_head.weight = nn.Parameter(torch.empty(VOCABULARY, 16))
    with pytest.raises(AttachError, match="does not hold its weights") as caught:
        BaseModel(model)
    assert "lm_head" in str(caught.value)
    sharded = llama()
    sharded.lm_head.weight.placements = ()  # what tells a DTensor
    with pytest.raises(AttachError, match="a sharded parameter"):
        infosteer.steer(sharded, [method])
    with pytest.raises(ArchitectureError, match="language-model head"), infosteer.steer(llama().model, [method]):
        pass


def test_the_base_has_the_adapters_that_were_on() -> None:
    rows = batch()
    adapted = get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(2))
    wanted = entropy_of(adapted, rows).flatten()
    bare = entropy_of(llama(), rows).flatten()
    assert not torch.allclose(wanted, bare, atol=1e-2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        told = base_entropies(adapted.train(), monkeypatch, **rows, use_cache=False)
    torch.testing.assert_close(told.double(), wanted, rtol=1e-4, atol=1e-5)


def test_outside_training_it_cannot_be_asked() -> None:
    for scope in ("always", "evaluation", "policy"):
        with pytest.raises(ConfigError, match="whole sequences"):
            infosteer.Intervention(uncertain_from=1.0, scope=scope)
    for wrong in (-1.0, math.nan, "much"):
        with pytest.raises(ConfigError, match="uncertain_from"):
            infosteer.Intervention(uncertain_from=wrong)


def test_without_token_numbers_it_says_so() -> None:
    rows, model = batch(), llama()
    states = model.get_input_embeddings()(rows.pop("input_ids")).detach()
    with (
        infosteer.steer(model, [infosteer.Intervention(uncertain_from=1.0)]),
        pytest.raises(AttachError, match="uncertain_from"),
    ):
        model(inputs_embeds=states, **rows, use_cache=False)
