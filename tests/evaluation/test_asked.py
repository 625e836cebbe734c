"""Engines that ask through data methods: prompts, answers, stop texts, room; nothing at all without such methods."""

from __future__ import annotations

from typing import Any

import pytest

from infosteer.evaluation.decode import Decoded
from infosteer.evaluation.engines import asked_through
from infosteer.methods.data.markers import Markers
from infosteer.methods.data.noisy_labels import NoisyLabels

LIST = "<MARKER_LIST> <quality> 0.5 </quality> </MARKER_LIST>"


class Told:
    """An engine that writes down what it is asked, and says what it is told."""

    name, tokenizer, context_length, likelihoods = "told", object(), 99, True

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.seen = texts, dict[str, Any]()

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}

    def decode(self, prompts: list[Any], **options: Any) -> list[Decoded]:
        self.seen = {"prompts": prompts, **options}
        return [Decoded(text=text, tokens=5, finished=False, too_long=False, confidence=0.5) for text in self.texts]

    def score_options(self, prompts: list[Any], options: Any, **more: Any) -> list[Any]:
        self.seen = {"prompts": prompts, "options": options, **more}
        return []

    def score_texts(self, texts: list[str], **more: Any) -> Any:
        return texts


def test_prompts_and_answers_go_through() -> None:
    inner = Told([f"{LIST} Elm. Oak", " Ash", "<MARKER_LIST> never ends."])
    engine = asked_through(inner, [Markers(fixed={"task": "Rewrite"}, room=40), NoisyLabels()])
    found = engine.decode(["a", "b", "c"], max_new_tokens=7, stops=[["."], ["."], ["."]], batch_size=2)
    assert [one.text for one in found] == [" Elm", " Ash", "<MARKER_LIST> never ends"]
    assert [one.finished for one in found] == [True, False, True]
    assert found[0].confidence == 0.5
    assert inner.seen["max_new_tokens"] == 47
    assert [*map(list, inner.seen["stops"])] == [[], [], []], "a stop text within the list must not end it"
    assert inner.seen["prompts"][0] == "a <MARKER_LIST> <task> Rewrite </task> </MARKER_LIST>\n"
    engine.score_options(["a"], [["x"]], leads=[" "], batch_size=1)
    assert inner.seen["prompts"] == ["a <MARKER_LIST> <task> Rewrite </task> </MARKER_LIST>\n"]
    assert engine.score_texts(["document"], batch_size=1) == ["document"]
    assert engine.describe() == {"engine": "told", "asked_through": ["markers"]}
    assert (engine.name, engine.tokenizer, engine.context_length) == ("told", inner.tokenizer, 99)


@pytest.mark.parametrize("methods", [[], [NoisyLabels()], [Markers(strength=0)]])
def test_without_a_way_of_asking_the_engine_is_the_engine(methods: list[Any]) -> None:
    inner = Told([])
    assert asked_through(inner, methods) is inner
