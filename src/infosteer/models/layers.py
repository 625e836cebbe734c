"""Which decoder layers a method acts on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from infosteer.errors import ConfigError

_THIRDS = ("early", "middle", "late")
_ACCEPTED = '"all", "early", "middle", "late" (joined by "+"), "0-15", "0-3,8,10-11", or a list of layer numbers'
_PIECE = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?")


def select_layers(spec: str | Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Layer numbers named by ``spec``, ascending, zero-based; ranges include both ends.

    The thirds of L layers are early = [0, round(L/3)), middle = [round(L/3), round(2L/3)), late = the rest.

    Args:
        spec: "all", a third or several joined by "+", ranges such as "0-3,8,10-11", or a sequence of ints.
        num_layers: L, the number of decoder layers of the model.

    Raises:
        ConfigError: a wrong type or word, a layer that does not exist or is named twice, or no layer at all.
    """
    named: list[int]
    if isinstance(spec, str):
        named = list(_from_text(spec, num_layers))
    elif isinstance(spec, Sequence) and all(type(number) is int for number in spec):
        named = [int(number) for number in spec]
    else:
        raise _error("layers has a type that names no layers", spec, num_layers)
    outside = sorted({number for number in named if not 0 <= number < num_layers})
    if outside:
        raise _error(f"layers names layers that do not exist: {outside}", spec, num_layers)
    twice = sorted({number for number in named if named.count(number) > 1})
    if twice:
        raise _error(f"layers names the same layer more than once: {twice}", spec, num_layers)
    if not named:
        raise _error("layers selects no layer", spec, num_layers)
    return tuple(sorted(named))


def _from_text(spec: str, num_layers: int) -> Iterator[int]:
    text = spec.strip().lower()
    if text == "all":
        yield from range(num_layers)
    elif text and not text[0].isdigit():
        first, second = round(num_layers / 3), round(2 * num_layers / 3)
        thirds = dict(zip(_THIRDS, (range(first), range(first, second), range(second, num_layers)), strict=True))
        for word in (part.strip() for part in text.split("+")):
            if word not in thirds:
                raise _error(f"layers has a word that is not understood: {word!r}", spec, num_layers)
            yield from thirds[word]
    else:
        for piece in (part.strip() for part in text.split(",")):
            match = _PIECE.fullmatch(piece)
            if match is None:
                raise _error(f"layers has a part that is not understood: {piece!r}", spec, num_layers)
            low, high = int(match[1]), int(match[2] or match[1])
            if low > high:
                raise _error(f"layers has a range that runs backwards: {piece!r}", spec, num_layers)
            # A wild upper end must not build a list of billions before the check that it exists.
            yield from range(low, min(high, max(low, num_layers)) + 1)


def _error(what: str, spec: object, num_layers: int) -> ConfigError:
    last = num_layers - 1
    return ConfigError(
        what,
        where="layers",
        got=repr(spec),
        expected=f"{_ACCEPTED}; this model has {num_layers} layers, numbered 0 to {last}",
        fix=f'name layers between 0 and {last}, or use "all"',
    )
