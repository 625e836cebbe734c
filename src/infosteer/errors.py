"""Errors that users meet.

Every message answers five questions in a fixed order: what went wrong, where, what was got, what was expected, and how
to mend it; the last line names a page under ``docs/errors``.
"""

from __future__ import annotations


class InfoSteerError(ValueError):
    """Base of every user-facing error.

    Args:
        what: one sentence that says what went wrong.
        where: file and line, module path, recipe key or trainer argument concerned.
        got: the offending value.
        expected: the values that would be accepted.
        fix: what to do next.
    """

    page = "general"

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        fix: object = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = what, where, got, expected, fix
        details = {"where": where, "got": got, "expected": expected, "fix": fix}
        lines = [what, *(f"  {name}: {value}" for name, value in details.items() if value is not None)]
        super().__init__("\n".join([*lines, f"  see: docs/errors/{self.page}.md"]))

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments do not survive the default pickling
        return _rebuild, (type(self), self.what, self.where, self.got, self.expected, self.fix)


def _rebuild(
    kind: type[InfoSteerError], what: str, where: object, got: object, expected: object, fix: object
) -> InfoSteerError:
    return kind(what, where=where, got=got, expected=expected, fix=fix)


class ConfigError(InfoSteerError):
    """A setting, recipe key or argument that cannot be used."""

    page = "config"


class ArchitectureError(InfoSteerError):
    """A model whose key coefficients cannot be located, or must not be steered."""

    page = "architecture"


class SiteError(InfoSteerError):
    """A site that was located but does not fire, or fires with the wrong shape."""

    page = "site"


class AttachError(InfoSteerError):
    """A model or trainer that cannot be steered in its present state or order of wrapping."""

    page = "attach"


class NoEffectError(InfoSteerError):
    """A method with positive strength that changed nothing in its first training step."""

    page = "no-effect"


class NonFiniteLossError(InfoSteerError):
    """A training loss that became NaN or infinite."""

    page = "non-finite-loss"


class DataError(InfoSteerError):
    """Data that is missing, unreadable, empty, or lacks the needed fields."""

    page = "data"


class RunError(InfoSteerError):
    """A run directory, checkpoint or disk that cannot be read or written."""

    page = "run"
