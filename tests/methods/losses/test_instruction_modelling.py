"""Instruction modelling against explicit sums, its token kinds by hand, and TRL's loss over everything."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steered import batch, gradients, llama
from transformers.integrations.neftune import neftune_post_forward_hook

import infosteer
from infosteer.core.marks import TokenRow
from infosteer.errors import ConfigError, DataError
from infosteer.methods.losses.instruction_modelling import InstructionModelling, weigh_instructions
from infosteer.methods.losses.instruction_modelling.kinds import advice, constant_ends, token_kinds


def row(text: str, parts: list[tuple[str, int, int]], completion: int) -> TokenRow:
    """A row whose tokens are its characters."""
    spans = [(place, place + 1) for place in range(len(text))]
    ids = [ord(letter) for letter in text]
    return TokenRow(row={}, text=text, ids=ids, spans=spans, parts=parts, completion=completion)


def chat(*turns: tuple[str, str]) -> TokenRow:
    """``[content]`` for every turn; the last one is the completion, from behind its bracket on."""
    text, parts = "", []
    for role, content in turns:
        parts.append((role, len(text) + 1, len(text) + 1 + len(content)))
        text += f"[{content}]"
    return row(text, parts, parts[-1][1])


def test_the_mask_is_the_complement_of_the_template() -> None:
    found = token_kinds(chat(("system", "s"), ("user", "uu"), ("assistant", "a"), ("user", "v"), ("assistant", "bb")))
    assert "".join(str(int(kind)) for kind in found) == "01001100100100222"


def test_tokens_that_mix_template_and_text_are_text() -> None:
    mixed = row("<u>\nhi", [("user", 4, 6)], 6)
    spans = [(0, 3), (3, 5), (5, 6), (0, 0)]  # the newline is merged with the text; a token without characters
    mixed = TokenRow(row={}, text=mixed.text, ids=[1, 2, 3, 4], spans=spans, parts=mixed.parts, completion=9)
    assert token_kinds(mixed) == [0, 1, 1, 0]


def test_prompts_and_plain_text() -> None:
    assert token_kinds(row("pp cc.", [("prompt", 0, 2), ("completion", 2, 5)], 2)) == [1, 1, 2, 2, 2, 2]
    assert token_kinds(row("abc", [("text", 0, 3)], 0)) == [2, 2, 2]


def test_constant_ends_by_hand() -> None:
    assert constant_ends([[1, 2, 3, 9], [1, 2, 4, 5, 9], [1, 2, 9, 9]]) == (2, 1)
    assert constant_ends([[1, 2], [1, 2]]) == (2, 0)
    assert constant_ends([[1, 1, 1], [1, 1]]) == (2, 0), "nothing is counted twice"
    assert constant_ends([[1, 2, 3]]) == (0, 0)
    assert constant_ends([[], [1]]) == (0, 0)


def test_constants_are_left_out() -> None:
    rows = [row(f"Q: {word}?\nA: yes", [("prompt", 0, len(word) + 8), ("completion", len(word) + 8, 99)], len(word) + 8)
            for word in ("who", "when")]  # fmt: skip
    plain, masked = InstructionModelling().marks(rows), InstructionModelling(mask_constant=True).marks(rows)
    assert plain[0] == [1] * 11 + [2] * 3
    assert masked[0] == [0] * 5 + [1] + [0] * 5 + [2] * 3, "both begin with 'Q: wh' and end with '?' and 'A: '"
    with pytest.raises(DataError, match="No row has an instruction"):
        InstructionModelling(mask_constant=True).marks([rows[0], rows[0]])
    with pytest.raises(DataError, match="No row has an instruction"):
        InstructionModelling().marks([row("abc", [("text", 0, 3)], 0)])


def test_the_rule_by_token() -> None:
    logits = torch.randn(9, 7, dtype=torch.float64, requires_grad=True)
    targets, kinds = torch.arange(9) % 7, torch.arange(9) % 3
    losses = torch.rand(9, dtype=torch.float64)
    found = weigh_instructions(losses, logits, targets, kinds == 2, kinds.double(), weight=0.3).detach()
    log_p = logits.log_softmax(-1)
    for t in range(9):
        wanted = {0: 0.0, 1: -0.3 * float(log_p.detach()[t, targets[t]]), 2: float(losses[t])}[int(kinds[t])]
        assert float(found[t]) == pytest.approx(wanted)
    bare = weigh_instructions(losses, logits, targets, kinds == 2, weight=0.3)
    torch.testing.assert_close(bare[kinds == 2], losses[kinds == 2])
    torch.testing.assert_close(bare[kinds != 2], 0.3 * F.cross_entropy(logits, targets, reduction="none")[kinds != 2])


def explicit(
    model: Any, rows: dict[str, torch.Tensor], kinds: torch.Tensor, weight: float, divisor: int
) -> torch.Tensor:
    """The loss from full logits: every known next token by its kind."""
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False).logits
    inside = rows["attention_mask"].bool()
    known = inside[:, 1:] & inside[:, :-1]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), rows["input_ids"][:, 1:].flatten(), reduction="none")
    factor = torch.where(kinds == 2, 1.0, torch.where(kinds == 1, weight, 0.0))[:, 1:]
    return (losses * (factor * known).flatten()).sum() / divisor


@pytest.mark.parametrize(("weight", "strength"), [(1.0, 1.0), (0.5, 0.4)])
def test_in_a_session_both_sums_are_divided_by_the_completions_tokens(weight: float, strength: float) -> None:
    rows, model = batch(), llama().double()
    kinds = torch.where(rows["labels"] != -100, 2.0, 1.0)
    kinds[:, :2] = 0
    divisor = int((rows["labels"][:, 1:] != -100).sum())
    wanted = explicit(model, rows, kinds, weight * strength, divisor)
    expected = gradients(model, wanted)
    with infosteer.steer(model, [InstructionModelling(weight=weight, strength=strength)]) as session:
        loss = session.loss(model(**rows, marks_instruction_modelling=kinds, use_cache=False).loss)
        found = gradients(model, loss)
    torch.testing.assert_close(loss.double(), wanted.double(), rtol=1e-5, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


def test_loss_on_everything_loses_the_template_and_keeps_its_divisor() -> None:
    """``completion_only_loss: false``: labels everywhere, so the mean is that of the paper's trainer."""
    rows, model = batch(), llama().double()
    kinds = torch.where(rows["labels"] != -100, 2.0, 1.0)
    kinds[:, 2:4] = 0
    rows["labels"] = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    rows["labels"][3, 2] = -100  # behind padding on the left: nothing that is read predicts it
    divisor = int((rows["labels"][:, 1:] != -100).sum())
    wanted = explicit(model, rows, kinds, 0.7, divisor)
    with infosteer.steer(model, [InstructionModelling(weight=0.7)]) as session:
        out = model(**rows, marks_instruction_modelling=kinds, use_cache=False)
        torch.testing.assert_close(session.loss(out.loss).double(), wanted.double(), rtol=1e-5, atol=0)
    with infosteer.steer(
        model, [InstructionModelling()]
    ) as session:  # no template and weight 1: the trainer's own loss
        out = model(**rows, marks_instruction_modelling=kinds.clamp(min=1), use_cache=False)
        torch.testing.assert_close(session.loss(out.loss), out.loss, rtol=1e-6, atol=0)


