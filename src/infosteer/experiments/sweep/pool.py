"""Worker processes of a sweep on this machine: each works on the folder until nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infosteer.errors import RunError
from infosteer.experiments.environment import cpu_cores
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.plan import Plan
from infosteer.experiments.sweep.work import open_trials

MODULE = "infosteer.experiments.sweep.worker"
INTERRUPTED = 130
DEATHS = 2  # of processes in one trial, then it counts as failed: it may need more memory than there is
_PATIENCE_S = 15.0


@dataclass(kw_only=True, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    file: IO[bytes]


class Pool:
    """Starts workers, restarts those that die, and ends them.

    Args:
        count: processes; each gets its share of the cores as threads, unless OMP_NUM_THREADS says otherwise.
    """

    def __init__(self, plan: Plan, folder: SweepDir, count: int) -> None:
        self.plan, self.folder = plan, folder
        self.environment = worker_environment(count)
        self.deaths: dict[str, int] = {}
        self.started = 0
        self.workers = [self._start() for _ in range(count)]

    def tend(self) -> bool:
        """Look after the workers. Returns: whether any is at work.

        Raises: RunError when one stopped with an error that no other trial would be spared.
        """
        for worker in list(self.workers):
            code = worker.process.poll()
            if code is None:
                continue
            self.workers.remove(worker)
            worker.file.close()
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code < 0:
                self.died(worker.process.pid, -code)
                if open_trials(self.plan, self.folder):
                    self.workers.append(self._start())
            elif code > 0:
                raise RunError(
                    "A worker of the sweep stopped.",
                    where=worker.log,
                    got=_last_words(worker.log),
                    fix="mend the cause, then run the same command again: finished trials are kept",
                )
        return bool(self.workers)

    def stop(self) -> None:
        """End all workers: an interrupt first, which lets them tidy up."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _PATIENCE_S
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.file.close()
        self.workers = []

    def _start(self) -> _Worker:
        self.started += 1
        log = self.folder.path / "logs" / f"worker-{os.getpid()}-{self.started}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("wb")
        command = [sys.executable, "-m", MODULE, str(self.folder.path), str(os.getpid())]
        process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        return _Worker(process=process, log=log, file=file)

    def died(self, process: int, signal_number: int) -> None:
        """A process was killed. If that was the second in the same trial, the trial counts as failed."""
        held = [t for t in open_trials(self.plan, self.folder) if self.folder.trial(t).holder() == process]
        for trial in held:
            self.deaths[trial.key] = self.deaths.get(trial.key, 0) + 1
            if self.deaths[trial.key] >= DEATHS:
                reason = RunError(
                    f"The process was killed by signal {signal_number}, {DEATHS} times.",
                    where=self.folder.trial(trial).path,
                    fix="it may need more memory than there is: try fewer workers",
                )
                self.folder.give_up(trial, reason)


def worker_environment(count: int) -> dict[str, str]:
    """Environment variables of one of ``count`` workers: its share of the cores, and quiet libraries."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpu_cores() // max(count, 1)))
    return {
        "GOMP_SPINCOUNT": "1000",  # see cli.main
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-8:])
