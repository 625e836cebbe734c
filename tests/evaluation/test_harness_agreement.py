"""Our scores against lm-eval's own model `hf`, to the last example; where they part, the cause is shown."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

import infosteer
from infosteer.evaluation import evaluate
from infosteer.evaluation.harness import SteeredLM, run_harness
from infosteer.evaluation.harness.engine import _groups, encode_pairs
from infosteer.evaluation.harness.vetting import VettedTaskManager
from infosteer.evaluation.tasks import FOLDER, load_task, task_info
from infosteer.lab import embedded_base

from .conftest import tiny
from .harness_tasks import TASKS


def theirs(model: Any, tokenizer: Any, folder: Path, names: list[str], batch_size: int, **settings: Any) -> Any:
    """lm-eval's own evaluation with its Hugging Face model."""
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size, **settings)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(model=lm, tasks=names, task_manager=manager, bootstrap_iters=0)


@pytest.fixture(autouse=True)
def _no_machine_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval ends by starting programs that describe the machine; seconds, and of no interest here."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def compare(found: Any, expected: Any, names: list[str]) -> None:
    for name in names:
        result, samples = found[f"lm_eval:{name}"], expected["samples"][name]
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        for one in filters:
            rows = [sample for sample in samples if sample["filter"] == one]
            assert result.n == len(rows)
            for metric in rows[0]["metrics"]:
                measure = metric if one == "none" else f"{metric}:{one}"
                whole = expected["results"][name][f"{metric},{one}"]
                assert result.measures[measure] == pytest.approx(whole, rel=1e-4), (name, measure)
                column = result.per_example[measure]
                if len(column) == len(rows) and all(isinstance(row[metric], (int, float)) for row in rows):
                    assert column == [float(row[metric]) for row in rows], (name, measure)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_every_kind_of_task_scores_as_lm_eval_scores_it(kind: str, tokenizer, task_folder: Path) -> None:
    model = tiny(kind, len(tokenizer), seed=3)
    names = list(TASKS)
    expected = theirs(model, tokenizer, task_folder, names, batch_size=2)
    for batch_size in (1, 5):
        compare(run_harness(model, tokenizer, names, include_path=task_folder, batch_size=batch_size), expected, names)


def test_answers_that_end_and_answers_that_are_right(taught_model, tokenizer, task_folder: Path) -> None:
    expected = theirs(taught_model, tokenizer, task_folder, ["tiny_writing", "tiny_last_words"], batch_size=4)
    found = run_harness(taught_model, tokenizer, ["tiny_writing", "tiny_last_words"], include_path=task_folder)
    compare(found, expected, ["tiny_writing", "tiny_last_words"])
    writing = found["lm_eval:tiny_writing"]
    assert sum(writing.per_example["exact_match:whole"]) >= 2
    assert sum(found["lm_eval:tiny_last_words"].per_example["acc"]) >= 3  # what greedy decoding would write
    assert writing.failures["cut"] == 1  # the question that is longer than the context
    assert writing.failures["unfinished"] == 0


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    folder = embedded_base()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def test_the_embedded_base_scores_as_lm_eval_scores_it(base, task_folder: Path) -> None:
    names = list(TASKS)
    expected = theirs(*base, task_folder, names, batch_size=8)
    compare(run_harness(*base, names, include_path=task_folder, batch_size=8), expected, names)


def test_a_steered_model_scores_alike_in_both(tokenizer, task_folder: Path) -> None:
    model = tiny("llama", len(tokenizer), seed=3)
    names = ["tiny_choices", "tiny_writing"]
    plain = theirs(model, tokenizer, task_folder, names, batch_size=4)
    with infosteer.steer(model, [{"method": "key_lift", "fraction": 0.5, "scope": "evaluation"}]):
        steered = theirs(model, tokenizer, task_folder, names, batch_size=4)
        found = run_harness(model, tokenizer, names, include_path=task_folder, batch_size=3)
    compare(found, steered, names)
    answers = [[sample["resps"] for sample in one["samples"]["tiny_writing"]] for one in (plain, steered)]
    assert answers[0] != answers[1]


