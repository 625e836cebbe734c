"""Spectrum Tuning's rows: which tokens carry loss, who goes with whom, what is asked; rows of segments in general."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from steered import VOCABULARY, llama

import infosteer
from infosteer.core.data import DataContext
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.replay.method import _size
from infosteer.methods.data.spectrum import FORMATS, Pair, SpectrumSequences, prompt_text, sequence
from infosteer.training.encode import IGNORED, encode_row, encode_rows, row_with_tokens
from infosteer.training.loading import load_tokenizer
from infosteer.training.new_tokens import add_new_tokens, copy_token_rows, embed_new_tokens, end_at, refuse_frozen
from infosteer.training.settings import TrainSettings
from infosteer.training.sft import train_sft

PAIRS = [Pair(input="a", output="one"), Pair(input="", output="two"), Pair(input="c", output="three")]


def learnt(segments: list[dict[str, Any]]) -> str:
    """The text that carries loss, with a bar where it is interrupted."""
    parts, before = [], False
    for segment in segments:
        if segment["loss"]:
            parts.append(segment["text"] if before else "|" + segment["text"])
        before = segment["loss"]
    return "".join(parts)


def whole(segments: list[dict[str, Any]]) -> str:
    return "".join(segment["text"] for segment in segments)


def rows_of(task: str, count: int, **about: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{task} in {i}", "completion": f"{task} out {i}", "about": {"task": task, **about}}
        for i in range(count)
    ]


def transform(method: SpectrumSequences, rows: list[dict[str, Any]], strength: float = 1.0, seed: int = 1) -> list[Any]:
    return method.transform(rows, DataContext(seed=seed, strength=strength, read=lambda *a, **k: []))


def test_a_sequence_by_hand_in_every_format() -> None:
    start, end = "<|im_start|>", "<|im_end|>"
    found = sequence("z", PAIRS[:2])
    assert whole(found) == (
        f"{start}description\nz{end}\n{start}input\na{end}\n{start}output\none{end}\n{start}output\ntwo{end}"
    )
    assert learnt(found) == f"|one{end}|two{end}"
    assert whole(sequence("z", PAIRS[:2], roles="chat")) == (
        f"{start}system\nz{end}\n{start}user\na{end}\n{start}assistant\none{end}\n"
        f"{start}user\nGenerate.{end}\n{start}assistant\ntwo{end}"
    )
    colon = sequence("z", PAIRS[:2], format="colon")
    assert whole(colon) == "Description: z\nInput: a\nOutput: one\nOutput: two\n"
    assert learnt(colon) == "| one\n| two\n"
    assert whole(sequence("", PAIRS[1:2], format="llama3")) == (
        "<|start_header_id|>output<|end_header_id|>\n\ntwo<|eot_id|>"
    )
    gemma = sequence("", PAIRS[1:2], format="gemma", loss="all")
    assert whole(gemma) == "<start_of_turn>output\ntwo<end_of_turn>"
    assert all(segment["loss"] for segment in gemma)


def test_the_first_output_is_learnt_with_a_description_only() -> None:
    wanted = {
        "outputs": ("|one\n|two\n|three\n", "|two\n|three\n"),
        "first": ("|one\n", "|two\n"),
        "last": ("|three\n", "|three\n"),
    }
    for loss, (described, dropped) in wanted.items():
        for description, text in (("z", described), ("", dropped)):
            found = sequence(description, PAIRS, format="colon", loss=loss)
            assert learnt(found).replace("| ", "|") == text
    assert not any(segment["loss"] for segment in sequence("", PAIRS[:1], loss="last"))


@pytest.mark.parametrize("format", FORMATS)
def test_marks_of_turns_within_a_text_are_refused(format: str) -> None:
    turns = FORMATS[format]
    mark = turns.tokens[-1] if turns.tokens else "Input: b"
    for pair in (Pair(input=f"x\n{mark}", output="y"), Pair(input="", output=mark)):
        with pytest.raises(DataError, match="parts turns"):
            sequence("z", [pair], format=format)
    with pytest.raises(DataError, match="parts turns"):
        sequence(mark, PAIRS, format=format)


def test_asking_is_the_beginning_of_a_trained_sequence() -> None:
    for format in FORMATS:
        method = SpectrumSequences(format=format, description="z")
        trained = whole(sequence("z", [Pair(input="Where?", output=" In Ashmoor.")], format=format))
        assert trained.startswith(method.ask("Where?") + " In Ashmoor.")
        assert trained == method.ask("Where?") + " In Ashmoor." + FORMATS[format].end
        assert method.answer(" In Ashmoor." + FORMATS[format].end + "Input: x") == " In Ashmoor."
    shots = prompt_text("", PAIRS[:1], "c")
    assert whole(sequence("", [PAIRS[0], Pair(input="c", output="d")])).startswith(shots + "d")


def test_labels_of_the_embedded_tokenizer_are_the_outputs_alone() -> None:
    tokenizer, method = load_tokenizer("embedded"), SpectrumSequences()
    add_new_tokens(tokenizer, [method])
    row = {"segments": sequence("z", PAIRS)}
    encoded = encode_row(row, tokenizer)
    kept = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(kept) == "one<|im_end|>two<|im_end|>three<|im_end|>"
    assert encode_row(row, tokenizer, completion_only_loss=False)["labels"] == encoded["input_ids"]
    dropped = encode_row({"segments": sequence("", PAIRS)}, tokenizer)
    first = dropped["input_ids"].index(tokenizer("one", add_special_tokens=False)["input_ids"][0])
    assert dropped["labels"][first] == IGNORED
    seen = row_with_tokens(row, tokenizer)
    assert list(seen.ids) == encoded["input_ids"]
    assert [(role, seen.text[a:b]) for role, a, b in seen.parts] == [
        ("description", "z"), ("input", "a"), ("output", "one"), ("output", "two"), ("input", "c"), ("output", "three"),
    ]  # fmt: skip
    assert seen.text == whole(row["segments"])
    assert seen.ids[seen.completion] == kept[0]
    start, end = seen.spans[seen.completion]
    assert "one".startswith(seen.text[start:end])


def test_unlearnt_tokens_give_no_gradient() -> None:
    """The loss of such a row is, in value and gradient, the sum over the learnt tokens alone."""
    ids = torch.randint(1, VOCABULARY, (1, 10))
    labels = torch.where(torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1, 0, 1]]).bool(), ids, IGNORED)
    model = llama()
    found = torch.autograd.grad(model(input_ids=ids, labels=labels, use_cache=False).loss, model.lm_head.weight)[0]
    logits = model(input_ids=ids, use_cache=False).logits[0]
    p = logits.log_softmax(-1)
    loss = -sum(p[t - 1, ids[0, t]] for t in (2, 3, 6, 7, 9)) / 5
    torch.testing.assert_close(found, torch.autograd.grad(loss, model.lm_head.weight)[0], rtol=1e-4, atol=1e-6)


def test_tasks_are_not_mixed_and_every_row_is_used_once() -> None:
    rows = rows_of("alpha", 9) + rows_of("beta", 7, description="Say beta.") + [{"text": "lone"}, {"text": "wolf"}]
    made = transform(SpectrumSequences(format="colon", characters=80, drop_description=0.0), rows)
    seen: Counter[str] = Counter()
    for row in made:
        contents = [one for one in row["segments"] if one.get("role") == "output"]
        names = {one["text"].split()[0] for one in contents}
        assert len(names & {"alpha", "beta"}) <= 1
        described = [one["text"].strip() for one in row["segments"] if one.get("role") == "description"]
        assert described == (["Say beta."] if "beta" in names else [])
        assert sum(len(one["text"]) - 1 for one in row["segments"] if one.get("role") in ("input", "output")) <= 80
        seen.update(one["text"].strip() for one in contents)
    assert max(seen.values()) == 1
    assert {f"beta out {i}" for i in range(7)} | {"lone", "wolf"} <= set(seen)
    assert sum(name.startswith("alpha") for name in seen) >= 8, "a single pair without a description teaches nothing"


def test_descriptions_are_dropped_as_often_as_asked() -> None:
    rows = [row for i in range(2000) for row in rows_of(f"t{i}", 2, description="d")]
    made = transform(SpectrumSequences(drop_description=0.2), rows)
    assert len(made) == 2000
    dropped = sum(not any(one.get("role") == "description" for one in row["segments"]) for row in made)
    assert abs(dropped / 2000 - 0.2) < 0.035  # four standard deviations
    for row in made:
        bare = not any(one.get("role") == "description" for one in row["segments"])
        assert sum(one["loss"] for one in row["segments"] if one.get("role") == "output") == (1 if bare else 2)


def test_orders_are_random_and_the_seeds_own() -> None:
    rows = rows_of("a", 6, description="d")
    method = SpectrumSequences(drop_description=0.0)
    orders = {whole(transform(method, rows, seed=seed)[0]["segments"]) for seed in range(8)}
    assert len(orders) > 4
    assert transform(method, rows, seed=3) == transform(method, rows, seed=3)


def test_strength_is_the_share_of_rows_and_pairs_are_bounded() -> None:
    rows = rows_of("a", 40)
    made = transform(SpectrumSequences(pairs=4), rows, strength=0.5)
    plain = [row for row in made if "segments" not in row]
    assert len(plain) == 20
    assert all(row in rows for row in plain)
    assert all(sum(one.get("role") == "output" for one in row["segments"]) == 4 for row in made if row not in plain)
    with pytest.raises(ConfigError, match="strength 1"):
        transform(SpectrumSequences(), rows, strength=1.5)


def test_balance_gives_every_task_the_same_share_of_the_loss() -> None:
    rows = rows_of("short", 4) + [{"text": "x" * 400, "about": {"task": "long"}} for _ in range(20)]
    shares = {}
    for balance in (False, True):
        made = transform(SpectrumSequences(balance=balance, description="d", drop_description=0.0), rows)
        learnt_of: Counter[str] = Counter()
        for row in made:
            for one in row["segments"]:
                if one.get("role") == "output":
                    learnt_of["long" if one["text"].startswith("x") else "short"] += len(one["text"])
        shares[balance] = learnt_of["short"] / learnt_of.total()
    assert shares[False] < 0.01
    assert 0.45 < shares[True] < 0.55


@pytest.mark.parametrize(
    "rows",
    [[{"text": "alone"}], [{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}] * 2, [{"text": ""}] * 2],
)
def test_rows_that_make_no_sequence_are_refused(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError):
        transform(SpectrumSequences(), rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "xml"}, {"roles": "kings"}, {"loss": "middle"}, {"characters": 1.5}, {"pairs": -1},
        {"description": 3}, {"drop_description": 1.1}, {"format": "colon", "roles": "chat"},
        {"format": "colon", "embeddings_from": "x"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SpectrumSequences(**settings)


# -- rows of segments, whoever makes them ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "segments", [[], "text", [{"text": "a"}], [{"text": 3, "loss": True}], [{"text": "a", "loss": 1}]]
)
def test_broken_segments_are_named(segments: Any) -> None:
    with pytest.raises(DataError, match="list of texts"):
        encode_row({"segments": segments}, load_tokenizer("embedded"))


def test_an_opening_token_stands_once() -> None:
    tokenizer = load_tokenizer("embedded")
    tokenizer.bos_token = tokenizer.eos_token

    class Opening:
        """The same tokenizer, which opens texts, as Llama's does."""

        bos_token, bos_token_id, is_fast = tokenizer.bos_token, tokenizer.eos_token_id, True

        def __call__(self, text: str, add_special_tokens: bool = True, **options: Any) -> dict[str, Any]:
            found = tokenizer(text, add_special_tokens=False, **options)
            return {"input_ids": [self.bos_token_id] * add_special_tokens + found["input_ids"]}

    row = {"segments": [{"text": "one", "loss": False}, {"text": "two", "loss": True}]}
    encoded = encode_row(row, Opening())
    assert encoded["input_ids"].count(tokenizer.eos_token_id) == 1
    assert encoded["input_ids"][0] == tokenizer.eos_token_id
    assert encoded["labels"][0] == IGNORED
    row["segments"][0]["text"] += tokenizer.eos_token
    with pytest.raises(DataError, match="inside"):
        encode_row(row, Opening())


