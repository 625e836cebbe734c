"""Whether steering costs the same share of a step in one process and in several (DDP over gloo, one thread each).

    python benchmarks/processes.py [--processes 1,2] [--rounds 20] [--json] [--output FILE]

Every process has the arms' models side by side, wrapped by DistributedDataParallel, and all processes make the same
steps in the same rotating order; a round gives a ratio to the plain step of that round. Shapes are those of
``benchmarks/overhead.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from overhead import METHODS, Step, build_batch, build_model, in_turn, write_json
from torch.nn.parallel import DistributedDataParallel

import infosteer

ARMS = {arm: methods for arm, methods in METHODS.items() if arm != "intervention, half"}


def work(rank: int, world: int, folder: str, options: argparse.Namespace) -> None:
    """One process: measures, and the first one writes its ratios to ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    steps: dict[str, Step] = {}
    for arm, methods in ARMS.items():
        model = build_model(options)
        session = infosteer.steer(model, methods) if methods else None
        parallel = DistributedDataParallel(model)
        torch.manual_seed(rank)
        inputs = build_batch(options)

        def step(parallel: Any = parallel, session: Any = session, inputs: Any = inputs) -> None:
            parallel.zero_grad(set_to_none=True)
            loss = parallel(**inputs).loss
            (session.loss(loss) if session else loss).backward()

        steps[arm] = step
    in_turn(steps, 2)  # to warm up
    found = in_turn(steps, options.rounds, before=dist.barrier)
    if rank == 0:
        write_json(found, Path(folder) / "found.json")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--width", type=int, default=4864)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=256, help="of each process")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = {}
    for world in (int(part) for part in options.processes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, args=(world, folder, options), nprocs=world)
            found[str(world)] = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    shape = {name: getattr(options, name) for name in ("hidden", "width", "layers", "tokens", "batch", "rounds")}
    result = {"shape": shape, "torch": torch.__version__, "processes": found}
    write_json(result, options.output)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for world, arms in found.items():
        print(f"{world} process(es), plain step {arms['plain']['median_ms']:.0f} ms")
        for arm, row in arms.items():
            if arm != "plain":
                low, high = (value - 1 for value in row["ratio_quartiles"])
                print(f"  {arm:<20}{row['ratio_median'] - 1:+.1%} ({low:+.1%} to {high:+.1%})")


if __name__ == "__main__":
    main()
