"""Measures what the README claims and prints its table: `make bench`, some minutes, nothing outside a temporary folder.

Builds run in processes of their own, on two cores where the system can bind them.
"""

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakes import SCENES, FakeModels, clause, open_project

from gonbuild.packs import Line, Other
from gonbuild.pipeline import write_packs
from gonbuild.records import Card, Story

REPOSITORY = Path(__file__).parent.parent
REGIONS = ("Rừng", "Sông", "Đất", "Làng")
# What a build with nothing to do must not load.
HEAVY = (
    "import sys; from gonbuild.cli import main; main(['stories']); "
    "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
)


@contextmanager
def copy_of_repository() -> Iterator[Path]:
    """Gives a copy of what git would clone, packs included, without any cache."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clone"
        for name in ("cards", "templates", "build/packs"):
            shutil.copytree(REPOSITORY / name, root / name)
        for name in ("pyproject.toml", "build/stories.lock.jsonl"):
            shutil.copy(REPOSITORY / name, root / name)
        yield root


def run(root: Path, *args: str, python: str = "") -> tuple[float, float]:
    """Runs one gonbuild command; returns seconds and the peak resident memory of its process, MB."""
    command = [sys.executable, "-c", python] if python else [sys.executable, "-m", "gonbuild.cli", *args]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{process.stderr.read().decode()}")  # type: ignore[union-attr]
    return seconds, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("GONBUILD_")}


def many_cards(root: Path, count: int) -> None:
    """Fills a project with `count` cards, each with three examples, and writes its packs."""
    shutil.copytree(REPOSITORY / "templates", root / "templates")
    (root / "cards").mkdir()
    for start in range(0, count, 500):
        deck = "deck: Đo\ncards:\n" + "".join(card_text(i) for i in range(start, min(start + 500, count)))
        (root / "cards" / f"do-{start:05}.yaml").write_text(deck, encoding="utf-8")
    (root / "pyproject.toml").write_text("[tool.gonbuild]\n")
    ws = open_project(root, FakeModels()).workspace()
    lines = {}
    for card in ws.scan.cards:
        others = tuple(Other(n, story(card, n).text) for n in (3, 4, 5))
        made = (story(card, 1), story(card, 2))
        lines[card.id] = Line(card.id, ws.card_inputs(card), ws.adapter_key, made, "bench", others=others)
    write_packs(ws, lines)


def story(card: Card, slot: int) -> Story:
    """A story that no model wrote: what the time depends on is how many there are."""
    text = f"Chuyện thứ {slot} của {card.name}: {SCENES[slot]}. {clause('Hiệu ứng: ' + card.effect)}."
    return Story(f"{card.id}.{slot}", text, slot, -0.5, 20.0)


def card_text(i: int) -> str:
    """One card of a big project, as its deck has it."""
    region = REGIONS[i % 4]
    lines = [
        f"  - id: do-{i:05}",
        f"    name: Thẻ Đo Số {i}",
        "    type: Bảo Vệ",
        f"    effect: +{1 + i % 3} điểm cho {region}",
        "    examples:",
        *(f"      - {SCENES[(i + k) % len(SCENES)]}, {region} tăng {1 + i % 3} điểm." for k in range(3)),
    ]
    return "\n".join(lines) + "\n"


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


def nothing_to_do(count: int, repeats: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if count == 24:
            with copy_of_repository() as clone:
                shutil.copytree(clone, root, dirs_exist_ok=True)
        else:
            many_cards(root, count)
        run(root, "stories")  # fills the memos of this folder
        before = state(root)
        run(root, python=HEAVY)
        seconds = statistics.median(run(root, "stories")[0] for _ in range(repeats))
        if state(root) != before:
            sys.exit(f"{count} cards: a build with nothing to do changed a file")
    return f"{seconds:.2f} s"


def from_nothing(repeats: int) -> tuple[str, str, str]:
    """Times the whole line on the 24 cards without cache or packs, then one edited card."""
    cold, edit, memory = [], [], []
    for _ in range(repeats):
        with copy_of_repository() as root:
            shutil.rmtree(root / "build")
            seconds, peak = run(root, "stories")
            cold.append(seconds)
            memory.append(peak)
            deck = root / "cards" / "bao-ve.yaml"
            deck.write_text(deck.read_text(encoding="utf-8").replace('+2 điểm cho Sông"', '+3 điểm cho Sông"', 1))
            seconds, peak = run(root, "stories")
            edit.append(seconds)
            memory.append(peak)
    return f"{statistics.median(cold):.0f} s", f"{statistics.median(edit):.1f} s", f"{max(memory) / 1e3:.2f} GB"


def machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), name
        )
    return f"{name}, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="builds of each kind; the median is shown")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_setaffinity") else []
    if cores:
        os.sched_setaffinity(0, cores)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cold, edit, memory = from_nothing(args.repeats)
    rows = [
        ("nothing to do, 24 cards", nothing_to_do(24, 5 * args.repeats), "0.30 s"),
        ("nothing to do, 1,000 cards", nothing_to_do(1000, 5 * args.repeats), "0.30 s"),
        ("nothing to do, 5,000 cards", nothing_to_do(5000, 5 * args.repeats), "0.50 s"),
        ("24 cards from nothing cached to packs", cold, "180 s"),
        ("one edited card", edit, "15 s"),
        ("peak memory of these", memory, "2 GB"),
    ]
    print(f"Medians on {len(cores) or os.cpu_count()} cores of {machine()}\n")
    print("| build | measured | wanted at most |\n|---|---|---|")
    for name, measured, wanted in rows:
        print(f"| {name} | {measured} | {wanted} |")


if __name__ == "__main__":
    main()
