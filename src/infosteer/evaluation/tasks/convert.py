"""Raw rows of the fifteen benchmarks, as the hub holds them, in the shape of the suite's rows.

The wording here is our own and marked as such in every result: scores under it are no reproduction of scores under the
suite's. Only the shape is shared, so that everything behind it is one path: ``{"instruction", "input", "output",
"answer"}`` and, stated rather than read off the text, ``options``. A function has the name of its task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infosteer.evaluation.tasks.columns import Raw, index, labelled, number, text, texts
from infosteer.training.answers import last_number, show_number
from infosteer.training.row_formats import BadRow

Shaped = dict[str, Any]
LETTERS = "ABCDEFGHIJ"


def choice(question: str, options: Sequence[str], right: int, word: str) -> Shaped:
    """A question whose options are called ``word`` and their number."""
    names = [f"{word}{place}" for place in range(1, len(options) + 1)]
    listed = "\n".join(f"{name.capitalize()}: {option}" for name, option in zip(names, options, strict=True))
    return _shaped(f"{question}\n\n{listed}\n\nAnswer format: {'/'.join(names)}", names, names[right])


def lettered(question: str, options: Sequence[str], right: int, rationale: str = "") -> Shaped:
    """A question whose options stand under letters; its answer may follow a rationale."""
    names = list(LETTERS[: len(options)])
    listed = " ".join(f"({name}) {option}" for name, option in zip(names, options, strict=True))
    made = _shaped(f"{question}\n\nAnswer Choices: {listed}", names, names[right])
    return made | {"output": f"{rationale} The answer is ({names[right]}).".strip()}


def counted(question: str, answer: str, solution: str = "") -> Shaped:
    """A question for a number; the solution, where there is one, ends in it."""
    value = last_number(answer)
    if value is None:
        raise BadRow(f"its answer {answer[:40]!r} is no number")
    shown = show_number(value)
    output = f"{solution} The answer is {shown}.".strip()
    return {"instruction": question, "input": "", "output": output, "answer": shown}


def _shaped(instruction: str, options: list[str], answer: str) -> Shaped:
    output = f"the correct answer is {answer}"
    return {"instruction": instruction, "input": "", "output": output, "answer": answer, "options": options}


def _sentence(words: str, end: str) -> str:
    return words if words[-1] in ".?!" else words + end


def boolq(row: Raw) -> Shaped:
    """question, answer (a truth value); the passage is left out, as in the suite."""
    answer = row.get("answer", row.get("label"))
    if not isinstance(answer, bool) and answer not in (0, 1):
        raise BadRow(f"field 'answer' is {str(answer)[:40]!r}, not true or false")
    ask = f"Say true for yes and false for no: {_sentence(text(row, 'question'), '?')}\n\nAnswer format: true/false"
    return _shaped(ask, ["true", "false"], "true" if answer else "false")


def piqa(row: Raw) -> Shaped:
    """goal, sol1, sol2, label (0 or 1)."""
    ask = f"Which solution reaches the goal? Goal: {text(row, 'goal')}"
    return choice(ask, [text(row, "sol1"), text(row, "sol2")], index(row, "label", 2), "solution")


def siqa(row: Raw) -> Shaped:
    """context, question, answerA, answerB, answerC, label (1 to 3)."""
    ask = f"{text(row, 'context')} {text(row, 'question')}"
    return choice(ask, [text(row, f"answer{letter}") for letter in "ABC"], index(row, "label", 3, first=1), "answer")


def hellaswag(row: Raw) -> Shaped:
    """activity_label, ctx_a, ctx_b (or ctx), endings, label (0 to 3); the WikiHow markers are taken out."""
    scene = text(row, "ctx") if row.get("ctx") else f"{text(row, 'ctx_a')} {row.get('ctx_b') or ''}"
    about = _unmarked(text(row, "activity_label"))
    endings = [_unmarked(ending) for ending in texts(row, "endings")]
    ask = f"Which ending continues the text? {about}: {_unmarked(scene)}"
    return choice(ask, endings, index(row, "label", len(endings)), "ending")


def _unmarked(words: str) -> str:
    words = words.replace(" [title]", ". ").replace("[title]", "")
    return re.sub(r"\s+", " ", re.sub(r"\[(?:header|step|substeps)\]", " ", words)).strip() or words


def winogrande(row: Raw) -> Shaped:
    """sentence with a blank ``_``, option1, option2, answer (1 or 2)."""
    sentence = text(row, "sentence")
    if "_" not in sentence:
        raise BadRow("its sentence has no blank '_' to fill")
    options = [text(row, "option1"), text(row, "option2")]
    return choice(f"Who or what belongs in the blank? {sentence}", options, index(row, "answer", 2, first=1), "option")


def arc(row: Raw) -> Shaped:
    """question, choices {text, label}, answerKey."""
    options, right = labelled(row)
    return choice(text(row, "question"), options, right, "answer")


def openbookqa(row: Raw) -> Shaped:
    """question_stem, choices {text, label}, answerKey."""
    options, right = labelled(row)
    return choice(f"Complete or answer: {text(row, 'question_stem')}", options, right, "answer")


def gsm8k(row: Raw) -> Shaped:
    """question, answer: a solution with calculator notes ``<<6*2=12>>`` and the number after ``####``."""
    solution, mark, answer = text(row, "answer").rpartition("####")
    if not mark:
        raise BadRow("its answer has no '####' before the number")
    return counted(text(row, "question"), answer, " ".join(re.sub(r"<<.*?>>", "", solution).split()))


