"""One block of examples at four places of a prompt, written out as a chat or in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.errors import ConfigError

SLOTS = ("ssp", "esp", "sum", "eum")
ZERO_SHOT = "zero_shot"
BETWEEN = "\n\n"
_SYSTEM, _USER = "systempartinfosteer", "userpartinfosteer"

Message = dict[str, str]


def place(slot: str, instruction: str, examples: str, question: str, closing: str = "") -> list[Message]:
    """A prompt with the examples at one place.

    Args:
        slot: ``ssp`` start of the system prompt, ``esp`` its end, ``sum`` start of the user's message, ``eum`` its end,
            ``zero_shot`` nowhere.
        closing: ends the user's message in every slot.

    Returns:
        A system message, unless it would be empty, and the user's.

    Raises:
        ConfigError: another slot.
    """
    orders = {
        "ssp": ((examples, instruction), (question,)),
        "esp": ((instruction, examples), (question,)),
        "sum": ((instruction,), (examples, question)),
        "eum": ((instruction,), (question, examples)),
        ZERO_SHOT: ((instruction,), (question,)),
    }
    if slot not in orders:
        raise ConfigError("There is no such place for examples.", got=slot, expected=" | ".join(orders))
    system, user = (BETWEEN.join(filter(None, parts)) for parts in orders[slot])
    user = BETWEEN.join(filter(None, (user, closing)))
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": user}]


def in_words(messages: Sequence[Mapping[str, str]]) -> str:
    """A chat for models without a chat template, its roles spelled out."""
    return BETWEEN.join([f"{one['role'].capitalize()}: {one['content']}" for one in messages] + ["Assistant:"])


def check_system_role(tokenizer: Any) -> None:
    """Refuses chat templates in which a system message is nowhere, or is a part of the user's.

    Raises:
        ConfigError: naming the template's fault; no two slots would differ as they should.
    """
    if not tokenizer.chat_template:
        raise _unfit("the tokenizer has no chat template", None)
    chat = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise whatever they like
        raise _unfit("the chat template refuses a system message", str(error)[:200]) from error
    before, _, after = text.partition(_SYSTEM)
    between = after.partition(_USER)[0]
    if _USER in before or _USER not in after:
        raise _unfit("the chat template drops or moves the system message", text[:200])
    if not between.strip():
        raise _unfit("the chat template merges the system message into the user's", text[:200])


def _unfit(what: str, got: str | None) -> ConfigError:
    return ConfigError(
        f"{what}, so examples have no place of their own in the system prompt",
        where="probes/demo_position",
        got=got,
        fix="set frame: words, which spells the roles out",
    )
