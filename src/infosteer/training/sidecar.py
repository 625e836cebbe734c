"""``infosteer.json``: what steered a saved model, beside its ordinary files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from infosteer.core.session import Session
from infosteer.errors import RunError
from infosteer.training.compat import versions

NAME = "infosteer.json"
SCHEMA = 1


def write_sidecar(folder: str | Path, session: Session) -> Path:
    """Writes ``infosteer.json`` into a saved model's folder; plain transformers loads the folder as before."""
    folder = Path(folder)
    facts = {
        "schema": SCHEMA,
        "methods": session.describe(),
        "sites": [{"layer": site.layer, "name": site.name, "width": site.width} for site in session.sites],
        "step": session.step,
        "versions": versions(),
    }
    target, draft = folder / NAME, folder / f".{NAME}.{os.getpid()}"
    draft.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    draft.replace(target)
    return target


def read_sidecar(folder: str | Path) -> dict[str, Any] | None:
    """The facts in a model folder's ``infosteer.json``; None where there is none.

    Raises:
        RunError: a file that is not what ``write_sidecar`` writes.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError("cannot read the sidecar", where=path, got=str(error)) from None
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise RunError("unknown sidecar format", where=path, got=facts, expected=f"schema {SCHEMA}")
    return facts
