"""How to get the same run again: the exact commands, and the resolved recipe."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from infosteer.inspection.report.markup import clip, el, join
from infosteer.inspection.report.section import Context, Section, absent

ID, TITLE = "reproduce", "How to reproduce"
_LONGEST = 60_000  # characters of a recipe


def make_reproduce(context: Context) -> Section:
    """The section, from recipe.yaml and the versions in results.json."""
    run = context.run
    if run.recipe is None:
        return absent(ID, TITLE, "The folder holds no recipe.yaml: copy it from where the run was made.")
    environment = (run.results or {}).get("environment")
    packages = environment.get("packages") if isinstance(environment, Mapping) else None
    packages = packages if isinstance(packages, Mapping) else {}
    named = ("torch", "transformers", "trl", "peft")
    pins = [f"{name}=={str(packages[name]).partition('+')[0]}" for name in named if packages.get(name)]
    folder = str(run.path)
    again = f"{folder.rstrip('/')}-again"
    commands = [
        shlex.join(["pip", "install", *pins]) if pins else None,
        shlex.join(["infosteer", "sweep" if run.is_sweep else "run", f"{folder}/recipe.yaml", "--output", again]),
        shlex.join(["infosteer", "report", again]),
    ]
    threads = environment.get("torch_threads") if isinstance(environment, Mapping) else None
    same = (
        "On a CPU with the same versions and the same number of threads the numbers are the same bits"
        + (f" (this run: {threads} threads)" if threads else "")
        + "; on a GPU they agree within the noise of its kernels."
    )
    text = el("pre", el("code", "\n".join(command for command in commands if command)), tabindex="0")
    recipe = el("pre", el("code", clip(run.recipe_text, _LONGEST)), tabindex="0")
    body = join(text, el("p", same), el("details", el("summary", "The resolved recipe"), recipe))
    return Section(id=ID, title=TITLE, body=body)
