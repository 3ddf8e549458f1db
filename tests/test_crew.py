"""Several processes of one host: the same bytes as one, whatever becomes of a worker, and none outlives its parent."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from fakes import DECK, FakeModels, make_project
from tiny import write_tiny_base

from gonbuild.cli import main
from gonbuild.crew import Crew, Shift, check_gpus, deal, draw_shift
from gonbuild.drawing import Asked, draw_here, drawing, kept_candidates
from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.pipeline import Project
from gonbuild.records import Candidate, Progress, Prompt, Request
from gonbuild.settings import Settings, parse_settings
from gonbuild.store import Store

CARDS = "".join(
    f"  - {{id: dat-{n:03}, name: Ủ Phân Số {n}, type: Bảo Vệ, effect: +{1 + n % 3} điểm cho Đất}}\n" for n in range(8)
)
TINY = """
[tool.gonbuild.model]
base = "base"
[tool.gonbuild.adapter]
epochs = 1.0
[tool.gonbuild.sampling]
candidates = 3
max_new_tokens = 24
[tool.gonbuild.selection]
rounds = 1
[tool.gonbuild.machine]
threads = 1
"""


def kept(root: Path) -> dict[str, bytes]:
    """Everything that a build made of its candidates: their entries, the packs and the lock."""
    paths = [
        *(root / "build/cache/candidates").glob("*/*"),
        *(root / "build/packs").glob("*"),
        root / "build/stories.lock.jsonl",
    ]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


class WorkerModels(FakeModels):
    """The fake models as a worker makes them: of a project's folder, where `log` is a file that all of them write."""

    def __init__(self, root: Path, settings: Settings, store: Store) -> None:
        super().__init__()
        self.root, self.threads = root, settings.machine.threads

    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        for drawn in super().generate(folder, requests, progress):
            with (self.root / "log").open("a") as log:
                log.write(f"{drawn[0].card} {os.getpid()} {self.threads} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
            self.meet(drawn[0])
            yield drawn

    def meet(self, request: Request) -> None:
        """What happens at a card."""


class Starting(WorkerModels):
    """Tells its progress as the real models do: before anything is drawn, and after each card."""

    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        progress("loading the model", 0, 1)
        progress("generating", 0, len(requests))
        yield from super().generate(folder, requests, progress)


class Killed(WorkerModels):
    def meet(self, request: Request) -> None:
        if request.card == "song-001":
            os.kill(os.getpid(), signal.SIGKILL)


class Refusing(WorkerModels):
    def meet(self, request: Request) -> None:
        if request.card == "song-001":
            raise MachineError([Problem("here", "no memory", "Buy some."), Problem("there", "no disk")])


class Breaking(WorkerModels):
    def meet(self, request: Request) -> None:
        if request.card == "song-001":
            raise ZeroDivisionError("by\nnothing")


def built(root: Path, crew: Crew | None, deck: str = DECK + CARDS) -> tuple[Project, list[str]]:
    project = make_project(root, deck)
    warnings: list[str] = []
    project.store.warn = warnings.append
    if crew:
        project.draw = crew
    project.build()
    return project, warnings


def log(root: Path) -> list[list[str]]:
    return [line.split() for line in (root / "log").read_text().splitlines()]


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_keep_what_one_process_keeps_and_no_card_is_drawn_twice(tmp_path: Path, workers: int) -> None:
    built(tmp_path / "one", None)
    project, warnings = built(tmp_path / "crew", Crew(workers, models=WorkerModels))
    assert kept(tmp_path / "crew") == kept(tmp_path / "one")
    assert warnings == []
    assert project.models.log == ["train 3"]  # the parent drew nothing
    first_round = log(tmp_path / "crew")[:11]
    assert sorted(card for card, *_ in first_round) == sorted(card.id for card in project.workspace().library.cards)
    assert len({pid for _, pid, *_ in first_round}) == workers


def test_workers_draw_with_the_real_engine_what_one_process_draws(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        root = tmp_path / name
        make_project(root, DECK + CARDS, TINY)
        write_tiny_base(root / "base")
        assert main(["stories", "--root", str(root), "--workers", str(workers)]) == 1  # a tiny base tells no effect
    assert len(kept(tmp_path / "one")) > 22
    assert kept(tmp_path / "two") == kept(tmp_path / "one")


def test_evaluation_with_workers_measures_the_same(tmp_path: Path) -> None:
    figures = []
    for name, crew in (("one", None), ("crew", Crew(3, models=WorkerModels))):
        project, _ = built(tmp_path / name, crew)
        figures.append(project.evaluate())
    assert figures[0] == figures[1]
    assert kept(tmp_path / "crew") == kept(tmp_path / "one")


def test_progress_adds_up(tmp_path: Path) -> None:
    project = make_project(tmp_path, DECK + CARDS)
    project.draw = Crew(2, models=WorkerModels)
    told: list[tuple[str, int, int]] = []
    project.build(progress=lambda what, done, total, *_: told.append((what, done, total)))
    generating = [(done, total) for what, done, total in told if what == "generating"]
    assert generating[:12] == [(n, 11) for n in range(12)]
    assert told.index(("loading the model", 1, 1)) < told.index(("generating", 0, 11))


def test_killed_worker_costs_a_warning_and_no_byte(tmp_path: Path) -> None:
    built(tmp_path / "one", None)
    project, warnings = built(tmp_path / "crew", Crew(2, models=Killed))
    assert kept(tmp_path / "crew") == kept(tmp_path / "one")
    (line,) = warnings
    assert line.startswith("process ")
    assert line.endswith(" of 2 was killed by SIGKILL (out of memory?); what it left is drawn by this one")
    assert "generate song-001 0-32" in project.models.log
    drawn_here = {line.split()[1] for line in project.models.log if line.startswith("generate")}
    cards = [card.id for card in project.workspace().library.cards]
    assert len(drawn_here) < len(cards)


def test_worker_that_breaks_is_named_and_the_parent_draws_the_rest(tmp_path: Path) -> None:
    built(tmp_path / "one", None)
    _, warnings = built(tmp_path / "crew", Crew(2, models=Breaking))
    assert kept(tmp_path / "crew") == kept(tmp_path / "one")
    (line,) = warnings
    assert line.endswith(" of 2 stopped: ZeroDivisionError: by nothing; what it left is drawn by this one")


def test_error_of_a_worker_is_the_parents(tmp_path: Path) -> None:
    project = make_project(tmp_path, DECK + CARDS)
    project.draw = Crew(2, models=Refusing)
    with pytest.raises(MachineError, match="here: no memory. Buy some.\nthere: no disk.") as met:
        project.build()
    assert met.value.problems == (Problem("here", "no memory", "Buy some."), Problem("there", "no disk"))
    assert multiprocessing.active_children() == []


class Leaving(WorkerModels):
    def meet(self, request: Request) -> None:
        if request.card == "song-001":
            os._exit(7)


def test_worker_that_ends_too_early_is_named_with_its_code(tmp_path: Path) -> None:
    built(tmp_path / "one", None)
    _, (warning,) = built(tmp_path / "crew", Crew(2, models=Leaving))
    assert re.fullmatch("process . of 2 ended too early with code 7; what it left is drawn by this one", warning)
    assert kept(tmp_path / "crew") == kept(tmp_path / "one")


class Deaf(WorkerModels):
    """The first worker heeds no request to end; the second one stops with an error."""

    def meet(self, request: Request) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            (self.root / "deaf").touch(exist_ok=False)
        except FileExistsError:
            raise MachineError(Problem("here", "no memory")) from None
        time.sleep(300)


def test_worker_that_does_not_end_when_it_is_told_to_is_killed(tmp_path: Path) -> None:
    project = make_project(tmp_path, DECK + CARDS)
    project.draw = Crew(2, models=Deaf)
    with pytest.raises(MachineError, match="here: no memory"):
        project.build()
    assert not multiprocessing.active_children()


# --- a worker's work, in this process -------------------------------------------------------------


def told_of(root: Path, models: type[WorkerModels], cards: Sequence[str], store: Store) -> list[tuple[str, object]]:
    """What a worker tells of a shift, in order."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    shift = Shift(root, parse_settings({}), store.root, None, tuple(map(ask, cards)), "", 1, models)
    draw_shift(shift, theirs)
    told = []
    while ours.poll():
        told.append(ours.recv())
    return told


def test_worker_keeps_each_card_and_tells_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    told = told_of(tmp_path, Starting, ["dat-000", "dat-001"], store)
    assert told == [("drawing", 0), ("drawing", 1), ("drawing", 1), ("finished", None)]
    assert [len(kept_candidates(store, ask(card)) or ()) for card in ("dat-000", "dat-001")] == [4, 4]


@pytest.mark.parametrize(
    ("models", "wanted"),
    [
        (Breaking, ("broke", "ZeroDivisionError: by nothing")),
        (Refusing, ("failed", "here: no memory. Buy some.\nthere: no disk.")),
    ],
)
def test_worker_tells_how_it_stopped_and_keeps_what_came_before(
    tmp_path: Path, models: type[WorkerModels], wanted: tuple[str, str]
) -> None:
    store = Store(tmp_path / "cache")
    *_, last = told_of(tmp_path, models, ["dat-000", "song-001"], store)
    assert (last[0], str(last[1])) == wanted
    assert kept_candidates(store, ask("dat-000"))
    assert not kept_candidates(store, ask("song-001"))


def ask(card: str) -> Asked:
    return Asked(Request(card, Prompt("Hiệu ứng: +1 điểm cho Đất<|end|>", ""), 0, 4), {"card": card})


def test_shards_are_disjoint_even_and_cover_all_whatever_the_order() -> None:
    asked = [ask(f"card-{n}") for n in range(23)]
    for workers in (1, 2, 5, 40):
        shards = deal(asked, workers)
        assert shards == deal(asked[::-1], workers)
        assert sorted(a.request.card for shard in shards for a in shard) == sorted(a.request.card for a in asked)
        sizes = [len(shard) for shard in shards]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert len(shards) == min(workers, 23)


def test_single_card_starts_no_worker(tmp_path: Path) -> None:
    project, _ = built(tmp_path, Crew(4, models=Refusing), DECK[: DECK.index("  - id: lang")])
    assert project.models.log[1] == "generate rung-001 0-32"


def test_cores_are_shared_and_each_worker_sees_its_own_gpu(tmp_path: Path) -> None:
    built(tmp_path, Crew(2, ("3", "GPU-5a"), WorkerModels))
    cores = len(os.sched_getaffinity(0))
    told = {(gpu, int(threads)) for _, _, threads, gpu in log(tmp_path)}
    assert told == {("3", max(1, min(4, cores // 2))), ("GPU-5a", max(1, min(4, cores // 2)))}


@pytest.mark.parametrize(
    ("visible", "found", "names"),
    [("0,1", [], ("0", "1")), ("2, GPU-ab ", [], ("2", "GPU-ab")), (None, ["0", "1"], ("0", "1"))],
)
def test_gpus_are_those_that_cuda_shows(visible: str | None, found: list[str], names: tuple[str, ...]) -> None:
    assert check_gpus(2, visible, lambda: found) == names


def test_driver_is_asked_for_the_gpus_where_cuda_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="1 processes want a GPU each, and none can be seen"):
        check_gpus(1, None)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: a)'; echo '  MIG 1g'; echo 'GPU 1: H100 (UUID: b)'\n")
    tool.chmod(0o755)
    assert check_gpus(2, None) == ("0", "1")


@pytest.mark.parametrize(
    ("visible", "seen"), [("0", "1 can be seen"), ("", "none can be seen"), ("0,-1,2", "1 can be"), (None, "none can")]
)
def test_more_workers_than_gpus_is_refused(visible: str | None, seen: str) -> None:
    with pytest.raises(InputError, match=f"--workers: 2 processes want a GPU each, and {seen}.* Wanted 1 at most"):
        check_gpus(2, visible, list)


def test_number_of_workers_is_checked() -> None:
    settings = parse_settings({})
    assert drawing(settings) is draw_here
    assert drawing(settings, 3) == Crew(3)
    with pytest.raises(InputError, match="--workers: 0 processes were asked for. Wanted 1 or more."):
        drawing(settings, 0)
    with pytest.raises(InputError, match="Wanted one of the two"):
        drawing(settings, 2, "auto")


# --- a parent that ends --------------------------------------------------------------------------

SLOW = """\
import signal, sys
from pathlib import Path
from fakes import DECK, open_project
from test_crew import Slow
from gonbuild.cli import main
from gonbuild.crew import Crew

def load(root, profile):
    return open_project(Path(root))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would this
    import gonbuild.drawing
    gonbuild.drawing.drawing = lambda settings, workers, ray: Crew(workers, models=Slow)
    sys.exit(main(["stories", "--workers", "2", "--root", sys.argv[1]], load))
"""


class Slow(WorkerModels):
    def meet(self, request: Request) -> None:
        time.sleep(300)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_no_worker_outlives_its_parent(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    make_project(tmp_path, DECK + CARDS)
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    tests = Path(__file__).parent
    environ = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    command = [sys.executable, str(script), str(tmp_path)]
    parent = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until(lambda: (tmp_path / "log").exists() and len(log(tmp_path)) == 2)
        workers = [psutil.Process(int(pid)) for _, pid, *_ in log(tmp_path)]
        if sent == signal.SIGINT:
            os.killpg(parent.pid, sent)  # as a terminal does
        else:
            parent.send_signal(sent)
        _, err = parent.communicate(timeout=30)
    finally:
        parent.kill()
    assert parent.returncode == code
    until(lambda: not any(worker.is_running() for worker in workers))
    assert "Traceback" not in err
    if code == 130:
        assert err.endswith("gonbuild: interrupted; what was finished is kept\n")
        assert not list((tmp_path / "build/cache/candidates").glob(".*"))


def until(holds: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
