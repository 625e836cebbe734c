"""How fast the lab draws word problems, checks their solutions, and sorts them into splits; on one core.

    python benchmarks/reasoning.py [--count 100000] [--operations 1-8] [--json]

The product's promise is 100,000 problems in under two minutes.
"""

from __future__ import annotations

import argparse
import json
import time

from infosteer.lab.reasoning import Settings, problems, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--operations", default="1-8")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    low, _, high = options.operations.partition("-")
    settings = Settings(operations=(int(low), int(high or low)), contexts="ABC", reverse=0.1)

    started = time.process_time()
    stream = problems(settings, seed=1, split="pretraining")
    drawn = [next(stream) for _ in range(options.count)]
    drawing = time.process_time() - started
    started = time.process_time()
    verified = sum(score(problem.completion, problem.completion).verified for problem in drawn)
    checking = time.process_time() - started

    figures = {
        "problems": options.count,
        "operations": f"{low}-{high or low}",
        "cpu_seconds": round(drawing, 2),
        "problems_per_second": round(options.count / drawing),
        "solutions_checked_per_second": round(options.count / checking),
        "gold_verified": verified,
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<30}{value:>12}")


if __name__ == "__main__":
    main()
