"""What a cluster's worker draws and refuses, in this process and without Ray."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fakes import FakeModels

import gonbuild
from gonbuild.base import locate_base
from gonbuild.errors import GonbuildError, InputError, MachineError, Problem
from gonbuild.models import Models
from gonbuild.node import Job, Node, error_of
from gonbuild.records import Candidate, Progress, Prompt, Request, digest, quiet
from gonbuild.settings import ModelSettings, Settings
from gonbuild.store import Store

FILES = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}"}
PROMPT = Prompt("Hiệu ứng: +1 điểm cho Đất<|end|>", "")
REQUESTS = [Request(f"dat-00{n}", PROMPT, 4 * n, 4 * n + 2) for n in range(3)]


class NodeModels(FakeModels):
    seen: dict[str, bytes]

    def __init__(self, root: Path, settings: Settings, store: Store) -> None:
        super().__init__()

    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        self.seen = {path.name: path.read_bytes() for path in folder.iterdir()} if folder else {}
        self.folder = folder
        yield from super().generate(folder, requests, progress)


def job(files: dict[str, bytes] | None = FILES, **changes: object) -> Job:
    digests = {name: digest(data) for name, data in (files or {}).items()}
    fetch = None if files is None else lambda: files
    whole = Job(gonbuild.__version__, Settings().model_dump_json(), "fake-base-1", fetch, digests, NodeModels)
    return replace(whole, **changes)


def rows(node: Node) -> list[dict]:
    batch = {"item": [json.dumps({"at": 7 + n, "request": asdict(r)}) for n, r in enumerate(REQUESTS)]}
    return [json.loads(text) for row in node(batch) for text in row["row"]]


def refused(**changes: object) -> GonbuildError:
    (row,) = rows(Node(job(**changes)))
    return error_of(row["error"])


@pytest.mark.parametrize("files", [FILES, None])
def test_node_draws_what_the_models_draw_with_the_adapter_that_was_sent(
    files: dict[str, bytes] | None, tmp_path: Path
) -> None:
    node = Node(job(files))
    found = {row["at"]: tuple(Candidate(**c) for c in row["candidates"]) for row in rows(node)}
    for name, data in (files or {}).items():
        (tmp_path / name).write_bytes(data)
    wanted = FakeModels().generate(tmp_path if files else None, REQUESTS, quiet)
    assert found == {7 + n: candidates for n, (_, candidates) in enumerate(wanted)}
    assert node._models.seen == (files or {})
    assert not files or not node._models.folder.exists()


def test_file_that_no_adapter_has_is_not_written() -> None:
    node = Node(job({**FILES, "../evil.py": b"x", "pickle.bin": b"y"}))
    assert len(rows(node)) == 3
    assert node._models.seen == FILES


def test_adapter_that_was_changed_on_its_way_is_refused() -> None:
    error = refused(adapter=lambda: {**FILES, "adapter_config.json": b"{ }"})
    assert isinstance(error, MachineError)
    assert "the adapter did not reach node" in str(error)


def test_node_with_another_program_or_base_draws_nothing() -> None:
    error = refused(version="0.0.9")
    assert f"has gonbuild {gonbuild.__version__}, and the host that asks 0.0.9. Install the same" in str(error)
    assert "has another base 'nano' than the host that asks. Put the same" in str(refused(identity="fake-base-2"))


def test_base_that_the_node_does_not_see_is_named_with_the_node() -> None:
    settings = Settings(model=ModelSettings(base="/nowhere/base"))
    error = refused(settings=settings.model_dump_json(), models=Models)
    assert isinstance(error, MachineError)
    assert "has no base '/nowhere/base'. A folder must lie at a path that all nodes see" in str(error)
    assert "model.base '/nowhere/base' is no folder here" in str(error)


def test_base_of_the_package_is_the_same_everywhere() -> None:
    identity = locate_base(ModelSettings(), Path()).identity
    node = Node(job(identity=identity, models=Models))
    assert node._models.identity() == identity


@pytest.mark.parametrize("kind", [InputError, MachineError, GonbuildError])
def test_error_crosses_hosts_as_it_is(kind: type[GonbuildError]) -> None:
    problems = (Problem("here", "no room", "Make some."), Problem("there", "none"))

    class Refusing(NodeModels):
        def generate(self, *_: object) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
            raise kind(problems)

    error = refused(models=Refusing)
    assert (type(error), error.problems) == (kind, problems)


def test_unforeseen_error_is_one_line_with_the_node() -> None:
    class Breaking(NodeModels):
        def generate(self, *_: object) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
            raise RuntimeError("CUDA out\nof memory")

    error = refused(models=Breaking)
    assert isinstance(error, MachineError)
    assert " met RuntimeError: CUDA out of memory. What was finished is kept." in str(error)
