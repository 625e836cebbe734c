"""Engines: what is kept is what was computed, once; fingerprints tell models apart; vLLM by a stand-in."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from infosteer.errors import ConfigError, RunError
from infosteer.evaluation.engines import TransformersEngine
from infosteer.evaluation.engines.fingerprint import fingerprint_of, fingerprint_of_files
from infosteer.evaluation.engines.kept import KeptEngine
from infosteer.evaluation.engines.store import Store, key_of

from .conftest import TAUGHT, tiny

PROMPTS = [*TAUGHT, "Q: who?\nA:", "Q: how many songs are there in the evening?\nA:", "the answer is"]
OPTIONS = [[" Ann Lee", " Bob"], [" true", " false"]] * 3 + [["answer1", "answer2"]]


class Counting(TransformersEngine):
    """Counts what really runs, and can die."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ran: list[int] = []
        self.lives = 10**6

    def _live(self, count: int) -> None:
        if len(self.ran) == self.lives:
            raise KeyboardInterrupt
        self.ran.append(count)

    def decode(self, prompts: Any, **settings: Any) -> Any:
        self._live(len(prompts))
        return super().decode(prompts, **settings)

    def score_options(self, prompts: Any, options: Any, **settings: Any) -> Any:
        self._live(len(prompts))
        return super().score_options(prompts, options, **settings)

    def score_texts(self, texts: Any, **settings: Any) -> Any:
        self._live(len(texts))
        return super().score_texts(texts, **settings)


def decoded(engine: Any, prompts: list[str], **changes: Any) -> Any:
    settings = {"max_new_tokens": 5, "stops": [["\n"]] * len(prompts), "batch_size": 2, **changes}
    return engine.decode(prompts, **settings)


def test_what_is_kept_is_what_was_computed(tmp_path: Path, taught_model: Any, tokenizer: Any) -> None:
    bare = Counting(taught_model, tokenizer)
    kept = KeptEngine(bare, Store(tmp_path / "kept.jsonl"), {"model": "m"})
    wanted = decoded(bare, PROMPTS)
    computed = decoded(kept, PROMPTS)
    assert computed == wanted
    again = KeptEngine(bare, Store(tmp_path / "kept.jsonl"), {"model": "m"})
    calls = len(bare.ran)
    found = decoded(again, PROMPTS)
    assert found == wanted
    assert [one.confidence for one in found] == [one.confidence for one in computed], "to the last bit"
    assert [one.confidence for one in found] == pytest.approx([one.confidence for one in wanted], rel=1e-5)
    assert len(bare.ran) == calls
    settings = {"leads": [""] * len(OPTIONS), "batch_size": 64}
    scores = bare.score_options(PROMPTS, OPTIONS, **settings)
    for more in (1, 0):
        engine, calls = KeptEngine(bare, Store(tmp_path / "kept.jsonl"), {"model": "m"}), len(bare.ran)
        for left, right in zip(engine.score_options(PROMPTS, OPTIONS, **settings), scores, strict=True):
            assert left.total.tolist() == right.total.tolist()
            assert left.per_byte.tolist() == right.per_byte.tolist()
            assert left.too_long is right.too_long
        assert len(bare.ran) == calls + more, "the second read it from disk"
    texts = ["a text", "another, longer text", "a text"]
    for ours, theirs in zip(again.score_texts(texts, batch_size=8), bare.score_texts(texts, batch_size=8), strict=True):
        assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-6)
    assert again.score_texts([], batch_size=8)[0].shape == (0,)


def test_only_what_is_new_is_computed(tmp_path: Path, taught_model: Any, tokenizer: Any) -> None:
    bare = Counting(taught_model, tokenizer)
    kept = KeptEngine(bare, Store(tmp_path / "kept.jsonl"), {"model": "m"})
    told: list[int] = []
    decoded(kept, PROMPTS[:3], progress=told.append)
    assert bare.ran == [2, 1]
    decoded(kept, [*PROMPTS, PROMPTS[-1]], progress=told.append)
    assert bare.ran == [2, 1, 2, 2], "neither what is known nor what occurs twice"
    assert sum(told) == 3 + len(PROMPTS) + 1
    for changes in ({"max_new_tokens": 6}, {"batch_size": 3}, {"stops": [["."]] * 3}):
        before = sum(bare.ran)
        decoded(kept, PROMPTS[:3], **changes)
        assert sum(bare.ran) == before + 3, changes
    before = sum(bare.ran)
    decoded(KeptEngine(bare, kept.store, {"model": "another"}), PROMPTS[:3])
    assert sum(bare.ran) == before + 3, "another model has other answers"


