"""Builds one project with other batches, orders of cards, workers and threads; all of them give the same bytes."""

import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import test_line
from fakes import DECK, make_project
from tiny import write_tiny_base

from gonbuild import packs
from gonbuild.drawing import drawing
from gonbuild.pipeline import load_project
from torture.outcome import Outcome

TITLE = "settings, order and machine: batch x card order x workers x threads"
SLOTS, ORDERS, WORKERS, THREADS = (1, 3, 8, 16, 64), (0, 1, 2, 3, 4), (1, 2, 3), (1, 2, 4)
FULL = len(SLOTS) * len(ORDERS) * len(WORKERS) * len(THREADS)


def run(count: int, seed: int, jobs: int) -> Outcome:
    """Trains and draws with a tiny real base, anew for each order and number of threads; the others draw anew.

    Slots and workers have no part in training. Few builds are spread over all values.
    """
    cases = [*itertools.product(SLOTS, ORDERS, WORKERS, THREADS)]
    random.Random(seed).shuffle(cases)
    chosen = sorted(cases[:count], key=lambda case: (case[1], case[3]))  # so that each adapter is trained once, mostly
    size = -(-len(chosen) // jobs)
    shares = [chosen[n : n + size] for n in range(0, len(chosen), size)]
    # A process each, with a main module of its own: workers are started from it anew.
    asked = [[sys.executable, "-m", "torture.machines", json.dumps(share)] for share in shares]
    # Threads that wait sleep: more of them run here than there are cores.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}
    started = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for words in asked]
    rows = [row for process in started for row in process.communicate()[0].splitlines()]
    told = [json.loads(row) for row in rows if row.startswith("[")]
    hashes = Counter(found for _, found, _ in told)
    adapters = {adapter for _, _, adapter in told}
    commonest = hashes.most_common(1)[0][0] if hashes else ""
    failures = [f"slots, order, workers, threads {case}: {found[:8]}" for case, found, _ in told if found != commonest]
    if len(told) < len(chosen):
        failures.append(f"{len(chosen) - len(told)} builds ended early")
    return Outcome(count, tuple(failures), f"{len(hashes)} hash of packs and lock, {len(adapters)} of the adapter")


def build(root: Path, adapters: Path, slots: int, order: int, workers: int, threads: int) -> tuple[str, str]:
    """Builds the project into an empty folder; returns hashes of what ships and of the adapter's weights.

    `adapters` is where the adapter of each order and number of threads is kept for later builds.
    """
    write_tiny_base(root / "base")
    make_project(root, settings=f"{test_line.SETTINGS}slots = {slots}\n".replace("threads = 1", f"threads = {threads}"))
    head, *cards = DECK.split("  - id: ")
    random.Random(order).shuffle(cards)
    names = ["a", "b"] if order % 2 else ["thu"]
    (root / "cards" / "thu.yaml").unlink()
    for n, name in enumerate(names):
        text = "  - id: ".join([head, *cards[n :: len(names)]])
        (root / "cards" / f"{name}.yaml").write_text(text, encoding="utf-8")
    project = load_project(root)
    project.draw = drawing(project.settings, workers)
    kept, made = adapters / f"{order}-{threads}", root / "build" / "cache" / "adapter"
    if kept.exists():
        shutil.copytree(kept, made)
    project.build()
    if not kept.exists():
        shutil.copytree(made, kept)
    pack = json.loads((root / packs.PACKS / "stories.json").read_bytes())["cards"]
    lock = (root / packs.LOCK).read_bytes()
    shipped = hashlib.sha256(json.dumps(pack, sort_keys=True).encode() + lock).hexdigest()
    (weights,) = (root / "build/cache/adapter").glob("*/adapter_model.safetensors")
    return shipped, hashlib.sha256(weights.read_bytes()).hexdigest()


def main() -> None:
    with tempfile.TemporaryDirectory() as adapters:
        for case in json.loads(sys.argv[1]):
            with tempfile.TemporaryDirectory() as name:
                print(json.dumps([case, *build(Path(name), Path(adapters), *case)]), flush=True)


if __name__ == "__main__":
    main()
