"""Marks: one number a token, from the row through batching and the model call to the loss of that token."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch import Tensor

import infosteer
from infosteer.core.contract import Context
from infosteer.core.marks import TokenRow
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.errors import AttachError, ConfigError
from infosteer.training.collate import MarkCollator
from infosteer.training.encode import encode_rows, row_with_tokens
from infosteer.training.loading import load_model
from infosteer.training.settings import TrainSettings
from infosteer.training.sft import train_sft

ROWS = [{"prompt": f"{n} and {n}: ", "completion": "x" * (1 + n % 5)} for n in range(12)]


@dataclasses.dataclass(kw_only=True)
class Echo(LossMethod):
    """Marks every token with its own number, and sees that the loss of each gets the mark of its target."""

    reads_prompts: ClassVar[bool] = True
    marks_tokens: ClassVar[bool] = True
    looks_back: ClassVar[bool] = True

    @classmethod
    def label(cls) -> str:
        return "echo"

    def marks(self, rows: Any) -> list[list[float]]:
        return [[float(token) for token in row.ids] for row in rows]

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        assert tokens.marks is not None
        assert torch.equal(tokens.marks.long(), tokens.targets)
        seen.append(len(losses))
        return 2 * losses

    def measured(self, losses: Tensor, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        return {"tokens": (torch.tensor(float(len(losses))), torch.tensor(2.0))}


seen: list[int] = []


@pytest.mark.parametrize(
    "changes", [{}, {"padding_free": True}, {"gradient_checkpointing": True, "gradient_accumulation_steps": 3}]
)
def test_marks_reach_the_loss_of_their_token(inputs: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    seen.clear()
    logged: list[dict[str, Any]] = []
    settings = {"gradient_checkpointing": False, "gradient_accumulation_steps": 1, "save_model": False, **changes}
    trained = train_sft(
        model=str(inputs / "model"),
        rows=ROWS,
        settings=TrainSettings(per_device_train_batch_size=4, logging_steps=1, warmup_steps=0, **settings),
        methods=[Echo()],
        seed=1,
        output_dir=tmp_path,
        on_log=lambda log, *_: logged.append(log),
    )
    trained.close()
    length = sum(len(row["input_ids"]) - 1 for row in encode_rows(ROWS, trained.tokenizer).rows)
    assert sum(seen) == length
    measured = sum(log["infosteer/echo/tokens"] for log in logged if "infosteer/echo/tokens" in log)
    assert measured * 2 == pytest.approx(length / settings["gradient_accumulation_steps"])


def test_trls_packing_is_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="packing drops"):
        train_sft(
            model=str(inputs / "model"), rows=ROWS, settings=TrainSettings(packing=True), methods=[Echo()], seed=1,
            output_dir=tmp_path,
        )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Back(LossMethod):
    """Adds the log-likelihood of an earlier target, where there is one."""

    looks_back: ClassVar[bool] = True
    marks_tokens: ClassVar[bool] = True

    @classmethod
    def label(cls) -> str:
        return "back"

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        assert tokens.earlier is not None
        assert tokens.marks is not None
        found = tokens.earlier(tokens.marks)
        assert not found.requires_grad
        return losses + torch.where(found.isnan(), 1000.0, found)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk", [5, 1000])
def test_earlier_likelihoods_stay_in_their_sequence(
    inputs: Path, packed: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infosteer.core.token_losses.CHUNK_ROWS", chunk)
    model = load_model(str(inputs / "model")).train()
    length, lags = 7, torch.tensor([[0, 1, 2, 3, 1, 5, 6], [0, 0, 2, 1, 4, 3, 2]]).float()
    ids = torch.randint(2, 200, (2, length))
    with torch.no_grad():
        log_p = model(input_ids=ids).logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    expected = 0.0
    for row in range(2):
        for t in range(length - 1):  # row t predicts token t + 1, whose lag is lags[t + 1]
            lag = int(lags[row, t + 1])
            expected += float(log_p[row, t - lag]) if 1 <= lag <= t else 1000.0
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    if packed:
        labels = ids.clone()
        labels[:, 0] = -100
        positions = torch.arange(length).repeat(1, 2)
        arguments = {"input_ids": ids.view(1, -1), "position_ids": positions, "labels": labels.view(1, -1)}
        lags = lags.view(1, -1)
    with infosteer.steer(model, [Back()]) as session:
        out = model(**arguments, marks_back=lags, use_cache=False)
        change = session.loss(out.loss, num_items=1) - out.loss
        change.backward()
    assert float(change.detach()) == pytest.approx(expected, rel=1e-4)


def test_padding_on_the_left_is_nobodys_past(inputs: Path) -> None:
    model = load_model(str(inputs / "model")).train()
    ids, values = torch.randint(2, 200, (1, 6)), []
    for pad in (0, 3):
        padded = torch.nn.functional.pad(ids, (pad, 0))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (pad, 0))
        marks = torch.nn.functional.pad(torch.full((1, 6), 2.0), (pad, 0))
        with infosteer.steer(model, [Back()]) as session:
            out = model(
                input_ids=padded,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                labels=padded.masked_fill(mask == 0, -100),
                marks_back=marks,
                use_cache=False,
            )
            values.append(float((session.loss(out.loss, num_items=1) - out.loss).detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_marks_of_another_shape_are_refused(inputs: Path) -> None:
    model = load_model(str(inputs / "model")).train()
    ids = torch.randint(2, 200, (2, 5))
    with infosteer.steer(model, [Back()]) as session:
        out = model(input_ids=ids, labels=ids, marks_back=torch.zeros(2, 4))
        with pytest.raises(AttachError, match="line up"):
            session.loss(out.loss)


def test_two_marking_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="one name"):
        encode_rows(ROWS, tiny.make_tokenizer(), methods=[Echo(), Echo(strength=0.5)])
    rows = encode_rows(ROWS, tiny.make_tokenizer(), methods=[Echo(), Echo(strength=0)]).rows
    assert set(rows[0]) == {"input_ids", "labels", "marks_echo"}, "a method that is off marks nothing"


def test_marks_are_cut_and_batched_as_tokens_are() -> None:
    tokenizer = tiny.make_tokenizer()
    rows = encode_rows(ROWS, tokenizer, max_length=11, methods=[Echo()]).rows
    assert all(len(row["marks_echo"]) == len(row["input_ids"]) <= 11 for row in rows)

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        assert set(examples[0]) == {"input_ids", "labels"}
        return {"input_ids": torch.zeros(len(examples), 12)}

    batch = MarkCollator(collate)(rows[:2])
    assert batch["marks_echo"].shape == (2, 12)
    assert batch["marks_echo"][0].tolist() == [
        *map(float, rows[0]["input_ids"]),
        *[0.0] * (12 - len(rows[0]["input_ids"])),
    ]


def texts(row: TokenRow) -> list[tuple[str, str]]:
    return [(name, row.text[start:end]) for name, start, end in row.parts]


def test_parts_of_plain_rows() -> None:
    tokenizer = tiny.make_tokenizer()
    row = row_with_tokens({"prompt": "Who? ", "completion": "Nobody"}, tokenizer)
    assert texts(row) == [("prompt", "Who? "), ("completion", "Nobody")]
    assert row.text == "Who? Nobody<end>"
    assert row.completion == 5
    assert texts(row_with_tokens({"text": "a b"}, tokenizer)) == [("text", "a b")]


def test_parts_of_chats_are_found_whatever_they_repeat() -> None:
    tokenizer = tiny.make_tokenizer(chat=True)
    messages = [
        {"role": "user", "content": "user>assistant"},
        {"role": "assistant", "content": "<end>"},
        {"role": "user", "content": "<user>"},
        {"role": "assistant", "content": "d"},
    ]
    row = row_with_tokens({"messages": messages}, tokenizer)
    assert texts(row) == [(turn["role"], turn["content"]) for turn in messages]
    many = [{"role": ("user", "assistant")[n % 2], "content": str(n)} for n in range(24)]
    assert texts(row_with_tokens({"messages": many}, tokenizer)) == [(turn["role"], turn["content"]) for turn in many]
    tokenizer.chat_template = tiny.TEMPLATE.replace("m['content']", "m['content'] | trim")
    padded = [{"role": "user", "content": "  hi "}, {"role": "assistant", "content": "\nyes"}]
    assert texts(row_with_tokens({"messages": padded}, tokenizer)) == [("user", "hi"), ("assistant", "yes")]


def test_templates_that_rewrite_messages_are_refused() -> None:
    tokenizer = tiny.make_tokenizer(chat=True)
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    for change in ("m['content'] | upper", "m['content'] ~ m['content']", "m['role']"):
        tokenizer.chat_template = tiny.TEMPLATE.replace("m['content']", change)
        with pytest.raises(ConfigError, match="rewrites a message"):
            row_with_tokens({"messages": messages}, tokenizer)
