"""InfoSteer's own log messages on stderr; the libraries below it keep to errors."""

from __future__ import annotations

import logging
import os
import re
import sys

_PROGRESS = "infosteer.training.pretrain"  # a plain loop whose log lines are its progress


class _Once(logging.Filter):
    """Lets a message through once, whatever its numbers: every arm and seed would repeat it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _PROGRESS:
            return True
        key = re.sub(r"[\d.]+", "#", record.getMessage())
        new = key not in self._seen
        self._seen.add(key)
        return new


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]
    """The command line's own handler."""


def bars_on_terminals_only() -> None:
    """Keep the libraries' progress bars out of files and pipes."""
    if not sys.stderr.isatty():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def show_log(main: bool = True) -> None:
    """Print the package's warnings (only errors on other ranks); with --debug its notes too."""
    debug = os.environ.get("INFOSTEER_DEBUG", "") not in ("", "0")
    logger = logging.getLogger("infosteer")
    logger.setLevel(logging.ERROR if not main else logging.INFO if debug else logging.WARNING)
    logging.getLogger(_PROGRESS).setLevel(logging.INFO if main else logging.ERROR)
    for old in [handler for handler in logger.handlers if isinstance(handler, _Terminal)]:
        logger.removeHandler(old)  # it holds the stderr of then
    handler = _Terminal(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(_Once())
    logger.addHandler(handler)
    # read when transformers and the hub client are first imported, which is later than this
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
