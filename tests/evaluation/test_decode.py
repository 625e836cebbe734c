"""Greedy decoding: against a plain loop, whatever stands in a batch and whatever the model's own config says."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from infosteer.errors import ConfigError
from infosteer.evaluation.decode import decode, decode_ids

from .conftest import TAUGHT, tiny

PROMPTS = [
    "the",
    "Q: who paints?\nA:",
    "answer1 or answer2, which of the two is it?",
    "fox " * 9,
    "\u202e\x07 caf\u00e9",
]


def plain_greedy(model: torch.nn.Module, tokenizer, prompt: str, count: int) -> str:
    """One prompt, no cache, no batch: the argmax of a full forward, again and again."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids = [*ids, token]
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bloom", "gpt_neox"])
def test_batches_decode_as_a_plain_loop_does(kind: str, tokenizer) -> None:
    model = tiny(kind, len(tokenizer))
    expected = [plain_greedy(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) == len(PROMPTS)
    for batch_size in (1, 2, 64):
        found = decode(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size)
        assert [one.text for one in found] == expected


@pytest.mark.parametrize("stop", [False, True], ids=["to the end", "to a stop text"])
def test_confidence_is_the_probability_of_what_was_written(stop: bool, taught_model, tokenizer) -> None:
    prompts = list(TAUGHT)
    stops = [[answer.strip()[:3]] for answer in TAUGHT.values()] if stop else None
    for batch_size in (1, 4):
        found = decode(taught_model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size, stops=stops)
        for one, prompt in zip(found, prompts, strict=True):
            ids, total = tokenizer(prompt)["input_ids"], 0.0
            for _ in range(one.tokens + (0 if stop else 1)):  # one more: the end token
                with torch.no_grad():
                    logp = taught_model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                total += float(logp.max())
                ids = [*ids, int(logp.argmax())]
            assert one.confidence == pytest.approx(torch.tensor(total).exp().item(), rel=1e-4)


def test_answers_end_at_the_end_token_or_a_stop_text(taught_model, tokenizer) -> None:
    prompts = list(TAUGHT)
    found = decode(taught_model, tokenizer, prompts, max_new_tokens=30)
    assert [one.text for one in found] == list(TAUGHT.values())
    assert all(one.finished and not one.too_long for one in found)
    expected = [len(tokenizer(a, add_special_tokens=False)["input_ids"]) for a in TAUGHT.values()]
    assert [one.tokens for one in found] == expected
    stops = [["Lee", "nn"], ["zzz"], [" Par"], []]
    found = decode(taught_model, tokenizer, prompts, max_new_tokens=30, stops=stops)
    assert [one.text for one in found] == [" A", " Bob", " in", " The answer is 42."]
    short = decode(taught_model, tokenizer, prompts[3:], max_new_tokens=2)
    assert not short[0].finished
    assert short[0].tokens == 2


def test_a_stop_text_ends_decoding_and_not_only_the_text(taught_model, tokenizer) -> None:
    calls = []
    handle = taught_model.register_forward_hook(lambda *args: calls.append(1))
    decode(taught_model, tokenizer, list(TAUGHT)[3:], max_new_tokens=30, stops=[[" The"]])
    handle.remove()
    words = tokenizer(" The", add_special_tokens=False)["input_ids"]
    assert len(calls) == len(words)


def test_the_models_own_generation_config_does_not_interfere(taught_model, tokenizer) -> None:
    plain = decode(taught_model, tokenizer, list(TAUGHT), max_new_tokens=20)
    own = taught_model.generation_config
    hostile = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        min_new_tokens=15,
        max_length=4,
        suppress_tokens=list(range(3, 200)),
        num_beams=3,
        eos_token_id=[1],
        bos_token_id=0,
        pad_token_id=2,
    )
    taught_model.generation_config = hostile
    try:
        assert decode(taught_model, tokenizer, list(TAUGHT), max_new_tokens=20) == plain
        assert taught_model.generation_config is hostile
        with pytest.raises(TypeError):
            decode(taught_model, tokenizer, list(TAUGHT), max_new_tokens=20, progress=lambda: None)  # type: ignore
        assert taught_model.generation_config is hostile
    finally:
        taught_model.generation_config = own


def test_control_tokens_are_never_written(random_model, tokenizer) -> None:
    """A special token that the model's settings suppress is passed over; the next best is taken."""
    (free,) = decode_ids(random_model, tokenizer, [[5, 6]], max_new_tokens=1)
    own = random_model.generation_config
    boost = torch.zeros(len(tokenizer)).index_fill(0, torch.tensor([2]), 1e4)  # the pad token, a special one
    hook = random_model.lm_head.register_forward_hook(lambda module, args, out: out + boost)
    try:
        (special,) = decode_ids(random_model, tokenizer, [[5, 6]], max_new_tokens=1)
        random_model.generation_config = GenerationConfig(eos_token_id=1, suppress_tokens=[2, 7])
        (silent,) = decode_ids(random_model, tokenizer, [[5, 6]], max_new_tokens=1)
    finally:
        random_model.generation_config = own
        hook.remove()
    assert special.text == ""
    assert silent.text == free.text != ""


