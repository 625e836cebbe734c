"""Preferences: losses against explicit formulas, rewards at their tokens, control tokens, filters, the value head."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from steered import batch, llama

import infosteer
from infosteer.core.data import DataContext
from infosteer.core.marks import TokenRow
from infosteer.errors import AttachError, ConfigError, DataError
from infosteer.evaluation.decode import decode
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import run
from infosteer.methods.data.phf import HumanPreferences, LexiconReward, add_rewards
from infosteer.methods.data.phf.method import ALIGNED, MISALIGNED
from infosteer.methods.data.phf.rewards import split
from infosteer.methods.losses.phf import PreferenceLoss, weigh_by_reward
from infosteer.methods.losses.phf.value import ValueHead
from infosteer.training.encode import encode_rows
from infosteer.training.loading import load_model, load_tokenizer
from infosteer.training.new_tokens import add_new_tokens, embed_new_tokens
from infosteer.training.settings import TrainSettings
from infosteer.training.sft import train_sft

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))  # for the tiny models

import tiny

WORDS = ("bad", "worse")
ROWS = [
    {"text": "A good day. A bad day! A day."},
    {"text": "Worse and bad. All fine."},
    {"text": "Nothing here. Nor here."},
]


def made(rows: list[dict[str, Any]], seed: int = 1, strength: float = 1.0, **settings: Any) -> list[dict[str, Any]]:
    context = DataContext(seed=seed, strength=strength, read=lambda *_, **__: [])
    return HumanPreferences(words=WORDS, **settings).transform(rows, context)


# -- the losses -----------------------------------------------------------------------------------------------------


def rows_of(count: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = (2 * torch.randn(count, 5, dtype=torch.float64)).requires_grad_(True)
    targets = torch.arange(count) % 5
    return logits, targets, F.cross_entropy(logits, targets, reduction="none")


REWARDS = torch.tensor([0.0, -0.1, -0.5, -1.0, math.nan, -0.5, 0.3, -2.0, 0.0])


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "unlikelihood", "threshold": -0.5, "alpha": 0.3},
        {"objective": "unlikelihood", "threshold": None, "alpha": 0.3},
        {"objective": "rwr", "beta": 0.2},
        {"objective": "awr", "beta": 0.2, "alpha": 0.3},
    ],
)
def test_the_formulas(settings: dict[str, Any]) -> None:
    logits, targets, losses = rows_of()
    values = torch.linspace(-0.9, -0.1, 9, dtype=torch.float64, requires_grad=True)
    counted = torch.arange(9) != 5
    found = weigh_by_reward(losses, logits, targets, counted, REWARDS, values, **settings)
    p = logits.softmax(-1)[torch.arange(9), targets]
    alpha, beta = settings.get("alpha", 1.0), settings.get("beta", 1.0)
    wanted = []
    for t in range(9):
        reward, loss = float(REWARDS[t]), -p[t].log()
        if math.isnan(reward) or not counted[t]:
            wanted.append(loss)
        elif settings["objective"] == "rwr":
            wanted.append(math.exp(reward / beta) * loss)
        elif settings["objective"] == "awr":
            weight = math.exp((reward - float(values[t].detach())) / beta)
            wanted.append(alpha * weight * loss + (1 - alpha) * (reward - values[t]) ** 2)
        elif settings["threshold"] is None:
            bad = min(max(-reward, 0), 1)
            wanted.append((1 - bad) * loss - bad * alpha * (1 - p[t]).log())
        else:
            wanted.append(loss if reward >= -0.5 else -alpha * (1 - p[t]).log())  # a tie is aligned
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-6, atol=1e-8)
    both = (logits, values) if settings["objective"] == "awr" else (logits,)
    project = torch.randn(9, dtype=torch.float64)
    ours = torch.autograd.grad((found * project).sum(), both, retain_graph=True)
    theirs = torch.autograd.grad((torch.stack(wanted) * project).sum(), both)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_with_rewards_of_zero_they_are_the_likelihood() -> None:
    logits, targets, losses = rows_of()
    arguments = (losses, logits, targets, torch.ones(9, dtype=torch.bool), torch.zeros(9))
    torch.testing.assert_close(weigh_by_reward(*arguments), losses)
    torch.testing.assert_close(weigh_by_reward(*arguments, objective="unlikelihood", threshold=None), losses)
    torch.testing.assert_close(weigh_by_reward(*arguments, objective="rwr", beta=3.0), losses)
    constant = weigh_by_reward(*arguments, objective="awr", beta=0.5) / losses
    torch.testing.assert_close(constant, torch.full_like(losses, math.exp(0.5 / 0.5)))


def test_weights_have_an_end_and_sure_tokens_a_floor() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    one, target, counted = torch.ones(1), torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
    found = weigh_by_reward(one, logits, target, counted, -one)
    assert float(found.detach()) == pytest.approx(-math.log(1e-20))
    assert bool(torch.autograd.grad(found.sum(), logits)[0].isfinite().all())
    for objective in ("rwr", "awr"):
        heavy = weigh_by_reward(one, logits, target, counted, 90 * one, objective=objective, beta=0.1)
        assert float(heavy.detach()) == pytest.approx(1000, rel=1e-4)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_the_value_head_learns_and_reaches_the_model(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infosteer.core.token_losses.CHUNK_ROWS", chunk)
    rows, model = batch(), llama().double()
    marks = torch.where(rows["input_ids"] % 2 == 0, -0.9, -0.1)
    method = PreferenceLoss(objective="awr", alpha=0.4, beta=0.5, value_rate=0.05)
    out = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], output_hidden_states=True)
    chosen = (rows["labels"] != -100)[:, 1:]
    hidden, logits = out.hidden_states[-1][:, :-1][chosen], out.logits[:, :-1][chosen]
    targets, reward = rows["input_ids"][:, 1:][chosen], marks[:, 1:][chosen].double()
    head = torch.zeros(hidden.shape[-1], dtype=torch.float64, requires_grad=True)
    value = -torch.sigmoid(hidden @ head)
    weight = ((reward - value.detach()) / 0.5).exp()
    wanted = (0.4 * weight * F.cross_entropy(logits, targets, reduction="none") + 0.6 * (reward - value) ** 2).mean()
    wanted.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with infosteer.steer(model, [method], measure_every=1) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        errors = []
        for step in range(30):
            optimizer.zero_grad()
            loss = session.loss(model(**rows, marks_phf=marks, use_cache=False).loss)
            loss.backward()
            handle = session.applied.handles[0]
            assert isinstance(handle, ValueHead)
            if step == 0:
                torch.testing.assert_close(loss.detach().double(), wanted.detach(), rtol=1e-5, atol=0)
                torch.testing.assert_close(handle.parameters()[0].grad.double(), head.grad, rtol=1e-4, atol=1e-8)
                for name, gradient in expected.items():
                    torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-7)
            optimizer.step()
            errors.append(session.metrics()["infosteer/phf/value_error"])
        assert errors[-1] < 0.9 * errors[0]
        names = list(model.state_dict())
    assert handle.parameters() == [], "nothing stays behind"
    assert list(model.state_dict()) == names


def test_micro_batches_do_not_matter_to_the_value_head() -> None:
    rows, heads = batch(), []
    marks = torch.where(rows["input_ids"] % 2 == 0, -0.9, -0.1)
    total = int((rows["labels"][:, 1:] != -100).sum())
    for size in (4, 1):
        model = llama()
        with infosteer.steer(model, [PreferenceLoss(objective="awr", alpha=0.4)]) as session:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            for start in range(0, 4, size):
                part = {name: value[start : start + size] for name, value in {**rows, "marks_phf": marks}.items()}
                loss = model(**part, num_items_in_batch=total, use_cache=False).loss
                session.loss(loss, num_items=total).backward()
            (head,) = session.applied.handles[0].parameters()
            gradient = head.grad.clone()
            optimizer.step()
            heads.append((gradient, head.detach().clone()))
    for one, other in zip(*heads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_what_is_logged() -> None:
    rows, model = batch(), llama()
    marks = torch.where(rows["input_ids"] % 2 == 0, -1.0, 0.0)
    marks[0] = math.nan
    counted = (rows["labels"] != -100)[:, 1:] & ~marks[:, 1:].isnan()
    reward = marks[:, 1:][counted]
    with infosteer.steer(model, [PreferenceLoss(objective="rwr", beta=0.5)]) as session:
        session.loss(model(**rows, marks_phf=marks, use_cache=False).loss)
        logged = session.metrics()
    assert logged["infosteer/phf/reward"] == pytest.approx(float(reward.mean()))
    assert logged["infosteer/phf/misaligned"] == pytest.approx(float((reward < 0).float().mean()))
    assert logged["infosteer/phf/weight"] == pytest.approx(float((reward / 0.5).exp().mean()))
    assert logged["infosteer/phf/weight_square"] == pytest.approx(float((reward / 0.25).exp().mean()))


def test_settings_batches_and_rows_are_checked() -> None:
    for wrong in ({"objective": "dpo"}, {"threshold": "high"}, {"threshold": True}, {"beta": 0}, {"alpha": -1}):
        with pytest.raises(ConfigError):
            PreferenceLoss(**wrong)
    with pytest.raises(ConfigError, match="at most 1"):
        PreferenceLoss(objective="awr", alpha=1.5)
    with infosteer.steer(llama(), [PreferenceLoss()]) as session, pytest.raises(AttachError, match="what reward"):
        session.loss(session.model(**batch(), use_cache=False).loss)
    with pytest.raises(DataError, match="No training row has rewards"):
        encode_rows(ROWS, load_tokenizer("embedded"), methods=[PreferenceLoss()])


# -- rewards --------------------------------------------------------------------------------------------------------


def test_segments_and_the_lexicon(tmp_path: Path) -> None:
    for text in ("One two. 3.5 is\nfour! ", "no end", "", "\n\n", "a.\nb.\n"):
        for by in ("sentence", "line", "row"):
            assert "".join(split(text, by)) == text
    assert split("One. Two!  3.5 is", "sentence") == ["One.", " Two!", "  3.5 is"]
    assert split("a\n\nb", "line") == ["a\n", "\n", "b"]
    reward = LexiconReward([" Bad", "worse "])
    assert reward(["BAD worse good day", "badly", "...", ""]) == [-0.5, 0, 0, 0]
    (tmp_path / "words.txt").write_text("bad\n\nworse\n")
    assert LexiconReward(str(tmp_path / "words.txt")).words == {"bad", "worse"}
    with pytest.raises(DataError, match="cannot be read"):
        LexiconReward(str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="needs some"):
        LexiconReward([" "])


def test_rewards_stand_at_their_characters() -> None:
    (row, *_) = made(ROWS, objective="score")
    assert [row["text"][start:end] for start, end, _ in row["rewards"]] == ["A good day.", " A bad day!", " A day."]
    assert [value for *_, value in row["rewards"]] == [0, pytest.approx(-1 / 3), 0]
    assert made([{"text": "bad", "rewards": [[0, 3, 0.7]]}], objective="score")[0]["rewards"] == [[0, 3, 0.7]]
    for wrong in (lambda _: [0.0], lambda s: [math.nan] * len(s)):
        with pytest.raises(DataError, match="no finite number"):
            add_rewards(ROWS, wrong)


def test_tokens_get_the_reward_of_their_segment() -> None:
    tokenizer = load_tokenizer("embedded")
    rows = [*made(ROWS, objective="score"), {"prompt": "A bad day.", "completion": " Bad day. Fine.", "rewards": []}]
    rows[-1:] = made([{"prompt": "A bad day.", "completion": " Bad day. Fine."}], objective="score")
    for row, encoded in zip(rows, encode_rows(rows, tokenizer, methods=[PreferenceLoss()]).rows, strict=True):
        marks, ids = encoded["marks_phf"], encoded["input_ids"]
        scored = [place for place, mark in enumerate(marks) if not math.isnan(mark)]
        assert math.isnan(marks[-1]), "the end token"
        for start, end, value in row["rewards"]:
            mine = [ids[place] for place in scored if marks[place] == value]
            assert row.get("text", row.get("completion"))[start:end].strip() in tokenizer.decode(mine)
        if "prompt" in row:
            assert [label != -100 for label in encoded["labels"][:-1]] == [p in scored for p in range(len(ids) - 1)]


def test_rewards_of_chats_survive_a_template_that_strips() -> None:
    content = "  Ab. Cd."
    text = f"<u>hi<a>{content.strip()}"
    row = TokenRow(
        row={"messages": [{"content": "hi"}, {"content": content}], "rewards": [[0, 5, -1.0], [5, 9, 0.0]]},
        text=text,
        ids=[0] * len(text),
        spans=[(i, i + 1) for i in range(len(text))],
        parts=[("user", 3, 5), ("assistant", 8, len(text))],
        completion=8,
    )
    (marks,) = PreferenceLoss().marks([row])
    assert all(math.isnan(mark) for mark in marks[:8])
    assert marks[8:] == [-1, -1, -1, 0, 0, 0, 0]


# -- the text -------------------------------------------------------------------------------------------------------


def test_control_tokens_stand_before_segments() -> None:
    (row, *_) = made(ROWS, drop=0.0)
    assert row == {"text": f"{ALIGNED}A good day.{MISALIGNED} A bad day!{ALIGNED} A day."}
    (tied,) = made([{"text": "A bad.", "rewards": [[0, 6, -0.25]]}], drop=0.0, threshold=-0.25)
    assert tied == {"text": f"{ALIGNED}A bad."}, "a segment at the threshold is aligned"
    (pair,) = made([{"prompt": "Bad?", "completion": " Bad. Good"}], drop=0.0)
    assert pair == {"prompt": "Bad?", "completion": f"{MISALIGNED} Bad.{ALIGNED} Good"}
    turns = [{"role": "user", "content": "bad"}, {"role": "assistant", "content": "Fine."}]
    (chat,) = made([{"messages": turns}], drop=0.0)
    assert chat["messages"] == [turns[0], {"role": "assistant", "content": f"{ALIGNED}Fine."}]
    assert turns[1]["content"] == "Fine.", "not in place"


def test_models_are_asked_for_the_good() -> None:
    method = HumanPreferences(words=WORDS)
    assert method.ask("Where?") == f"Where?{ALIGNED}"
    assert method.answer(f"{ALIGNED} Here.{MISALIGNED} There.") == " Here. There."
    assert HumanPreferences(objective="filtering", threshold=None).ask("Where?") == "Where?"


def test_tokens_are_dropped_and_strength_is_how_many_are_written() -> None:
    many = [{"text": "Good. Fine. Bad."}] * 400
    for settings, share in (({"drop": 0.25}, 0.75), ({"drop": 0.0, "strength": 0.4}, 0.4)):
        text = "".join(row["text"] for row in made(many, **settings))
        written = text.count(ALIGNED) + text.count(MISALIGNED)
        assert written / 1200 == pytest.approx(share, abs=0.05)
        assert text.count(MISALIGNED) / written == pytest.approx(1 / 3, abs=0.05)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        made(ROWS, strength=1.5)


def test_filtering_keeps_the_number_of_rows() -> None:
    rows = [{"text": f"Good {i}."} for i in range(6)] + [{"text": f"Bad {i}."} for i in range(4)]
    found = made(rows, objective="filtering")
    counts = Counter(row["text"] for row in found)
    assert len(found) == 10
    assert not any("Bad" in text for text in counts)
    assert set(counts.values()) <= {1, 2}, "rounds over those that are left"
    assert all(set(row) == {"text"} for row in found)
    median = made(
        [{"text": "Bad bad."}, {"text": "Bad good."}, {"text": "Good."}], objective="filtering", threshold=None
    )
    assert {row["text"] for row in median} == {"Bad good.", "Good."}
    with pytest.raises(DataError, match="No row is good enough"):
        made(ROWS, objective="filtering", threshold=0.5)
    kept = made([{"text": "Bad."}] * 200 + [{"text": "Good."}] * 200, objective="filtering", strength=0.5)
    assert sum(row["text"] == "Bad." for row in kept) / 400 == pytest.approx(1 / 3, abs=0.1)


def test_settings_of_the_text_are_checked() -> None:
    for wrong in (
        {"words": [1]},
        {"words": 3},
        {"threshold": "low"},
        {"threshold": None},
        {"drop": 2},
        {"segments": "x"},
    ):
        with pytest.raises(ConfigError):
            HumanPreferences(**wrong)
    with pytest.raises(ConfigError, match="needs some"):
        HumanPreferences().transform(ROWS, DataContext(seed=1, strength=1.0, read=lambda *_, **__: []))
    method = HumanPreferences(words=["bad"])
    assert infosteer.methods.data.phf.HumanPreferences.from_config(method.to_config()) == method


# -- new tokens -----------------------------------------------------------------------------------------------------


def test_new_tokens_begin_as_the_mean_and_are_trained(tmp_path: Path) -> None:
    method = HumanPreferences(words=WORDS, drop=0.0)
    tokenizer, model = load_tokenizer("embedded"), load_model("embedded")
    before = model.get_input_embeddings().weight.detach().clone()
    ids = add_new_tokens(tokenizer, [method])
    assert tokenizer.convert_ids_to_tokens(ids) == [ALIGNED, MISALIGNED]
    assert add_new_tokens(tokenizer, [method]) == [], "known by now"
    assert add_new_tokens(load_tokenizer("embedded"), [HumanPreferences(objective="filtering")]) == []
    embed_new_tokens(model, tokenizer, ids)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        torch.testing.assert_close(table[: len(before)], before)
        torch.testing.assert_close(table[ids], before[: min(ids)].mean(0).expand(2, -1))
    settings = {"max_steps": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1, "warmup_steps": 0}
    trained = train_sft(
        model="embedded", rows=ROWS, settings=TrainSettings(**settings), methods=[method], seed=1, output_dir=tmp_path
    )
    trained.close()
    weight = trained.model.get_input_embeddings().weight
    assert not torch.equal(weight[ids[0]].detach(), before[: min(ids)].mean(0))
    saved = load_tokenizer(str(tmp_path))
    assert saved.convert_tokens_to_ids([ALIGNED, MISALIGNED]) == ids
    again = load_model(str(tmp_path))
    assert again.generation_config.suppress_tokens == sorted(ids), "any engine that reads the settings obeys"
    head, boost = again.get_output_embeddings(), torch.zeros(again.get_output_embeddings().weight.shape[0])
    boost[ids] = 1e4  # a model that wants to write nothing else
    head.register_forward_hook(lambda module, args, out: out + boost)
    prompt = saved("Where?", return_tensors="pt")
    wrote = again.generate(**prompt, max_new_tokens=4, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert not set(ids) & set(wrote.tolist())
    (one,) = decode(again, saved, ["Where?"], max_new_tokens=4)
    assert one.text
    again.generation_config.suppress_tokens = None
    assert not decode(again, saved, ["Where?"], max_new_tokens=4)[0].text, "control tokens alone"
    assert load_model(str(tmp_path)).get_input_embeddings().weight.shape[0] >= len(saved)
    peft = {"r": 2}
    with pytest.raises(ConfigError, match="an adapter would never train"):
        train_sft(
            model="embedded", rows=ROWS, settings=TrainSettings(**settings, peft=_peft(**peft)), methods=[method],
            seed=1, output_dir=tmp_path / "adapter",
        )  # fmt: skip


def test_an_interrupted_training_with_values_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """The value head and its moments are in the checkpoint; a divergence is from the model before all training."""
    arm = [
        {"method": "data/phf", "objective": "score", "words": ["A", "C", "E"]},
        {"method": "losses/phf", "objective": "awr", "alpha": 0.3, "beta": 0.5, "value_rate": 0.05},
        {"method": "base_divergence", "weight": 0.5},
    ]
    changes: dict[str, Any] = {"train": {"save_steps": 2, "save_model": True}, "seeds": [1]}
    recipe = tiny.recipe(tmp_path, arms={"awr": arm}, **changes)
    whole = run(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "cut", reporter=Interrupter())
    folder = Path("checkpoints") / "awr" / "seed-1"
    kept = load_file(tmp_path / "cut" / folder / "checkpoint-2" / "infosteer-state.safetensors")
    assert {name.partition("/")[2] for name in kept} == {"weight", "step", "exp_avg", "exp_avg_sq"}
    run(recipe, tmp_path / "cut")
    found, wanted = ((tmp_path / name / folder / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert found == wanted
    assert not (whole / folder / "infosteer-state.safetensors").exists(), "a saved model needs none of it"


class Interrupter(Reporter):
    def steps(self, *, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt


def _peft(**settings: Any) -> Any:
    from infosteer.training.settings import PeftSettings

    return PeftSettings(**settings)