def test_chats_are_put_through_the_template_alike(tokenizer, task_folder: Path) -> None:
    model, chat = tiny("llama", len(tokenizer), seed=4), copy.deepcopy(tokenizer)
    chat.chat_template = (
        "<s>{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    names = ["tiny_shots", "tiny_writing"]
    expected = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=copy.deepcopy(chat), batch_size=4),
        tasks=names,
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    found = run_harness(model, chat, names, include_path=task_folder, chat_template=True)
    compare(found, expected, names)
    assert found["lm_eval:tiny_writing"].samples[0]["prompt"].startswith("<s>user: Q: ")
    assert found["lm_eval:tiny_writing"].settings["template"] == "chat"


def test_rows_share_a_trunk_where_that_saves_tokens() -> None:
    few, question = list(range(100, 140)), [1, 2, 3, 4, 5, 6]
    rows = [[*few, *question, n, 7] for n in range(4)]  # the options of a question behind worked examples
    rows += [[*few, 9, 9, n, 7] for n in range(4)]  # and those of another
    rows += [[1, 50, 51], [1, 60, 61, 62, 63, 64], [1, 60, 61, 62, 65, 66], [1, 60, 61, 62, 65, 66]]
    groups = _groups(rows, 64)
    assert [number for members, _ in groups for number in members] == list(range(len(rows)))
    for members, common in groups:
        assert len({tuple(rows[n][:common]) for n in members}) == 1
        assert all(common < len(rows[n]) for n in members)
    assert groups[0] == (list(range(8)), 40), "eight rows with one trunk are cheaper than two groups of four"
    assert groups[1:] == [([8], 2), ([9, 10, 11], 4)]
    assert all(len(members) <= 3 for members, _ in _groups(rows, 3))


def test_a_task_of_our_own_scores_alike_in_all_three(base, tmp_path: Path) -> None:
    """Our reader and engine, our engine under lm-eval, and lm-eval's own model, on a task file of this package."""
    data = tmp_path / "llm-adapters" / "boolq"
    data.mkdir(parents=True)
    asked = (
        "Please answer the following question with true or false, question: is {n} a number?\n\n"
        "Answer format: true/false"
    )
    rows = [
        {"instruction": asked.format(n=n), "input": "", "output": f"the correct answer is {word}", "answer": word}
        for n, word in enumerate(["true", "false"] * 3)
    ]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manager = VettedTaskManager(
        include_path=str(FOLDER), include_defaults=False, metadata={"infosteer": {"data": str(tmp_path)}}
    )
    model, tokenizer = base
    ours = SteeredLM(model, tokenizer=tokenizer, batch_size=4)
    hf = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4)
    name = task_info("boolq").lm_eval_name
    samples = [
        simple_evaluate(model=lm, tasks=[name], task_manager=manager, bootstrap_iters=0)["samples"][name]
        for lm in (ours, hf)
    ]
    assert [one["resps"] for one in samples[0]] == [one["resps"] for one in samples[1]]
    (own,) = evaluate(model, tokenizer, [load_task("boolq", data=tmp_path)], batch_size=4).values()
    assert own.per_example["exact_match"] == [one["exact_match"] for one in samples[1]]
    assert len(samples[0]) == len(rows)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=args, idx=n) for n, args in enumerate(arguments)]  # type: ignore[arg-type]