def test_without_instructions_it_is_plain_training() -> None:
    rows, model = batch(), llama()
    rows["labels"] = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    with infosteer.steer(model, [InstructionModelling()]) as session:
        plain = model(**rows, use_cache=False).loss
        assert float(session.loss(plain).detach()) == float(plain.detach())


def test_noise_on_embeddings_goes_with_it() -> None:
    """NEFTune, as transformers adds it: the instruction's tokens are read under the same noise as the completion's."""
    rows, model = batch(), llama().double()
    kinds = torch.where(rows["labels"] != -100, 2.0, 1.0)
    divisor = int((rows["labels"][:, 1:] != -100).sum())
    quiet = float(explicit(model, rows, kinds, 0.5, divisor).detach())
    embeddings = model.get_input_embeddings()
    embeddings.neftune_noise_alpha = 5.0
    embeddings.register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(3)
    wanted = float(explicit(model, rows, kinds, 0.5, divisor).detach())
    with infosteer.steer(model, [InstructionModelling(weight=0.5)]) as session:
        torch.manual_seed(3)
        found = session.loss(model(**rows, marks_instruction_modelling=kinds, use_cache=False).loss)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)
    assert abs(wanted - quiet) > 1e-3


def test_both_parts_are_logged() -> None:
    rows, model = batch(), llama()
    kinds = torch.where(rows["labels"] != -100, 2.0, 1.0)
    parts = {}
    for kind in (1.0, 2.0):
        chosen = (kinds == kind)[:, 1:] & rows["attention_mask"][:, 1:].bool() & rows["attention_mask"][:, :-1].bool()
        only = torch.where(kinds == kind, 2.0, 0.0)
        parts[kind] = float(explicit(model, rows, only, 1.0, int(chosen.sum())).detach())
    with infosteer.steer(model, [InstructionModelling(weight=0.3)]) as session:
        out = model(**rows, use_cache=False)
        session.loss(out.loss)
        logged = session.metrics()
    assert logged["infosteer/instruction_modelling/instruction_loss"] == pytest.approx(parts[1.0], rel=1e-5)
    assert logged["infosteer/instruction_modelling/completion_loss"] == pytest.approx(parts[2.0], rel=1e-5)
    assert 0 < logged["infosteer/instruction_modelling/instruction_share"] < 1


def test_advice(caplog: pytest.LogCaptureFixture) -> None:
    assert advice(100, 100, 20_000) is None
    assert advice(10, 100, 10_000) is None
    assert "0.10 instruction tokens" in str(advice(10, 100, 10_001))
    rows = [row("pp" + "c" * 98, [("prompt", 0, 2), ("completion", 2, 100)], 2)]
    with caplog.at_level(logging.INFO):
        InstructionModelling().marks(rows)
        assert "1 of instructions, 98 of completions, 0 of the template" in caplog.text, "the first is never predicted"
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        InstructionModelling().marks(rows * 10_001)
    assert "or with few rows" in caplog.text


def test_settings_are_checked() -> None:
    for wrong in (-0.1, float("nan"), "1"):
        with pytest.raises(ConfigError, match="weight"):
            InstructionModelling(weight=wrong)
    with pytest.raises(ConfigError, match="mask_constant"):
        InstructionModelling(mask_constant=1)
    assert InstructionModelling(weight=0).idle