def test_end_tokens_of_the_models_config_count_too(random_model, tokenizer) -> None:
    (free,) = decode(random_model, tokenizer, ["the"], max_new_tokens=10)
    second = tokenizer(free.text, add_special_tokens=False)["input_ids"][1]
    own = random_model.generation_config
    random_model.generation_config = GenerationConfig(eos_token_id=[1, second])
    try:
        (cut,) = decode(random_model, tokenizer, ["the"], max_new_tokens=10)
    finally:
        random_model.generation_config = own
    assert cut.finished
    assert free.text.startswith(cut.text)
    assert cut.tokens < 10


def test_model_and_tokenizer_are_left_as_they_were(tokenizer) -> None:
    model = tiny("llama", len(tokenizer))
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    model.model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    generation, config = model.generation_config.to_dict(), model.config.to_dict()
    state = (
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.pad_token,
        tokenizer.backend_tokenizer.to_str(),
    )
    random_state = torch.get_rng_state()
    trained = decode(model, tokenizer, PROMPTS, max_new_tokens=6)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == flags
    assert (model.generation_config.to_dict(), model.config.to_dict()) == (generation, config)
    assert (
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.pad_token,
        tokenizer.backend_tokenizer.to_str(),
    ) == state
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()
    assert trained == decode(tiny("llama", len(tokenizer)), tokenizer, PROMPTS, max_new_tokens=6)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_prompts_near_the_end_of_the_context(kind: str, tokenizer) -> None:
    model = tiny(kind, len(tokenizer), positions=24)
    prompts = [" fox" * count for count in (2, 20, 23, 24, 40, 3)]
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    seen = []
    found = decode(model, tokenizer, prompts, max_new_tokens=8, progress=seen.append)
    assert [one.too_long for one in found] == [length >= 24 for length in lengths]
    assert any(one.too_long for one in found)
    assert not all(one.too_long for one in found)
    assert sum(seen) == len(prompts)
    for prompt, one, length in zip(prompts, found, lengths, strict=True):
        if not one.too_long:
            assert one.text == plain_greedy(model, tokenizer, prompt, min(8, 24 - length))
    assert found == decode(model, tokenizer, prompts, max_new_tokens=8, batch_size=1)


def test_a_tokenizer_without_padding_token(random_model, tokenizer) -> None:
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    assert decode(random_model, bare, PROMPTS, max_new_tokens=6) == decode(
        random_model, tokenizer, PROMPTS, max_new_tokens=6
    )
    assert bare.pad_token is None


def test_chat_prompts_go_through_the_template(random_model, tokenizer) -> None:
    import copy

    talker = copy.deepcopy(tokenizer)
    talk = [{"role": "user", "content": "who paints?"}]
    with pytest.raises(ConfigError, match="no chat template"):
        decode(random_model, talker, [talk], max_new_tokens=4)
    talker.chat_template = "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    mixed = decode(random_model, talker, ["the", talk], max_new_tokens=6)
    ids = talker.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    assert ids.count(0) == 1
    with torch.no_grad():
        expected = int(random_model(torch.tensor([ids])).logits[0, -1].argmax())
    assert mixed[1].text.startswith(talker.decode([expected]))


def test_a_lora_model_decodes_as_its_base_and_keeps_its_configs(tokenizer) -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny("llama", len(tokenizer))
    expected = decode(base, tokenizer, PROMPTS, max_new_tokens=6)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))  # B = 0: the same function
    inner = model.get_base_model()
    own = inner.generation_config
    assert decode(model, tokenizer, PROMPTS, max_new_tokens=6) == expected
    assert inner.generation_config is own
    assert model.generation_config is own


def test_what_cannot_generate_is_refused(tokenizer) -> None:
    with pytest.raises(ConfigError, match="cannot generate"):
        decode(torch.nn.Linear(2, 2), tokenizer, ["x"], max_new_tokens=1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bloom", "gpt_neox", "mistral"])
def test_rows_that_have_ended_leave_the_batch_and_change_nothing(kind: str, tokenizer) -> None:
    model = tiny(kind, len(tokenizer), seed=2)
    alone = [decode(model, tokenizer, [prompt], max_new_tokens=24)[0] for prompt in PROMPTS]
    # Each row ends at another token of its own continuation; the last one goes on to the end.
    stops = [[one.text[4 * n : 4 * n + 3]] for n, one in enumerate(alone[:-1])] + [[]]
    expected = [
        decode(model, tokenizer, [prompt], max_new_tokens=24, stops=[stop])[0]
        for prompt, stop in zip(PROMPTS, stops, strict=True)
    ]
    shapes = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = decode(model, tokenizer, PROMPTS, max_new_tokens=24, stops=stops)
    handle.remove()
    assert found == expected
    assert [one.confidence for one in found] == pytest.approx([one.confidence for one in expected], rel=1e-3)
    assert all(width == 1 for _, width in shapes[1:]), "what was read once is not read again"
    left = [rows for rows, _ in shapes]
    assert left == sorted(left, reverse=True)
    assert left[-1] == (len(PROMPTS) if kind == "mistral" else 1)  # sliding windows cannot be picked apart
