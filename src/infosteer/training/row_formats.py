"""Row formats: what a row of each looks like, and how it becomes a training or an evaluation row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from infosteer.training.answers import find_option, last_number, same_number, show_number

Purpose = Literal["train", "evaluate"]
Row = dict[str, Any]

FIELDS: dict[str, str] = {  # format -> the columns it reads, for messages
    "prompt_completion": "prompt, completion (evaluation: or answer; also options, aliases, stop, lead)",
    "messages": "messages (a list of {role, content})",
    "instruction_output": "instruction, output (and input, which may be empty)",
    "llm_adapters": "instruction, output, answer (and input, which may be empty)",
    "text": "text",
}
COLUMNS = frozenset(
    [
        *("prompt", "completion", "answer", "options", "aliases", "stop", "lead", "messages"),
        *("instruction", "input", "output", "text", "about"),
    ]
)
ROLES = ("system", "developer", "user", "assistant", "tool")

# How instruction rows are put into words. "alpaca" is the wording most published instruction models were tuned with
# (the 15-task suite's own models among them): an interface, kept to the letter. "sections" is its skeleton, shorter,
# and the default.
TEMPLATES: dict[str, tuple[str, str]] = {  # name -> (without input, with input)
    "sections": (
        "### Instruction:\n{instruction}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    ),
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{instruction}\n\n### Response:\n",
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}"
        "\n\n### Response:\n",
    ),
    "plain": ("{instruction}\n", "{instruction}\n{input}\n"),
}

_CHOICES = re.compile(r"Answer format:\s*(\S+)\s*$")
_LETTERS = re.compile(r"(?:Answer Choices|The options)\s*:(.*)$", re.DOTALL)
_LETTER = re.compile(r"(?<!\w)\(?\s?([A-Z])\s?\)")


class BadRow(Exception):
    """Why one row cannot be used; the reader adds the place and raises or counts it."""


def detect(row: Mapping[str, Any], purpose: Purpose) -> list[str]:
    """The formats that the columns of ``row`` fit; one name when they are unambiguous."""
    has = row.keys().__contains__
    fits = []
    if has("messages"):
        fits.append("messages")
    if has("prompt") and (has("completion") or (purpose == "evaluate" and has("answer"))):
        fits.append("prompt_completion")
    if has("instruction") and has("answer") and (has("output") or purpose == "evaluate"):
        fits.append("llm_adapters")
    elif has("instruction") and has("output"):
        fits.append("instruction_output")
    return fits or (["text"] if has("text") else [])


def normalise(row: Mapping[str, Any], format: str, purpose: Purpose, template: str) -> Row:
    """One row of the one schema.

    Training rows are {"prompt", "completion"} (both text, or both lists of chat messages) or {"text"}; evaluation rows
    {"prompt", "answer", "options" (list or None), "stop" (list), "lead"} or {"text"}; a row whose answer may be put in
    other words has them as "aliases" (list), too. ``lead`` is text between prompt and answer that belongs to the
    completion ("the correct answer is "); likelihoods of answers and options are conditional on it. A bare ``answer``
    after a prompt that does not end in white space is led by one space, unless the row says otherwise. Training rows
    keep "about", a mapping of what is known of them, for data methods.

    Raises:
        BadRow: a field is missing, empty or of the wrong kind.
    """
    made = _NORMALISERS[format](row, purpose, template)
    about = row.get("about")
    if purpose != "train" or about is None:
        return made
    if not isinstance(about, Mapping):
        raise BadRow(f"field 'about' is of type {type(about).__name__}, not a mapping")
    return {**made, "about": {str(name): value for name, value in about.items() if value is not None}}


def _text(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    if name not in row or row[name] is None:
        if empty:
            return ""
        raise BadRow(f"has no field {name!r}; its fields are {', '.join(map(repr, row)) or 'none'}")
    return _string(row[name], name, empty=empty)


def _string(value: Any, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} is of type {type(value).__name__}, not text")
    if not empty and not value.strip():
        raise BadRow(f"field {name!r} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"field {name!r} holds half of a surrogate pair, which is not text") from None
    return value


def _strings(row: Mapping[str, Any], name: str) -> list[str] | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, str) and name == "stop":
        value = [value]
    if not isinstance(value, list):
        raise BadRow(f"field {name!r} is of type {type(value).__name__}, not a list of text")
    for item in value:  # a stop string may be white space, such as a line break
        if _string(item, f"{name}[]", empty=name == "stop") == "":
            raise BadRow(f"field {name!r} holds an empty string")
    return list(value) or None


def _answer(row: Mapping[str, Any]) -> str:
    value = row.get("answer", row.get("completion"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = repr(value)
    return _string(value, "answer") if value is not None else _text(row, "answer")


def _turns(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"field {name!r} is not a list of messages with at least one message")
    turns = []
    for number, turn in enumerate(value):
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise BadRow(f"{name}[{number}] lacks 'role' or 'content'")
        if turn["role"] not in ROLES:
            raise BadRow(f"{name}[{number}] has the role {turn['role']!r}; known roles are {', '.join(ROLES)}")
        turns.append({"role": turn["role"], "content": _string(turn["content"], f"{name}[{number}].content")})
    return turns


def _evaluation(prompt: Any, answer: str, row: Mapping[str, Any]) -> Row:
    body = answer.strip()
    options, stop = _strings(row, "options"), _strings(row, "stop") or []
    lead = _text(row, "lead", empty=True) or answer[: len(answer) - len(answer.lstrip())]
    if not lead and isinstance(prompt, str) and not prompt[-1].isspace() and {"lead", "completion"}.isdisjoint(row):
        lead = " "  # a bare answer is told apart from its prompt as the completions of training rows are
    if options is not None:
        options = [option.strip() for option in options]
        if len(set(options)) < len(options):
            raise BadRow("two of its options are the same")
        if body not in options:
            raise BadRow(f"the answer {body[:60]!r} is not one of its {len(options)} options")
        if len(options) < 2:
            raise BadRow("has a single option, so there is nothing to choose")
    aliases = _strings(row, "aliases")
    made = {"prompt": prompt, "answer": body, "options": options, "stop": stop, "lead": lead}
    return made if aliases is None else made | {"aliases": [alias.strip() for alias in aliases]}


def _prompt_completion(row: Mapping[str, Any], purpose: Purpose, template: str) -> Row:
    if isinstance(row.get("prompt"), list):  # both sides as messages
        prompt = _turns(row["prompt"], "prompt")
        if purpose == "train":
            return {"prompt": prompt, "completion": _turns(row.get("completion"), "completion")}
        if isinstance(row.get("completion"), list) and "answer" not in row:
            return _evaluation(prompt, _turns(row["completion"], "completion")[-1]["content"], row)
        return _evaluation(prompt, _answer(row), row)
    text = _text(row, "prompt")
    if purpose == "train":
        return {"prompt": text, "completion": _text(row, "completion")}
    return _evaluation(text, _answer(row), row)


def _messages(row: Mapping[str, Any], purpose: Purpose, template: str) -> Row:
    turns = _turns(row.get("messages"), "messages")
    if turns[-1]["role"] != "assistant":
        raise BadRow(f"its last message is by {turns[-1]['role']!r}, so there is no reply to learn or to check")
    if len(turns) < 2:
        raise BadRow("holds one message only, so there is no prompt")
    if purpose == "train":  # the last reply is learnt, the turns before it are its context
        return {"prompt": turns[:-1], "completion": turns[-1:]}
    return _evaluation(turns[:-1], turns[-1]["content"], row)


def _plain_text(row: Mapping[str, Any], purpose: Purpose, template: str) -> Row:
    return {"text": _text(row, "text")}


def render(row: Mapping[str, Any], template: str) -> str:
    """The prompt of an instruction row: ``template`` with its places filled, in one pass (data may hold braces)."""
    values = {"instruction": _text(row, "instruction").strip(), "input": _text(row, "input", empty=True).strip()}
    if template in TEMPLATES:
        template = TEMPLATES[template][bool(values["input"])]
    elif values["input"] and "{input}" not in template:
        raise BadRow("has an input, but the template has no place {input} for it")
    return re.sub(r"\{(instruction|input)\}", lambda match: values[match.group(1)], template)


def _instruction_output(row: Mapping[str, Any], purpose: Purpose, template: str) -> Row:
    prompt = render(row, template)
    if purpose == "train":
        return {"prompt": prompt, "completion": _text(row, "output").strip()}
    return _evaluation(prompt, _text(row, "output").strip(), row)


def task_options(instruction: str) -> tuple[list[str] | None, bool]:
    """The options that stand inside an instruction of the 15 tasks, and whether they are letters."""
    if match := _CHOICES.search(instruction):
        options = match.group(1).split("/")
        return (options, False) if len(options) > 1 and all(options) else (None, False)
    if match := _LETTERS.search(instruction):
        letters = list(dict.fromkeys(_LETTER.findall(match.group(1))))  # some rows write "B ) B ) 5"
        return (letters, True) if len(letters) > 1 else (None, True)
    return None, False


def _llm_adapters(row: Mapping[str, Any], purpose: Purpose, template: str) -> Row:
    """A row of the 15 tasks. ``answer`` counts; ``output`` is trained on only where it ends in that answer."""
    prompt = render(row, template)
    answer = _answer(row).strip()
    options, letters = task_options(row["instruction"])
    if row.get("options") is not None:  # rows made by our converters say so; in the suite's own they must be read off
        options = _strings(row, "options")
        letters = options is not None and all(len(option) == 1 for option in options)
    number = None if options else last_number(answer)
    if options is None and number is None:
        raise BadRow(f"lists no options, and its answer {answer[:40]!r} is no number")
    if options is not None and answer not in options:
        raise BadRow(f"the answer {answer[:40]!r} is not one of the options {'/'.join(options)}")
    if purpose == "train":
        output = _text(row, "output", empty=True).strip()
        return {"prompt": prompt, "completion": _task_completion(output, answer, options, number)}
    lead = "The answer is (" if letters else "the correct answer is " if options else "The answer is "
    stop = ["\n\n###"] if letters or not options else ["\n"]
    shown = show_number(number) if number is not None else answer
    return _evaluation(prompt, shown, {"options": options, "stop": stop, "lead": lead})


def _task_completion(output: str, answer: str, options: list[str] | None, number: float | None) -> str:
    if options is not None:
        if not output:
            raise BadRow("its output is empty, so there is nothing to train on")
        if find_option(output, options) != answer:
            raise BadRow(f"its output does not end in its answer {answer!r}")
        return output
    assert number is not None
    if not output:  # MAWPS rows carry no solution
        return f"The answer is {show_number(number)}."
    found = last_number(output)
    if found is None or not same_number(found, number):
        raise BadRow(f"its output ends in {found}, but its answer is {answer} (outputs of test rows are unreliable)")
    return output.removeprefix("A:").strip()


_NORMALISERS: dict[str, Callable[[Mapping[str, Any], Purpose, str], Row]] = {
    "prompt_completion": _prompt_completion,
    "messages": _messages,
    "instruction_output": _instruction_output,
    "llm_adapters": _llm_adapters,
    "text": _plain_text,
}
