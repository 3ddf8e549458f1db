"""Measures the generation engine and what stands beside it, and prints a table.

    python tests/bench_engine.py             speed on Mistral-7B's shape, against transformers; some minutes on an H100
    python tests/bench_engine.py --same      whether candidates are the same whatever is drawn beside them; likewise
    python tests/bench_engine.py --cpu       the embedded base on two cores, against `generate`; some three minutes
    python tests/bench_engine.py --growth    time and memory of 24 to 10,000 cards on a base of next to no size

`--tiny` tries any of them on any machine. workload.py tells the job. Each run is a process of its own; one that fails
is told in the table, and the others go on.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workload import bench_job

Result = dict[str, Any]
ROWS = {
    "one": "`generate`, one at a time",
    "generate": "`generate`, 768 at a time",
    "continuous": "continuous batching of transformers",
    "keyed": "engine",
    "free": "engine, free sampling",
    "nf4": "engine, base in NF4",
}
GROWTH = (24, 240, 2400, 10000)


def main() -> None:
    """Measures what was asked for and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    for name, measure in {"same": same, "cpu": cpu, "growth": growth}.items():
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=measure, default=speed)
    parser.add_argument("--tiny", action="store_true", help="little of everything, to try the script")
    parser.add_argument("--rows", type=_rows, help=f"some of {','.join(ROWS)}; all but nf4 unless told")
    parser.add_argument(
        "--cards", type=int, default=144, help="cards for `generate`, 48 a batch; the whole job has 240"
    )
    parser.add_argument("--slots", type=int, help="of the engine, 0 for its own choice; 768 unless told, 8 if --tiny")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of the engine, or of all with --cpu; medians are shown"
    )
    parser.add_argument("--limit", type=int, default=3600, help="seconds that a run may take")
    parser.add_argument("--base", type=Path, help="folder of the base for nf4; made where it is missing")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.slots is None:
        args.slots = 8 if args.tiny else 768
    args.rows = args.rows or [row for row in ROWS if row != "nf4"]
    if "nf4" in args.rows and not args.base:
        parser.error("the row nf4 wants --base")
    if args.run:
        from measures import measure

        print(json.dumps(measure(args)))
        return
    results = args.mode(args)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if any("failed" in result for result in results):
        sys.exit(1)


def _rows(text: str) -> list[str]:
    rows = text.split(",")
    if unknown := sorted(set(rows) - ROWS.keys()):
        raise argparse.ArgumentTypeError(f"unknown rows {', '.join(unknown)}. Wanted some of {', '.join(ROWS)}")
    return rows


def run(args: argparse.Namespace, kind: str, count: int = 0) -> Result:
    """Measures in a fresh process; a run that fails or takes too long returns why as `failed`."""
    command = [sys.executable, __file__, "--run", kind, "--count", str(count), "--cards", str(args.cards), "--slots",
               str(args.slots), "--repeats", str(args.repeats), *(["--tiny"] if args.tiny else []),
               *(["--base", str(args.base)] if args.base else [])]  # fmt: skip
    result: Result = {"run": kind}
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=args.limit)
    except subprocess.TimeoutExpired:
        result["failed"] = f"not done after {args.limit} s"
    else:
        if process.returncode:
            print(process.stderr[-4000:], file=sys.stderr)
            said = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
            result["failed"] = said[-1][:300]
        else:
            result |= json.loads(process.stdout.splitlines()[-1])
    print(result, file=sys.stderr, flush=True)
    return result


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def speed(args: argparse.Namespace) -> list[Result]:
    """Measures tokens per second of the engine and of what it is measured against, and the floor of a step."""
    least = run(args, "floor")
    results = [run(args, kind) for kind in args.rows]
    floors = {floor["slots"]: floor for floor in least.get("floors", [])}
    total = bench_job(tiny=args.tiny).total
    head = ["", "tokens/s", "of the floor", f"{total:,} tokens, s", "start-up, s", "to a first candidate, s",
            "GPU memory allocated, GiB", "reserved, GiB", "peak RSS, GiB", "measured on"]  # fmt: skip
    table(head, [speed_row(result, floors.get(args.slots), total) for result in results])
    if floors:
        print(f"\nThe floor of a step: a copy moves {least['device']['bandwidth'] / 1e12:.2f} TB/s, read and written, "
              f"and a large product does {least['device']['rate'] / 1e12:.3g} TFLOP/s.")  # fmt: skip
        head = ["slots", "weights, GB", "cache, GB", "TFLOP", "by bytes, ms", "by operations, ms", "tokens/s",
                "prompts, s", "whole job, tokens/s"]  # fmt: skip
        table(head, [floor_row(floor) for floor in floors.values()])
    return [least, *results]


