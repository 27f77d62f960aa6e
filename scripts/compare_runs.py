"""Compare the losses of runs step by step: compare_runs.py TOLERANCE RUN RUN [RUN ...].

Exits with 1 where a later run leaves the first by more than TOLERANCE (relative), at any step that
both have.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def losses(run: str) -> dict[int, float]:
    """Step to loss; a step that was done again counts with its last loss."""
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r["loss"] for r in map(json.loads, lines) if "loss" in r}


def main(tolerance: float, first: str, *others: str) -> int:
    """Print the largest difference of each; the exit code."""
    expected, failed = losses(first), False
    for run in others:
        found = losses(run)
        steps = expected.keys() & found.keys()
        if not steps:
            print(f"{run} and {first} have no step in common")
            return 1
        worst = max(abs(found[s] - expected[s]) / expected[s] for s in steps)
        failed |= not worst <= tolerance
        print(f"{run}: {len(steps)} losses of {first} within {worst:.1e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *sys.argv[2:]))