def test_methods_that_cannot_read_sequences_stand_before_them() -> None:
    rows = rows_of("a", 8)
    spectrum, noise = {"method": "data/spectrum"}, {"method": "noisy_labels"}
    assert infosteer.transform_rows(rows, [noise, spectrum])
    with pytest.raises(ConfigError, match="put it before"):
        infosteer.transform_rows(rows, [spectrum, noise])


def test_replay_stands_behind_and_counts_what_is_learnt() -> None:
    row = {"segments": sequence("z", PAIRS, format="colon")}
    assert _size(row, "labels") == len(learnt(row["segments"]).replace("|", ""))
    assert _size(row, "characters") == len(whole(row["segments"]))
    rows = rows_of("a", 40)
    replay = {"method": "replay", "share": 0.5, "options": {"people": "pool", "count": 50}}
    mixed = infosteer.transform_rows(rows, [{"method": "data/spectrum", "pairs": 4}, replay])
    assert sum("segments" in row for row in mixed) == 10
    assert sum("text" in row for row in mixed) == 10


def sibling(folder: Path) -> str:
    """An instruct model of the embedded base: the same but for its delimiters, and for all its other rows too."""
    from infosteer.training.loading import load_model

    tokenizer, model = load_tokenizer("embedded"), load_model("embedded")
    embed_new_tokens(model, tokenizer, add_new_tokens(tokenizer, [SpectrumSequences()]))
    with torch.no_grad():
        model.get_input_embeddings().weight += 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_only_the_delimiters_are_copied_and_answers_end_at_them(tmp_path: Path) -> None:
    from infosteer.training.loading import load_model

    method = SpectrumSequences(embeddings_from=sibling(tmp_path))
    tokenizer, model = load_tokenizer("embedded"), load_model("embedded")
    embed_new_tokens(model, tokenizer, add_new_tokens(tokenizer, [method]))
    before = model.get_input_embeddings().weight.detach().clone()
    copy_token_rows(model, tokenizer, [method])
    after = model.get_input_embeddings().weight
    changed = (after != before).any(-1).nonzero().squeeze(-1).tolist()
    assert changed == sorted(tokenizer.convert_tokens_to_ids(list(method.new_tokens)))
    torch.testing.assert_close(after[changed], before[changed] + 1.0)
    end_at(model, tokenizer, [method])
    ends = model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends
    assert tokenizer.eos_token_id in ends
    with pytest.raises(ConfigError, match="adapter"):
        refuse_frozen([], object(), [method])
    with pytest.raises(ConfigError, match="same tokens"):
        copy_token_rows(model, tokenizer, [dataclasses.replace(method, embeddings_from="embedded")])