def test_a_batch_is_kept_as_soon_as_it_is_done(tmp_path: Path, taught_model: Any, tokenizer: Any) -> None:
    bare = Counting(taught_model, tokenizer)
    bare.lives = 2
    prompts = [f"Q: number {'x' * (7 * i % 5)}{i}?\nA:" for i in range(11)]
    with pytest.raises(KeyboardInterrupt):
        decoded(KeptEngine(bare, Store(tmp_path / "kept.jsonl"), {}), prompts, batch_size=3)
    assert len(Store(tmp_path / "kept.jsonl").values) == 6
    bare.lives = 10
    found = decoded(KeptEngine(bare, Store(tmp_path / "kept.jsonl"), {}), prompts, batch_size=3)
    assert bare.ran == [3, 3, 3, 2], "the batches that were left"
    assert found == decoded(KeptEngine(bare, Store(tmp_path / "other.jsonl"), {}), prompts, batch_size=3)
    assert found == decoded(TransformersEngine(taught_model, tokenizer), prompts, batch_size=3)


def test_a_torn_line_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    Store(path).keep({"a": 1})
    with path.open("ab") as file:
        file.write(b'{"b": [1, 2')
    store = Store(path)
    assert store.values == {"a": 1}
    store.keep({"c": 3})
    assert Store(path).values == {"a": 1, "c": 3}
    path.write_bytes(b"[]\nnull\n\xff\xfe\n" + b"[" * 100_000 + b"\n" + b'{"d": 4}\n')
    assert Store(path).values == {"d": 4}


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "later.jsonl")
    (tmp_path / "later.jsonl").mkdir()
    with pytest.raises(RunError, match="cannot be kept"):
        store.keep({"a": 1})
    with pytest.raises(RunError, match="cannot be read"):
        Store(tmp_path / "later.jsonl")


def test_addresses() -> None:
    assert key_of({"a": 1, "b": 2}, "x") == key_of({"b": 2, "a": 1}, "x") != key_of({"a": 1, "b": 2}, "y")
    assert key_of(["ab", "c"]) != key_of(["a", "bc"])


def test_fingerprints(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny("llama", len(tokenizer))
    own = fingerprint_of(model, tokenizer)
    model.save_pretrained(tmp_path / "m")
    again = type(model).from_pretrained(tmp_path / "m").eval()
    assert fingerprint_of(again, tokenizer) == own, "wherever it lies"
    files = fingerprint_of_files(tmp_path / "m")
    with torch.no_grad():
        next(again.parameters()).view(-1)[7] += 1e-6
    changed = fingerprint_of(again, tokenizer)
    assert changed != own
    again.save_pretrained(tmp_path / "m")
    assert fingerprint_of_files(tmp_path / "m") != files
    assert fingerprint_of(model.to(torch.bfloat16), tokenizer) not in (own, changed)
    model = tiny("llama", len(tokenizer))
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 1234.0}
    assert fingerprint_of(model, tokenizer) != own, "a config is part of a model"
    assert fingerprint_of(tiny("llama", len(tokenizer)), tokenizer, [{"method": "key_lift"}]) != own


def test_an_adapters_scale_is_part_of_a_model(tmp_path: Path, tokenizer: Any) -> None:
    from peft import LoraConfig

    prints = []
    for alpha in (1, 2):
        model = tiny("llama", len(tokenizer))
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=2, lora_alpha=alpha, target_modules=["down_proj", "up_proj"]))
        prints.append(fingerprint_of(model, tokenizer))
    assert prints[0] != prints[1]


# -- vLLM, by a module that has what is used of it -------------------------------------------------------------------


class SamplingParams:
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        max_tokens: int | None = 16,
        stop: list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        logprobs: int | None = None,
    ) -> None:
        assert temperature == 0.0
        assert logprobs == 0
        self.max_tokens, self.stop, self.stop_token_ids = max_tokens, stop or [], stop_token_ids or []


