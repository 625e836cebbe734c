"""Raw rows of the sets that stand for the paper's task types, in words of our own; see ``convert`` for the shape.

The paper does not say which sets its types are made of. These are public ones, and the columns are those of the hub or
of the copies in the local data folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from infosteer.evaluation.tasks.columns import Raw, index, labelled, number, text, texts
from infosteer.evaluation.tasks.convert import LETTERS, Shaped, choice, counted, lettered
from infosteer.training.row_formats import BadRow

_PLAIN_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def lambada(row: Raw) -> Shaped:
    """context, continuation (the last word); or text, whose last word is asked for. Continued, not instructed."""
    if "context" in row:
        context, word = text(row, "context"), text(row, "continuation")
    else:
        context, _, word = text(row, "text").rpartition(" ")
    if not context:
        raise BadRow("its text is a single word, so there is nothing to continue")
    return {"prompt": context, "completion": f" {word}"}


def lettered_query(row: Raw) -> Shaped:
    """query: a question whose options ``A. ...`` stand in lines of their own; gold (their place)."""
    asked = re.sub(r"\s*Answer:\s*$", "", text(row, "query"))
    question, *options = re.split(r"\n[A-J]\. ?", asked)
    if len(options) < 2 or not question.removeprefix("Q:").strip():
        raise BadRow("its query is no question followed by options A., B., ...")
    return lettered(question.removeprefix("Q:").strip(), options, index(row, "gold", len(options)))


def query(row: Raw) -> Shaped:
    """query, choices, gold (their place)."""
    asked = re.sub(r"^Context:\s*", "", re.sub(r"\s*\bA(?:nswer)?:\s*$", "", text(row, "query")))
    asked = re.sub(r"\s*\bQ:\s*", "\n", asked).strip()
    if not asked:
        raise BadRow("its query holds no question")
    options = texts(row, "choices")
    return choice(asked, options, index(row, "gold", len(options)), "answer")


def mmlu(row: Raw) -> Shaped:
    """subject, question, choices, answer (their place)."""
    options = texts({"choices": [str(one) or "-" for one in row.get("choices") or []]}, "choices")
    subject = text(row, "subject").replace("_", " ")
    return lettered(f"A question on {subject}: {text(row, 'question')}", options, index(row, "answer", len(options)))


def triviaqa(row: Raw) -> Shaped:
    """question, answer {value, aliases}; or context ("Question: ... Answer:"), answer, aliases."""
    answer = row.get("answer")
    found: Raw = answer if isinstance(answer, Mapping) else {"value": answer, "aliases": row.get("aliases")}
    asked = re.sub(r"^Question:\s*|\s*Answer:\s*$", "", text(row, "question", "context"))
    if not asked:
        raise BadRow("its question is empty")
    aliases = [alias for alias in found.get("aliases") or [] if isinstance(alias, str) and alias.strip()]
    shaped = {"instruction": f"Answer in a few words: {asked}", "input": "", "output": text(found, "value")}
    return shaped | {"aliases": aliases or None}


def commonsenseqa(row: Raw) -> Shaped:
    """question, choices (texts, or {text, label}), answer (their place) or answerKey."""
    if isinstance(row.get("choices"), Mapping):
        options, right = labelled(row)
    else:
        options = texts(row, "choices")
        right = index(row, "answer", len(options))
    return choice(text(row, "question"), options, right, "answer")


def competition_math(row: Raw) -> Shaped | None:
    """problem (or context), solution (or chain_of_thought), answer; only problems whose answer is a plain number."""
    answer = number(row, "answer").replace("\\!", "")
    if not _PLAIN_NUMBER.fullmatch(answer):
        return None
    return counted(text(row, "problem", "context"), answer, str(row.get("solution", row.get("chain_of_thought")) or ""))


def wsc(row: Raw) -> Shaped:
    """context_options (two texts that end in different words), continuation, gold."""
    contexts = texts(row, "context_options")
    words = [context.split(" ") for context in contexts]
    if len(words) != 2 or words[0] == words[1]:
        raise BadRow("its context_options are not two texts that end in different words")
    shared = 0  # words; at least one is left of each, since "Emma's" and "Emma's mother's" are options too
    while shared < min(map(len, words)) - 1 and words[0][shared] == words[1][shared]:
        shared += 1
    options = [" ".join(one[shared:]) for one in words]
    before = " ".join([*words[0][:shared], "_"])
    ask = f"Who or what belongs in the blank? {before} {text(row, 'continuation')}"
    return choice(ask, options, index(row, "gold", 2), "option")


def bbh(row: Raw) -> Shaped | None:
    """input: a question, "Options:" and lines ``(A) ...``; target: ``(A)``."""
    question, mark, listed = text(row, "input").partition("\nOptions:\n")
    options = re.split(r"(?:^|\n)\([A-J]\) ?", listed)[1:]
    if mark and len(options) == 1:
        return None  # a published row of snarks is cut off in its first option
    target = text(row, "target").strip("()")
    if not mark or not all(options) or target not in list(LETTERS[: len(options)]):
        raise BadRow(f"its input lists no options that the target {str(row['target'])[:40]!r} is one of")
    return lettered(question, options, LETTERS.index(target))


TYPE_CONVERTERS: Mapping[str, Callable[[Raw], Shaped | None]] = {
    function.__name__: function
    for function in (
        lambada,
        lettered_query,
        query,
        mmlu,
        triviaqa,
        commonsenseqa,
        competition_math,
        wsc,
        bbh,
    )
}
