"""Runs the torture tests at full count, or at a share of it, and prints one table; exit 1 if any does not hold.

python -m torture [NAME ...] [--share 0.1] [--seed 0] [--jobs 4]
"""

import argparse
import importlib
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # fakes and tiny bases lie beside this folder

TESTS = ("crashes", "faults", "damage", "crowds", "troubles", "fuzz", "machines", "edits", "merges")


def main() -> int:
    parser = argparse.ArgumentParser("torture", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TESTS)} (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    args = parser.parse_args()
    if unknown := set(args.names) - set(TESTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print(f"{platform.platform()}, {args.jobs} processes, seed {args.seed}\n")
    print("| test | tried | did not hold | on the way | minutes |\n|---|---|---|---|---|", flush=True)
    failures = []
    for name in args.names or TESTS:
        test = importlib.import_module(f"torture.{name}")
        began = time.monotonic()
        outcome = test.run(max(1, round(test.FULL * args.share)), args.seed, args.jobs)
        minutes = (time.monotonic() - began) / 60
        print(
            f"| {test.TITLE} | {outcome.tried:,} | {len(outcome.failures)} | {outcome.told} | {minutes:.1f} |",
            flush=True,
        )
        failures += [f"{name}: {line}" for line in outcome.failures]
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