class LLM:
    """Greedy decoding token by token without a cache, in the shape of vLLM's results."""

    made: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: str, *, tokenizer: str, trust_remote_code: bool = False, **settings: Any) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        assert trust_remote_code is False
        LLM.made = settings
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)

    @torch.no_grad()
    def generate(self, prompts: Any, sampling_params: Any = None, *, use_tqdm: bool = True) -> list[Any]:
        return [
            types.SimpleNamespace(outputs=[self._one(prompt["prompt_token_ids"], params)])
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]

    def _one(self, prompt: list[int], params: SamplingParams) -> Any:
        ids, total, text = list(prompt), 0.0, ""
        for _ in range(params.max_tokens or 0):
            log_probs = self.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(log_probs.argmax()))
            total += float(log_probs.max())
            text = self.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
            if ids[-1] in params.stop_token_ids or any(stop in text for stop in params.stop):
                cut = min((text.find(stop) for stop in params.stop if stop in text), default=len(text))
                return self._result(ids[len(prompt) :], text[:cut], total, "stop")
        return self._result(ids[len(prompt) :], text, total, "length")

    def _result(self, ids: list[int], text: str, total: float, reason: str) -> Any:
        return types.SimpleNamespace(token_ids=tuple(ids), text=text, cumulative_logprob=total, finish_reason=reason)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__version__ = LLM, SamplingParams, "0.33.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture
def saved(tmp_path: Path, taught_model: Any, tokenizer: Any) -> Path:
    taught_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_vllm_decodes_as_transformers_does(vllm: None, saved: Path, taught_model: Any, tokenizer: Any) -> None:
    from infosteer.evaluation.engines.served import VllmEngine

    engine = VllmEngine(str(saved), dtype="float32", batch_size=4)
    assert LLM.made == {"dtype": "float32", "generation_config": "vllm", "max_num_seqs": 4, "seed": 0}
    assert engine.describe() == {"engine": "vllm", "dtype": "float32", "device": "vllm", "vllm": "0.33.0"}
    prompts = [*PROMPTS, "long " * 200]
    settings = {"max_new_tokens": 6, "stops": [["."], ["ann", " Lee"]] * 4, "batch_size": 4}
    wanted = TransformersEngine(taught_model, tokenizer).decode(prompts, **settings)
    found = engine.decode(prompts, **settings)
    assert found == wanted, "text, tokens, whether it ended, what was too long"
    assert {one.finished for one in found} == {True, False}
    assert [one.too_long for one in found] == [False] * len(PROMPTS) + [True]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.confidence == pytest.approx(theirs.confidence, rel=1e-4) or math.isnan(ours.confidence)


def test_vllm_has_no_likelihoods(vllm: None, saved: Path) -> None:
    from infosteer.evaluation import load_set
    from infosteer.evaluation.engines.served import VllmEngine
    from infosteer.evaluation.evaluate import evaluate_with

    engine = VllmEngine(str(saved), dtype="float32", batch_size=4)
    rows = saved.parent / "rows.jsonl"
    rows.write_text('{"prompt": "Q: where?\\nA:", "answer": "in Paris."}\n')
    with pytest.raises(ConfigError, match="no likelihoods"):
        evaluate_with(engine, [load_set("s", rows)])
    found = evaluate_with(engine, [load_set("s", rows)], likelihoods=False)["s"]
    assert found.measures["exact_match"] == 1
    assert "answer_nll" not in found.measures
    for call in (
        lambda: engine.score_options([], [], leads=[], batch_size=1),
        lambda: engine.score_texts([], batch_size=1),
    ):
        with pytest.raises(ConfigError, match="decodes only"):
            call()


def test_vllm_is_refused_where_it_cannot_be(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infosteer.evaluation.engines.served import VllmEngine

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="not installed"):
        VllmEngine(str(saved), dtype="float32", batch_size=4)


def test_vllm_is_given_no_lone_adapters(vllm: None, tmp_path: Path) -> None:
    from infosteer.evaluation.engines.served import VllmEngine

    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds adapters"):
        VllmEngine(str(tmp_path), dtype="float32", batch_size=4)
