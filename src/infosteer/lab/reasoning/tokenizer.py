"""The tokenizer of the reasoning half: one token for every word of the stories, number, letter and sign.

A word's token holds the space before it, so decoding gives back the text to the letter. Words that no story has become
one unknown token.
"""

from __future__ import annotations

import re
import string
from dataclasses import fields
from typing import TYPE_CHECKING

from infosteer.lab.reasoning.contexts import CONTEXTS, EXPRESSIONS
from infosteer.lab.tokenizer import END, PAD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN_WORD = "<|unknown|>"
LARGEST = 20
TAGS = ("<question>", " </question>", " <solution>", " </solution>", " <answer>", " </answer>")
PIECE = r" ?</?[a-z]+>| ?[A-Za-z]+| ?[0-9]+| ?[-+*=()]|[.,;?]"


def story_words() -> list[str]:
    """Every word that a story or a solution can hold, in a fixed order."""
    texts = [*EXPRESSIONS.values(), "Define as so Solve"]
    for story in CONTEXTS.values():
        for field in fields(story):
            value = getattr(story, field.name)
            texts += [value] if isinstance(value, str) else value if isinstance(value, tuple) else []
    words = re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", " ".join(texts)))
    return list(dict.fromkeys(word for word in words if len(word) > 1))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer; there is nothing to train, so it is the same every time."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spaced = [*map(str, range(LARGEST + 1)), *string.ascii_letters, *"+-*=()", *story_words()]
    names = [END, PAD, UNKNOWN_WORD, *TAGS, *".,;?", *(f" {name}" for name in spaced)]
    core = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=UNKNOWN_WORD))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN_WORD,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