def aqua(row: Raw) -> Shaped:
    """question, options (texts such as ``A)21``), rationale, correct (a letter)."""
    listed = texts(row, "options")
    if any(not re.match(rf"\(?{letter}\s*\)\s*\S", one) for letter, one in zip(LETTERS, listed, strict=False)):
        raise BadRow(f"its options do not begin with their letters: {' '.join(listed)[:60]!r}")
    options = [one.partition(")")[2].strip() for one in listed]
    correct = text(row, "correct")
    if correct not in list(LETTERS[: len(options)]):
        raise BadRow(f"field 'correct' is {correct[:40]!r}, but there are {len(options)} options")
    return lettered(text(row, "question"), options, LETTERS.index(correct), str(row.get("rationale") or ""))


def svamp(row: Raw) -> Shaped:
    """Body, Question, Answer."""
    return counted(f"{_sentence(text(row, 'Body'), '.')} {text(row, 'Question')}", number(row, "Answer"))


def multiarith(row: Raw) -> Shaped:
    """question, final_ans."""
    return counted(text(row, "question"), number(row, "final_ans"))


def mawps(row: Raw) -> Shaped:
    """question, result; or Question with places N_00, N_01, Numbers that fill them, and Answer."""
    question = text(row, "question", "Question")
    values = str(row.get("Numbers") or "").split()

    def filled(match: re.Match[str]) -> str:
        place = int(match[1])
        value = last_number(values[place]) if place < len(values) else None
        if value is None:
            raise BadRow(f"its question has the place {match[0]}, but there are {len(values)} numbers")
        return show_number(value)

    return counted(re.sub(r"N_(\d+)", filled, question), number(row, "result", "Answer"))


def problem(row: Raw) -> Shaped:
    """sQuestion, lSolutions: the distribution of the AddSub and SingleEq authors; or question, answer."""
    if "sQuestion" not in row:
        return counted(text(row, "question"), number(row, "answer"))
    solutions = row.get("lSolutions")
    if not isinstance(solutions, list) or len(solutions) != 1:
        raise BadRow("field 'lSolutions' is no list of one number")
    return counted(text(row, "sQuestion"), number({"lSolutions[0]": solutions[0]}, "lSolutions[0]"))


CONVERTERS: Mapping[str, Callable[[Raw], Shaped | None]] = {
    function.__name__: function
    for function in (
        boolq,
        piqa,
        siqa,
        hellaswag,
        winogrande,
        arc,
        openbookqa,
        gsm8k,
        aqua,
        svamp,
        multiarith,
        mawps,
        problem,
    )
}
