"""Streaming texts through models: every family's numbers against one text at a time in float64, and what is refused."""

from __future__ import annotations

import gc
import logging
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from families import FAMILIES, OTHERS, alone, entropy, make_model, make_tokenizer, words

import infosteer
from infosteer.core.surfaces import Observer
from infosteer.errors import ConfigError, DataError
from infosteer.inspection.observe import Piece, batches, observe, pieces
from infosteer.inspection.reading import PieceReading, read_text, read_tokens, token_texts
from infosteer.methods.probes.information_flux import FluxObserver
from infosteer.methods.probes.knowledge_entropy import KnowledgeEntropyObserver

TEXTS = [words(7, 8, 9), words(10), "", words(*range(5, 20)), words(30, 12, 30, 12, 30)]
IDS = [[7, 8, 9], [10], [], list(range(5, 20)), [30, 12, 30, 12, 30]]


@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)])
def test_flux_and_surprisal_of_every_token(family: str) -> None:
    model = make_model(family).train()
    found: dict[int, PieceReading] = {}
    seen = read_tokens(
        model, make_tokenizer(), TEXTS, lambda reading: found.__setitem__(reading.piece.text, reading), batch_tokens=20
    )
    assert (seen.texts, seen.pieces, seen.tokens) == (5, 4, 24)
    assert sorted(found) == [0, 1, 3, 4]
    assert model.training
    model.eval()
    for number, reading in found.items():
        ids = IDS[number]
        assert list(reading.piece.ids) == ids
        ks, logits = alone(model, ids)
        wanted = torch.stack([entropy(k.abs()) for k in ks], dim=-1)
        torch.testing.assert_close(reading.flux, wanted, rtol=2e-4, atol=2e-5)
        assert reading.surprisal is not None
        assert reading.surprisal[0].isnan()
        nll = -logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:], dtype=torch.long)]
        torch.testing.assert_close(reading.surprisal[1:], nll, rtol=2e-4, atol=2e-4)


def test_a_corpus_in_any_batches_gives_the_same_means() -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    found = []
    for batch_tokens in (1, 16, 4096):
        flux, use = FluxObserver(), KnowledgeEntropyObserver()
        observe(model, tokenizer, iter(TEXTS), [flux, use], batch_tokens=batch_tokens)
        found.append(flux.metrics() | {"use": use.metrics()["total"]})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    by_hand = [entropy(alone(model, ids)[0][1].abs()) for ids in IDS if ids]
    assert found[0]["nats/layer_1"] == pytest.approx(float(torch.cat(by_hand).mean()), rel=1e-5)


def test_chosen_layers_and_edits() -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    plain = read_text(model, tokenizer, TEXTS[3], layers=[1])
    lift = infosteer.Intervention(fraction=0.5, alpha=2.0)
    lifted = read_text(model, tokenizer, TEXTS[3], layers=[1], edits=[lift], name="lift", seed=3)
    assert lift.scope == "train", "the given method is left alone"
    assert (plain.layer_numbers, plain.widths, plain.hook, plain.seed) == ((1,), (48,), False, None)
    assert (lifted.model, lifted.seed, lifted.hook) == ("lift", 3, True)
    assert sum(lifted.flux) > sum(plain.flux) + 0.5
    again = read_text(model, tokenizer, TEXTS[3], layers=[1])
    assert again == plain, "the model is as it was"


def test_nothing_is_left_on_the_model_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model("gpt2")
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    with caplog.at_level(logging.WARNING):
        read_text(model, make_tokenizer(), TEXTS[0])
    assert caplog.records == []
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(p.grad is None for p in model.parameters())


def test_a_text_as_data_for_people() -> None:
    reading = read_text(make_model("gemma3n_text"), make_tokenizer(), words(7, 8, 999))
    reading.check()
    assert reading.tokens == ("w7", "w8", "<unk>")
    assert reading.widths == (48, 64, 48, 64)
    assert reading.surprisal is not None
    assert reading.surprisal[0] is None
    assert read_text(make_model("opt"), make_tokenizer(), "w7", surprisal=False).surprisal is None


def test_token_texts_of_broken_characters() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))
    from tiny import make_tokenizer as make_bytes

    tokenizer = make_bytes()
    ids = tokenizer("a\u00e9 <")["input_ids"]
    assert token_texts(tokenizer, ids) == ["a", "\u00c3", "\u00a9", " ", "<"]  # bytes as the tokenizer writes them
    assert token_texts(tokenizer, [1, 5_000]) == ["<end>", "<token 5000>"]


# -- cutting and batching ---------------------------------------------------------------------------------------------