def speed_row(result: Result, floor: Result | None, total: int) -> list[str]:
    """Puts a run into the table; figures of a part of the job are carried over to the whole of it."""
    name = ROWS[result["run"]]
    if "failed" in result:
        return [name, *["-"] * 8, f"failed: {result['failed'].replace('|', '/')}"]
    tokens = result["tokens"] / result["seconds"]
    what = result["what"] + (
        "" if result["tokens"] == total else f", {result['tokens']:,} tokens; the rest extrapolated"
    )
    if "same" in result:
        what += ", the same each time" if result["same"] else ", other tokens each time"
    engine = "first" in result
    return [
        name,
        f"{tokens:,.0f}",
        f"{tokens / floor['whole']:.0%}" if floor and result["run"] != "nf4" else "-",
        f"{total / tokens:.1f}",
        f"{result['start']:.1f}" if "start" in result else "-",
        f"{result['first']:.1f}" if engine else "-",
        *(f"{result[key]:.1f}" if result[key] else "-" for key in ("allocated", "reserved")),
        f"{result['rss']:.2f}",
        what,
    ]


def floor_row(floor: Result) -> list[str]:
    """Puts the parts of a floor into the table."""
    return [
        f"{floor['slots']}",
        *(f"{floor[key] / 1e9:.2f}" for key in ("weights", "cache")),
        f"{floor['operations'] / 1e12:.2f}",
        *(f"{floor[key] * 1e3:.2f}" for key in ("by_bytes", "by_operations")),
        f"{floor['speed']:,.0f}",
        f"{floor['prompts']:.2f}",
        f"{floor['whole']:,.0f}",
    ]


def same(args: argparse.Namespace) -> list[Result]:
    """Compares candidates that were drawn in several neighbourhoods with those of the first."""
    result = run(args, "same")
    head = ["cards x candidates", "against the first run", "candidates compared", "tokens", "candidates that differ",
            "tokens that differ", "log-probabilities that differ", "most, nats"]  # fmt: skip
    keys = ("compared", "tokens", "candidates", "differ", "logprobs")
    rows = [
        [r["job"], r["what"], *(f"{r[key]:,}" for key in keys), f"{r['worst']:.2g}"] for r in result.get("rows", [])
    ]
    table(head, rows or [["-", f"failed: {result['failed']}", *["-"] * 6]])
    return [result]


def cpu(args: argparse.Namespace) -> list[Result]:
    """Draws with the embedded base on two cores, `generate` and the engine in turns."""
    kinds = ("cpu-generate", "cpu-engine")
    results = [run(args, kind, 2 if args.tiny else 24) for _ in range(args.repeats) for kind in kinds]
    rows, speeds = [], []
    for kind in kinds:
        runs = [r for r in results if r["run"] == kind and "failed" not in r]
        if not runs:
            rows.append([kind, *["-"] * 4])
            continue
        speeds.append(statistics.median(r["tokens"] / r["seconds"] for r in runs))
        seconds = statistics.median(r["seconds"] for r in runs)
        mean = runs[0]["tokens"] / runs[0]["candidates"]
        rows.append([kind, f"{speeds[-1]:,.0f}", f"{seconds:.1f}", f"{max(r['rss'] for r in runs):.2f}",
                     f"{len(runs)} runs of {runs[0]['candidates']} candidates, {mean:.0f} tokens each"])  # fmt: skip
    table(["", "tokens/s", "seconds", "peak RSS, GiB", "median of"], rows)
    if len(speeds) == len(kinds):
        print(f"\nThe engine draws {speeds[1] / speeds[0]:.1f} times as many tokens per second.")
    return results


def growth(args: argparse.Namespace) -> list[Result]:
    """Draws more and more cards, 16 candidates of 8 tokens each, and keeps none."""
    results = [run(args, "growth", count) for count in ((6, 24) if args.tiny else GROWTH)]
    rows = [
        [f"{r['cards']:,}", f"{r['seconds']:.1f}", f"{1e3 * r['seconds'] / r['cards']:.1f}", f"{r['rss']:.2f}",
         f"{r['growth'] * 1024:.0f}"]
        if "failed" not in r else ["-", f"failed: {r['failed']}", "-", "-", "-"]
        for r in results
    ]  # fmt: skip
    table(["cards", "seconds", "ms per card", "peak RSS, GiB", "of it after the first card, MiB"], rows)
    return results


if __name__ == "__main__":
    main()