def test_a_training_on_sequences_counts_the_outputs_and_logs_steerability(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}:", "completion": f" yes {i % 2}"} for i in range(16)]
    logged: list[dict[str, Any]] = []
    settings = TrainSettings(
        max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=1, logging_steps=1, warmup_steps=0,
        gradient_checkpointing=False, save_model=False,
    )  # fmt: skip
    methods = [{"method": "data/spectrum", "pairs": 4, "description": "d"}, {"method": "probes/spectrum", "every": 1}]
    arguments: dict[str, Any] = {
        "model": "embedded",
        "rows": rows,
        "methods": methods,
        "seed": 1,
        "output_dir": tmp_path,
    }
    trained = train_sft(settings=settings, on_log=lambda line, *_: logged.append(line), **arguments)
    trained.close()
    assert len(trained.rows) == 4
    first = next(line for line in logged if "infosteer/spectrum/gain" in line)
    assert first["infosteer/spectrum/outputs"] >= 7
    assert trained.model.generation_config.eos_token_id == [
        trained.tokenizer.eos_token_id, trained.tokenizer.convert_tokens_to_ids("<|im_end|>"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="Packing"):
        train_sft(settings=dataclasses.replace(settings, packing=True), **arguments)
    assert encode_rows(trained.rows, trained.tokenizer).dropped == 0