def test_long_texts_are_cut_and_nothing_is_lost() -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    found = list(pieces(model, tokenizer, TEXTS, max_tokens=4))
    assert max(len(piece.ids) for piece in found) == 4
    for number, ids in enumerate(IDS):
        mine = sorted((piece for piece in found if piece.text == number), key=lambda piece: piece.start)
        assert [token for piece in mine for token in piece.ids] == ids
    long = list(pieces(model, tokenizer, [words(*[9] * 150)], max_tokens=512))
    assert [len(piece.ids) for piece in long] == [64, 64, 22], "the model's context is 64"


def test_batches_are_sorted_and_within_their_budget() -> None:
    stream = [Piece(text=i, start=0, ids=(5,) * (1 + i * 7 % 13)) for i in range(40)]
    made = list(batches(stream, batch_tokens=20, buffer=16))
    assert sorted(piece.text for batch in made for piece in batch) == list(range(40))
    for batch in made:
        lengths = [len(piece.ids) for piece in batch]
        assert lengths == sorted(lengths, reverse=True)
        assert len(batch) == 1 or len(batch) * lengths[0] <= 20
    assert [len(batch) for batch in batches(stream[:1], batch_tokens=1)] == [1]


class Rows(Observer):
    """Counts rows, and how far the stream was read when they came."""

    def __init__(self) -> None:
        self.rows = 0.0

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        assert weight is not None
        self.rows += float(weight.sum())

    def metrics(self) -> dict[str, float]:
        return {}

    def reset(self) -> None:
        pass


@pytest.mark.parametrize("tokens", [60_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_corpus(tokens: int) -> None:
    """The stream is read a buffer at a time, and the process does not grow after its first tenth."""
    model, tokenizer = make_model("llama"), make_tokenizer()
    given, rows, peaks = 0, Rows(), []

    def stream() -> Iterator[str]:
        nonlocal given
        for number in range(tokens // 50):
            given += 50
            if number % (tokens // 500) == 0:
                gc.collect()
                assert given - rows.rows / 2 <= 1_200 * 50  # two layers; a buffer, and what the tokenizer holds
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            yield words(*(5 + (number + i * 7) % 50 for i in range(50)))

    seen = observe(model, tokenizer, stream(), [rows, FluxObserver()], layers="all")
    assert seen.tokens == tokens
    assert rows.rows == 2 * tokens
    assert peaks[-1] - peaks[1] < 64 * 1024, "KiB"


# -- what is refused --------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    with pytest.raises(DataError, match="no text to read"):
        observe(model, tokenizer, ["", ""], [FluxObserver()])
    with pytest.raises(DataError, match="this is no text"):
        observe(model, tokenizer, ["w7", 3], [FluxObserver()])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="not one"):
        observe(model, tokenizer, "w7", [FluxObserver()])
    with pytest.raises(ConfigError, match="nobody"):
        observe(model, tokenizer, ["w7"], [])
    with pytest.raises(ConfigError, match="do not exist"):
        observe(model, tokenizer, ["w7"], [FluxObserver()], layers=[5])
    for bad in (0, 2.5, True):
        with pytest.raises(ConfigError, match="number of tokens"):
            observe(model, tokenizer, ["w7"], [FluxObserver()], max_tokens=bad)  # type: ignore[arg-type]
    for text in ("", "   "):
        with pytest.raises(DataError, match="empty"):
            read_text(model, tokenizer, text)
    with pytest.raises(DataError, match="longer than what the model"):
        read_text(model, tokenizer, words(*[7] * 65))
    assert len(read_text(model, tokenizer, words(*[7] * 64)).tokens) == 64


def test_a_failure_half_way_leaves_the_model_clean() -> None:
    model = make_model("llama").train()

    def broken() -> Iterator[str]:
        yield from [words(7, 8)] * 600
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        observe(model, make_tokenizer(), broken(), [FluxObserver()])
    assert model.training
    infosteer.steer(model, [infosteer.Intervention()]).remove()


def test_adapters_are_merged_before_anything_is_read(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))
    import tiny
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from infosteer.models import memory_vectors
    from infosteer.training.loading import load_model, merge_adapters

    base = AutoModelForCausalLM.from_pretrained(tiny.save_model(tmp_path / "model"))
    plain = infosteer.locate(base)[0].module.weight.detach().clone()
    lora = LoraConfig(r=2, lora_alpha=6, target_modules=["down_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    layer = infosteer.locate(adapted)[0].module
    wanted = plain + 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = adapted.eval()(ids).logits
        merged = merge_adapters(load_model(str(tmp_path / "adapter"))).eval()
        torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(memory_vectors(infosteer.locate(merged)[0]), wanted.detach().T, rtol=1e-5, atol=1e-6)