def test_likelihoods_and_greedy_flags_request_by_request(taught_model, tokenizer) -> None:
    arguments = [
        ("", "Q: who"),
        ("", "<s>Q: who"),
        ("   ", " Bob"),
        ("Q: where?\nA: ", "in Paris."),
        ("Q: where?\nA: ", "in Paris"),
        ("Q: where?\nA:", " in Paris."),
        ("<s>Q: where?\nA:", " in Paris."),
        ("Q: where?", "\nA: in Paris."),
        ("Q: how many?\nA: The answer", " is 42"),
        ("the quick brown fox " * 60, "jumps over"),
        ("the quick brown fox " * 60, "jumps"),
    ]
    ours = SteeredLM(taught_model, tokenizer=tokenizer, batch_size=3)
    hf = HFLM(pretrained=taught_model, tokenizer=copy.deepcopy(tokenizer), batch_size=3, logits_cache=False)
    kept = [n for n in range(len(arguments)) if n != 2]  # lm-eval has no tokens for a context of spaces only
    found = ours.loglikelihood(requests("loglikelihood", arguments))
    expected = hf.loglikelihood(requests("loglikelihood", [arguments[n] for n in kept]), disable_tqdm=True)
    np.testing.assert_allclose([found[n][0] for n in kept], [one[0] for one in expected], rtol=1e-4, atol=1e-4)
    assert [found[n][1] for n in kept] == [one[1] for one in expected]
    assert {greedy for _, greedy in found} == {True, False}
    assert ours.cut == 2
    documents = [("Q: where?\nA: in Paris. " * 40,), ("x",), ("",)]
    np.testing.assert_allclose(
        ours.loglikelihood_rolling(requests("loglikelihood_rolling", documents)),
        hf.loglikelihood_rolling(requests("loglikelihood_rolling", documents), disable_tqdm=True),
        rtol=1e-4,
    )


def test_contexts_and_continuations_are_cut_where_lm_eval_cuts_them(tokenizer) -> None:
    texts = [("a story ", "true"), ("a story\n\n", " fox"), ("caf\u00e9", "\u00e9 and"), ("", "a"), ("xy", "z")]
    lm = HFLM(pretrained=tiny("llama", len(tokenizer)), tokenizer=copy.deepcopy(tokenizer))
    expected = [lm._encode_pair(*pair) if pair[0] else ([0], lm.tok_encode(pair[1])) for pair in texts]
    assert encode_pairs(tokenizer, texts, prefix=0) == expected


# -- where the two part, and why ------------------------------------------------------------------------------------


def test_one_text_cut_in_two_places_is_scored_wrongly_by_the_cache_of_lm_eval(taught_model, tokenizer) -> None:
    """It keeps logits by whole text; of the longer continuation's it reads the shorter one's tokens from the start."""
    asked = requests("loglikelihood", [("Q: where?", "\nA: in Paris."), ("Q: where?\nA:", " in Paris.")])
    ours = [total for total, _ in SteeredLM(taught_model, tokenizer=tokenizer).loglikelihood(asked)]
    lm = HFLM(pretrained=taught_model, tokenizer=copy.deepcopy(tokenizer), logits_cache=False)
    exact = [total for total, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    lm.logits_cache = True
    cached = [total for total, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    assert ours == pytest.approx(exact, rel=1e-3)
    assert cached[0] == pytest.approx(exact[0], rel=1e-3)
    assert cached[1] < exact[1] - 5


def test_half_precision_differs_only_because_lm_eval_normalises_in_half_precision(tokenizer, task_folder: Path) -> None:
    model = tiny("llama", len(tokenizer), seed=5).to(torch.bfloat16)
    pairs = requests(
        "loglikelihood", [(row["q"], " " + option) for row in TASKS["tiny_choices"][0][5:] for option in row["options"]]
    )
    ours = [total for total, _ in SteeredLM(model, tokenizer=tokenizer, batch_size=4).loglikelihood(pairs)]
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4)
    rounded = [total for total, _ in lm.loglikelihood(pairs, disable_tqdm=True)]
    lm.softmax_dtype = torch.float32
    exact = [total for total, _ in lm.loglikelihood(pairs, disable_tqdm=True)]
    ours_off, rounded_off = (np.abs(np.array(one) - exact).max() for one in (ours, rounded))
    assert rounded_off > 2 * ours_off, (rounded_off, ours_off)


def test_a_repetition_penalty_saved_with_the_model_acts_in_lm_eval_only(tokenizer, task_folder: Path) -> None:
    model = tiny("llama", len(tokenizer), seed=3)
    plain = theirs(model, tokenizer, task_folder, ["tiny_writing"], batch_size=4)
    model.generation_config.repetition_penalty = 3.0
    expected = theirs(model, tokenizer, task_folder, ["tiny_writing"], batch_size=4)
    found = run_harness(model, tokenizer, ["tiny_writing"], include_path=task_folder)
    compare(found, plain, ["tiny_writing"])  # greedy decoding takes the likeliest token, whatever was saved
    texts = [[sample["resps"] for sample in one["samples"]["tiny_writing"]] for one in (expected, plain)]
    assert texts[0] != texts[1]


def test_an_end_token_that_only_the_tokenizer_knows_ends_a_text_here_only(taught_model, tokenizer) -> None:
    model = copy.deepcopy(taught_model)
    model.generation_config.eos_token_id = None
    asked = requests(
        "generate_until",
        [
            ("Q: who paints?\nA:", {"until": ["\n"], "max_gen_toks": 12}),
            ("Q: who", {"until": ["\n"], "max_gen_toks": 12}),
        ],
    )
    ours = SteeredLM(model, tokenizer=tokenizer).generate_until(asked)
    hf = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=2)
    (text, _) = hf.generate_until(asked, disable_tqdm=True)
    assert ours[0] == " Ann Lee"
    assert text.startswith(" Ann Lee")
    assert text != " Ann Lee"  # it is decoded without the end token, and goes on


