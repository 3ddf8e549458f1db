"""A Ray cluster of two nodes on this host: the same bytes as one process, with one node lost in the middle too."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes import DECK, FakeModels, make_project
from test_crew import CARDS, TINY, kept
from tiny import write_tiny_base

from gonbuild.cli import main
from gonbuild.cluster import draw_on_cluster, places, stopped  # before Ray: it sets the environment that Ray reads
from gonbuild.drawing import drawing
from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.node import MakeModels
from gonbuild.pipeline import Project
from gonbuild.records import Candidate, Progress, Request
from gonbuild.settings import Settings, parse_settings
from gonbuild.store import Store

# isort: split
import ray
from ray.cluster_utils import Cluster

SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20}
QUICK = {"health_check_period_ms": 300, "health_check_timeout_ms": 300, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def cluster(notes: Path) -> Iterator[Cluster]:
    """Two nodes with a core each; their processes find the fakes, and the folder for notes."""
    tests = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tests.parent}{os.pathsep}{tests}")
        patch.setenv("NOTES", str(notes))
        head = {**SMALL, "include_dashboard": False, "_system_config": QUICK}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**SMALL)
        yield cluster
        cluster.shutdown()


class NodeModels(FakeModels):
    """The fake models as an actor makes them; each node notes what it begins, and may be told to hang then."""

    def __init__(self, root: Path, settings: Settings, store: Store) -> None:
        super().__init__()

    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        node, notes = ray.get_runtime_context().get_node_id(), Path(os.environ["NOTES"])
        for drawn in super().generate(folder, requests, progress):
            with (notes / node).open("a") as file:
                file.write(f"{drawn[0].card}\n")
            if (notes / f"{node}-hangs").exists():
                time.sleep(300)
            yield drawn


class Refusing(NodeModels):
    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        raise InputError([Problem("here", "no room", "Make some."), Problem("there", "none either")])


def on(cluster: Cluster, root: Path, models: MakeModels) -> Project:
    """A project that draws on the cluster."""
    project = make_project(root, DECK + CARDS)
    project.draw = lambda *given: draw_on_cluster(cluster.address, *given, models=models)
    return project


def test_cluster_draws_with_the_real_engine_what_one_process_draws_and_prints_nothing(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = []
    for name, flags in (("one", ()), ("ray", ("--ray", cluster.address))):
        root = tmp_path / name
        make_project(root, DECK + CARDS, TINY)
        write_tiny_base(root / "base")
        assert main(["stories", "--root", str(root), *flags]) == 1  # a tiny base tells no effect
        told.append(capfd.readouterr())
    assert len(kept(tmp_path / "one")) > 22
    assert kept(tmp_path / "ray") == kept(tmp_path / "one")
    assert told[1] == told[0]


def test_error_of_an_actor_is_the_drivers(cluster: Cluster, tmp_path: Path) -> None:
    project = on(cluster, tmp_path, Refusing)
    with pytest.raises(InputError, match="here: no room. Make some.\nthere: none either.") as met:
        project.build()
    assert met.value.problems == (Problem("here", "no room", "Make some."), Problem("there", "none either"))


def test_cluster_that_does_not_answer_is_an_error_with_its_address(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.draw = drawing(project.settings, ray="127.0.0.1:1")
    with pytest.raises(MachineError, match="--ray: no cluster answers at '127.0.0.1:1': .*refused. `ray start --head`"):
        project.build()


HOSTS = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 6.0}, {"CPU": 64.0, "GPU": 2.0}, {}]


@pytest.mark.parametrize(
    ("device", "threads", "nodes", "wanted"),
    [
        ("cuda", 0, HOSTS, (4, 10)),
        ("cpu", 0, HOSTS, (4, 16 + 1 + 16)),
        ("cpu", 3, HOSTS, (3, 21 + 2 + 21)),
        ("cpu", 0, [{"CPU": 2.0}, {"CPU": 1.0}], (2, 1)),
    ],
)
def test_each_gpu_or_handful_of_cores_has_an_actor(
    device: str, threads: int, nodes: list[dict[str, float]], wanted: tuple[int, int]
) -> None:
    settings = parse_settings({"model": {"device": device}, "machine": {"threads": threads}})
    assert places(settings, nodes) == wanted


@pytest.mark.parametrize(("device", "lacking"), [("cuda", "a GPU"), ("cpu", "8 CPUs")])
def test_cluster_without_a_place_is_refused(device: str, lacking: str) -> None:
    settings = parse_settings({"model": {"device": device}, "machine": {"threads": 8}})
    with pytest.raises(MachineError, match=f"--ray: no node of the cluster has {lacking}. `ray status` shows"):
        places(settings, [{"CPU": 4.0}, {}])


def test_missing_ray_is_an_error_with_its_cure() -> None:
    with pytest.raises(MachineError, match=r"Ray is not installed. Install it: pip install .* -e '.\[ray\]'"):
        drawing(parse_settings({}), ray="auto", found=lambda _: None)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ActorDiedError: \x1b[36mthe actor died.\x1b[0m\n  many more lines",
         "the cluster stopped: ActorDiedError: the actor died. What was finished is kept: run the command again."),
        ("RayTaskError: x\nTraceback\n  ModuleNotFoundError: No module named 'peft'\n",
         "the cluster stopped: ModuleNotFoundError: No module named 'peft'. "
         "Every node wants what this host has: pip install -c constraints.txt -e '.[ray]'."),
    ],
)  # fmt: skip
def test_what_ray_says_in_pages_is_a_line_with_a_cure(said: str, line: str) -> None:
    assert str(stopped(said)) == f"--ray: {line}"


def test_lost_node_costs_no_card_and_no_byte(cluster: Cluster, notes: Path, tmp_path: Path) -> None:
    second = cluster.list_all_nodes()[1]
    (notes / f"{second.node_id}-hangs").touch()
    make_project(tmp_path / "one", DECK + CARDS).build()
    project = on(cluster, tmp_path / "ray", NodeModels)
    put, puts = project.store.put_json, []

    def counted(kind: str, key: str, inputs: object, value: object) -> None:
        if kind == "candidates":
            puts.append(key)
            if len(puts) == 1:
                until_there(notes / second.node_id)
                cluster.remove_node(second, allow_graceful=False)
        put(kind, key, inputs, value)

    project.store.put_json = counted
    project.build()
    assert kept(tmp_path / "ray") == kept(tmp_path / "one")
    assert len(puts) == len(set(puts)) == len(list((tmp_path / "ray/build/cache/candidates").iterdir()))
    assert project.models.log == ["train 3"]
    (begun,) = (notes / second.node_id).read_text().split()[-1:]
    assert begun in (notes / cluster.head_node.node_id).read_text().split()


def until_there(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
