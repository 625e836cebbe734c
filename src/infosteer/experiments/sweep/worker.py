"""One worker process of a sweep: ``python -m infosteer.experiments.sweep.worker FOLDER PARENT``."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from infosteer.errors import InfoSteerError
from infosteer.experiments.bench import Bench
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.source import Source
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.plan import Plan
from infosteer.experiments.sweep.work import work

ORPHANED = 3
_WATCH_S = 1.0


def main(path: Path, parent: int) -> int:
    """Work until nothing is left. Returns: the exit code; 1 for an error that would stop every trial."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    folder = SweepDir(path)
    try:
        plan = Plan(load_recipe(folder.recipe_file), Source(str(folder.recipe_file)))
        work(plan, folder, Bench(Reporter()))
    except KeyboardInterrupt:
        return 130
    except InfoSteerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _end_with(parent: int) -> None:
    """A sweep that was killed leaves no worker behind; what the trial at hand has done is in its checkpoints."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
