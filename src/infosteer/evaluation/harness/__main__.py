"""``python -m infosteer.evaluation.harness``: the command of lm-evaluation-harness, with the model ``infosteer``."""

from __future__ import annotations

import sys

from infosteer.errors import ConfigError, InfoSteerError
from infosteer.evaluation.harness import require

UNSAFE = ("confirm_run_unsafe_code", "trust_remote_code")


def main() -> int:
    """Run lm-eval's command line; 0 on success, 2 for what this package refuses."""
    try:
        _run()
    except InfoSteerError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _run() -> None:
    require()
    import lm_eval.tasks
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from infosteer.evaluation.harness.vetting import VettedTaskManager

    setup_logging()
    command = HarnessCLI()
    arguments = command.parse_args()
    asked = [name for name in UNSAFE if getattr(arguments, name, False)]
    if asked:
        raise ConfigError(
            "this command never runs model text or remote code",
            got=", ".join(f"--{name}" for name in asked),
            fix="use lm-eval's own command, in a sandbox of your own",
        )
    lm_eval.tasks.TaskManager = VettedTaskManager  # the command builds its task manager by this name
    command.execute(arguments)


if __name__ == "__main__":
    sys.exit(main())