def test_a_tokenizer_that_closes_texts_is_taken_at_its_word_in_lm_eval_only(taught_model, tokenizer) -> None:
    """lm-eval counts the closing token as the context's last, and so scores one token less of the answer."""
    closing = copy.deepcopy(tokenizer)
    closing.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    opening = copy.deepcopy(tokenizer)
    opening.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    asked = requests("loglikelihood", [("Q: where?\nA:", " in Paris.")])
    (ours,) = SteeredLM(taught_model, tokenizer=closing).loglikelihood(asked)
    (same,) = SteeredLM(taught_model, tokenizer=opening).loglikelihood(asked)
    (hf,) = HFLM(pretrained=taught_model, tokenizer=copy.deepcopy(opening)).loglikelihood(asked, disable_tqdm=True)
    (odd,) = HFLM(pretrained=taught_model, tokenizer=copy.deepcopy(closing)).loglikelihood(asked, disable_tqdm=True)
    assert ours == same
    assert ours[0] == pytest.approx(hf[0], rel=1e-4)
    assert abs(odd[0] - hf[0]) > 0.1


def test_length_is_characters_in_acc_norm_and_bytes_in_ours(random_model, tokenizer, task_folder: Path) -> None:
    """lm-eval's acc_norm divides by characters; acc_bytes, like option_accuracy_norm of our own tasks, by bytes."""
    result = run_harness(random_model, tokenizer, ["tiny_choices"], include_path=task_folder)["lm_eval:tiny_choices"]
    rows = TASKS["tiny_choices"][0]
    pairs = [(f"Q: {row['q']}\nA:", " " + option) for row in rows for option in row["options"]]
    totals = [
        total
        for total, _ in SteeredLM(random_model, tokenizer=tokenizer).loglikelihood(requests("loglikelihood", pairs))
    ]
    for measure, length in (("acc_norm", len), ("acc_bytes", lambda text: len(text.encode()))):
        expected = []
        for n, row in enumerate(rows):
            scores = [totals[3 * n + o] / length(row["options"][o]) for o in range(3)]
            expected.append(float(int(np.argmax(scores)) == row["gold"]))
        assert result.per_example[measure] == expected
    assert not math.isnan(result.measures["acc_norm"])
