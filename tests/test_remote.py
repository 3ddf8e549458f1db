"""The shared store: round trips over file:// and a real S3 server, what is refused of it, and what never asks it."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fakes import FakeModels, make_project
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from gonbuild.cli import main
from gonbuild.driver import CHUNK, Driver, open_url
from gonbuild.errors import InputError, MachineError
from gonbuild.making import adapter_folder
from gonbuild.pipeline import Project
from gonbuild.records import Row, digest
from gonbuild.remote import NAME, WEIGHTS, RefusedError, Remote, read_manifest, travels, why_read_only
from gonbuild.settings import CacheSettings, load_settings, parse_settings
from gonbuild.store import Store

REPOSITORY = Path(__file__).parent.parent
INPUTS = {"epochs": 3}
KEY = digest(INPUTS)
BIG = bytes(range(256)) * (2 * CHUNK // 256) + b"end"
"""More than fits into two reads."""


class Shared:
    """A remote as its owner sees it: `files` is the file system, for looking and for meddling."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files, self.root = open_url(url)

    def path(self, name: str = WEIGHTS, key: str = KEY) -> str:
        return f"{self.root}/adapter/{key}/{name}"

    def read(self, name: str = WEIGHTS) -> bytes:
        return bytes(self.files.cat_file(self.path(name)))

    def write(self, name: str, data: bytes) -> None:
        self.files.pipe_file(self.path(name), data)

    def edit_manifest(self, edit: Callable[[Any], object]) -> None:
        manifest = json.loads(self.read("manifest.json"))
        edit(manifest)
        self.write("manifest.json", json.dumps(manifest).encode())

    def names(self) -> list[str]:
        self.files.invalidate_cache()
        return sorted(path.removeprefix(self.root) for path in self.files.find(self.root))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shared:
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = "b" + digest(str(tmp_path))[:20]
    shared = Shared(f"s3://{bucket}/team/gon")
    shared.files.mkdir(bucket)
    return shared


@pytest.fixture(params=["file", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Shared:
    if request.param == "s3":
        found: Shared = request.getfixturevalue("s3")
        return found
    return Shared(f"file://{tmp_path}/shared")


@pytest.fixture
def folder(tmp_path: Path) -> Shared:
    return Shared(f"file://{tmp_path}/shared")


class Machine:
    """One machine's store and its way to a remote; `told` are the warnings, `asked` the times a driver was opened."""

    def __init__(
        self,
        root: Path,
        url: str,
        environ: dict[str, str] | None = None,
        opener: Callable[[str], tuple[Any, str]] = open_url,
        timeout_s: float = 20,
    ) -> None:
        self.told: list[str] = []
        self.asked: list[str] = []
        self.root, self.store = root, Store(root / "build" / "cache", self.told.append)

        def logged(url: str) -> tuple[Any, str]:
            self.asked.append(url)
            return opener(url)

        settings = CacheSettings(remote=url)
        self.remote = Remote(settings, self.store, environ or {}, Driver(url, timeout_s, logged))

    def make(self, weights: bytes = b"weights") -> Path:
        def fill(folder: Path) -> None:
            (folder / WEIGHTS).write_bytes(weights)
            (folder / "training.json").write_bytes(b"{}")

        return self.store.put("adapter", KEY, INPUTS, fill)

    def project(self, models: FakeModels, settings: str = "") -> Project:
        make_project(self.root, settings=settings)
        loaded = load_settings(self.root)
        cache = loaded.cache.model_copy(update={"remote": self.remote._url})
        return Project(self.root, loaded.model_copy(update={"cache": cache}), self.store, models, self.remote)


def entry(store: Store, key: str = KEY) -> dict[str, bytes]:
    folder = store.get("adapter", key)
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- there and back ------------------------------------------------------------------------------


def test_other_machine_fetches_what_one_has_trained(shared: Shared, tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "a", shared.url), Machine(tmp_path / "b", shared.url)
    models, others = FakeModels(), FakeModels()
    project, clone = first.project(models), second.project(others)
    project.build()
    clone.build()
    key = project.workspace().adapter_key
    assert models.log[0] == "train 3"
    assert [line for line in others.log if "train" in line] == []
    assert entry(second.store, key) == entry(first.store, key)
    for name in ("stories.json", "stories.md"):
        assert (clone.root / "build/packs" / name).read_bytes() == (project.root / "build/packs" / name).read_bytes()
    assert first.told == second.told == []


def test_entry_of_several_reads_comes_back_whole_and_the_manifest_was_sent_last(shared: Shared, tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "a", shared.url), Machine(tmp_path / "b", shared.url)
    first.make(BIG)
    steps: list[tuple[str, int, int]] = []
    assert first.remote.push(KEY, lambda *step: steps.append(step))
    assert shared.names() == [f"/adapter/{KEY}/{name}" for name in (WEIGHTS, "manifest.json", "training.json")]
    second.remote.pull(KEY, lambda *step: steps.append(step))
    assert entry(second.store) == entry(first.store)
    assert second.store.inputs("adapter", KEY) == INPUTS
    for what in (f"sending adapter {KEY[:8]}, MB", f"fetching adapter {KEY[:8]}, MB"):
        own = [(done, total) for told, done, total in steps if told == what]
        assert own[0] == (0, 8)
        assert own[-1] == (8, 8)
        assert own.count((8, 8)) == 1


def test_every_way_to_an_adapter_asks_the_remote_first(folder: Shared, tmp_path: Path) -> None:
    Machine(tmp_path / "a", folder.url).project(FakeModels()).train()
    uses: dict[str, Callable[[Project], object]] = {
        "train": lambda project: project.train(),
        "stories": lambda project: project.build(),
        "try": lambda project: project.try_card("rung-001", 1),
    }
    for name, use in uses.items():
        models = FakeModels()
        use(Machine(tmp_path / name, folder.url).project(models))
        assert not [line for line in models.log if line.startswith("train")], name


def test_earlier_adapter_that_is_damaged_here_comes_from_the_remote(folder: Shared, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", folder.url)
    earlier = machine.project(FakeModels()).train()
    (earlier / WEIGHTS).write_bytes(b"damaged")
    project = machine.project(FakeModels(), "[tool.gonbuild.adapter]\nseed = 1\n")
    assert project.workspace().adapter_key != earlier.name
    assert adapter_folder(project.workspace(), earlier.name) == earlier
    assert machine.told[0].startswith(f"cache entry adapter/{earlier.name[:16]} is damaged")
    assert len(machine.told) == 1
    assert project.models.log == []


def test_only_weights_and_json_travel(folder: Shared, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", folder.url)

    def fill(aside: Path) -> None:
        (aside / WEIGHTS).write_bytes(b"weights")
        (aside / "optimizer.bin").write_bytes(b"pickle")
        (aside / "checkpoint-1").mkdir()
        (aside / "checkpoint-1" / "model.safetensors").write_bytes(b"half")

    machine.store.put("adapter", KEY, INPUTS, fill)
    assert machine.remote.push(KEY)
    assert folder.names() == [f"/adapter/{KEY}/{WEIGHTS}", f"/adapter/{KEY}/manifest.json"]
    other = Machine(tmp_path / "b", folder.url)
    assert other.remote.pull(KEY) is not None
    assert sorted(entry(other.store)) == [WEIGHTS, "manifest.json"]


def test_entry_that_is_there_is_not_sent_again(shared: Shared, tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "a", shared.url), Machine(tmp_path / "b", shared.url)
    first.make()
    second.make()
    assert first.remote.push(KEY)
    before = shared.files.modified(shared.path())
    assert second.remote.push(KEY)
    assert shared.files.modified(shared.path()) == before
    assert second.told == []


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_entry_whose_weights_were_cut_or_lost_there_is_sent_again(shared: Shared, tmp_path: Path, damage: str) -> None:
    machine = Machine(tmp_path / "a", shared.url)
    machine.make(b"weights")
    machine.remote.push(KEY)
    path = f"{shared.root}/adapter/{KEY}/{WEIGHTS}"
    shared.files.rm_file(path) if damage == "missing" else shared.files.pipe_file(path, b"weigh")
    again = Machine(tmp_path / "a", shared.url)
    assert again.remote.push(KEY)
    assert Machine(tmp_path / "b", shared.url).remote.pull(KEY) is not None
    assert again.told == []


def test_first_of_two_adapters_of_one_key_stays_and_the_second_is_told(shared: Shared, tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "a", shared.url), Machine(tmp_path / "b", shared.url)
    first.make(b"of one GPU")
    second.make(b"of another")
    assert first.remote.push(KEY)
    assert second.remote.push(KEY)
    assert shared.read() == b"of one GPU"
    assert second.told == [
        f"{shared.url} has another adapter {KEY[:8]} by now, which stays; this machine keeps its own"
    ]
    assert entry(second.store)[WEIGHTS] == b"of another"


# --- what is refused -----------------------------------------------------------------------------


def flip(shared: Shared) -> None:
    data = bytearray(shared.read())
    data[-1] ^= 1
    shared.write(WEIGHTS, bytes(data))


def rename(name: str) -> Callable[[Shared], None]:
    def edit(manifest: Any) -> None:
        manifest["files"][name] = manifest["files"].pop("training.json")

    return lambda shared: shared.edit_manifest(edit)


def change(*keys: str, value: Any) -> Callable[[Shared], None]:
    def edit(manifest: Any) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return lambda shared: shared.edit_manifest(edit)


TOO_LONG = b"weights and much more"
DAMAGE: dict[str, tuple[Callable[[Shared], object], str]] = {
    "flipped byte": (flip, f"{WEIGHTS} does not match its sha256"),
    "truncated": (lambda s: s.write(WEIGHTS, s.read()[:-1]), f"{WEIGHTS} is smaller than its manifest says"),
    "empty": (lambda s: s.write(WEIGHTS, b""), f"{WEIGHTS} is smaller than its manifest says"),
    "too long": (lambda s: s.write(WEIGHTS, TOO_LONG), f"{WEIGHTS} is larger than its manifest says"),
    "missing": (lambda s: s.files.rm_file(s.path()), f"{WEIGHTS} is missing"),
    "way out": (rename("../evil.json"), "its manifest names a file that no adapter has"),
    "absolute": (rename("/tmp/evil.json"), "its manifest names a file that no adapter has"),
    "deep": (rename("deep/evil.json"), "its manifest names a file that no adapter has"),
    "pickle": (rename("adapter_model.bin"), "its manifest names a file that no adapter has"),
    "hidden": (rename(".evil.json"), "its manifest names a file that no adapter has"),
    "manifest": (rename("Manifest.json"), "its manifest names a file that no adapter has"),
    "newline": (rename("evil.json\n"), "its manifest names a file that no adapter has"),
    "no weights": (change("files", value={}), f"its manifest names no {WEIGHTS}, or too many files"),
    "other key": (change("key", value=digest(1)), "its manifest is of another entry"),
    "other kind": (change("kind", value="candidates"), "its manifest is of another entry"),
    "other inputs": (change("inputs", value={"epochs": 4}), "its manifest is of another entry"),
    "oversized": (change("files", WEIGHTS, "size", value=17 << 30), "it is larger than 16 GiB"),
    "negative": (change("files", WEIGHTS, "size", value=-1), f"its manifest tells no size or sha256 of {WEIGHTS}"),
    "bool": (change("files", WEIGHTS, "size", value=True), f"its manifest tells no size or sha256 of {WEIGHTS}"),
    "no sha": (change("files", WEIGHTS, "sha256", value=None), f"its manifest tells no size or sha256 of {WEIGHTS}"),
    "half manifest": (
        lambda s: s.write("manifest.json", s.read("manifest.json")[:-3]),
        "its manifest cannot be read",
    ),
    "no manifest": (lambda s: s.write("manifest.json", b"[" * 100_000), "its manifest cannot be read"),
    "huge manifest": (lambda s: s.write("manifest.json", b" " * (33 << 20)), "its manifest is too large"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_wrong_entry_is_a_warned_miss_and_leaves_nothing(name: str, folder: Shared, tmp_path: Path) -> None:
    refused_and_replaced(name, folder, tmp_path)


@pytest.mark.parametrize("name", ["flipped byte", "truncated", "empty", "missing", "way out", "half manifest"])
def test_wrong_entry_on_s3_is_a_warned_miss_too(name: str, s3: Shared, tmp_path: Path) -> None:
    refused_and_replaced(name, s3, tmp_path)


def refused_and_replaced(name: str, shared: Shared, tmp_path: Path) -> None:
    """Damages an entry, sees it refused, and sees the same machine put a sound one in its place."""
    first, second = Machine(tmp_path / "a", shared.url), Machine(tmp_path / "b", shared.url)
    first.make()
    first.remote.push(KEY)
    damage, reason = DAMAGE[name]
    damage(shared)
    assert second.remote.pull(KEY) is None
    assert second.told == [f"remote entry adapter/{KEY[:16]} is not used: {reason}"]
    assert [p for p in second.root.rglob("*") if p.is_file()] == []
    second.make(b"trained again")
    assert second.remote.push(KEY)
    assert Machine(tmp_path / "c", shared.url).remote.pull(KEY) is not None
    assert shared.read() == b"trained again"


def test_files_beside_an_entry_are_not_fetched(folder: Shared, tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "a", folder.url), Machine(tmp_path / "b", folder.url)
    first.make()
    first.remote.push(KEY)
    folder.write("extra.json", b"{}")
    assert second.remote.pull(KEY) is not None
    assert sorted(entry(second.store)) == [WEIGHTS, "manifest.json", "training.json"]


def test_damaged_adapter_is_trained_again_by_the_build(folder: Shared, tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "a", folder.url), Machine(tmp_path / "b", folder.url)
    key = first.project(FakeModels()).train().name
    folder.files.pipe_file(folder.path(key=key), b"x" * 32)
    models = FakeModels()
    second.project(models).build()
    assert models.log[0] == "train 3"
    assert second.told == [f"remote entry adapter/{key[:16]} is not used: {WEIGHTS} does not match its sha256"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
hostile = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.just("adapter") | json_values,
        "key": st.just(KEY) | json_values,
        "inputs": st.just(INPUTS) | json_values,
        "files": json_values
        | st.dictionaries(
            st.just(WEIGHTS) | st.text() | st.from_regex(NAME),
            st.fixed_dictionaries({"size": st.integers() | json_values, "sha256": st.text() | json_values}),
        ),
    },
)


@given(hostile.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_manifest_of_anybody_is_refused_or_harmless(data: bytes) -> None:
    try:
        inputs, files = read_manifest(data, KEY)
    except RefusedError:
        return
    assert inputs == INPUTS
    assert all(travels(name) and Path(name).name == name for name in files)
    assert 0 <= sum(file["size"] for file in files.values()) <= 16 << 30


def test_ours_is_not_refused(tmp_path: Path) -> None:
    path = Machine(tmp_path, "").make() / "manifest.json"
    inputs, files = read_manifest(path.read_bytes(), KEY)
    assert inputs == INPUTS
    assert files[WEIGHTS] == {"sha256": digest(b"weights"), "size": 7}


# --- trouble on the way --------------------------------------------------------------------------


class Torn:
    """A file system that breaks after so many written files."""

    def __init__(self, url: str, writes: int) -> None:
        (self.files, self.root), self.left = open_url(url), writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)

    def put_file(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConnectionResetError("connection reset by peer")
        self.files.put_file(*args, **kwargs)

    def pipe_file(self, *args: Any) -> None:
        raise ConnectionResetError("connection reset by peer")


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_upload_that_dies_is_a_miss_and_is_sent_whole_the_next_time(
    writes: int, folder: Shared, tmp_path: Path
) -> None:
    def torn(url: str) -> tuple[Any, str]:
        files = Torn(url, writes)
        return files, files.root

    machine = Machine(tmp_path / "a", folder.url, opener=torn)
    machine.make()
    assert not machine.remote.push(KEY)
    assert machine.told == [
        f"adapter {KEY[:8]} cannot be sent to {folder.url}: ConnectionResetError: connection reset by peer; "
        "it is kept here, and `gonbuild cache push` sends it later"
    ]
    assert len(folder.names()) == writes
    other = Machine(tmp_path / "b", folder.url)
    assert other.remote.pull(KEY) is None
    assert other.told == []
    assert Machine(tmp_path / "a", folder.url).remote.push(KEY)
    assert other.remote.pull(KEY) is not None


def test_remote_that_never_answers_costs_its_time_and_no_more(tmp_path: Path) -> None:
    never = threading.Event()

    def hang(url: str) -> tuple[Any, str]:
        never.wait(60)
        raise AssertionError("it was waited for")

    machine, models = Machine(tmp_path, "memory://x", opener=hang, timeout_s=0.2), FakeModels()
    start = time.monotonic()
    machine.project(models).build()
    seconds = time.monotonic() - start
    never.set()
    assert seconds < 20
    assert models.log[0] == "train 3"
    assert len(machine.told) == 2
    assert "cannot be fetched from memory://x: no answer in 0.2 s (cache.timeout_s)" in machine.told[0]
    assert "cannot be sent to memory://x: no answer in 0.2 s (cache.timeout_s)" in machine.told[1]


def test_s3_that_is_not_there_is_a_warning_within_its_time(
    s3: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    machine, models = Machine(tmp_path, s3.url, timeout_s=20), FakeModels()
    start = time.monotonic()
    machine.project(models).build()
    assert time.monotonic() - start < 45
    assert models.log[0] == "train 3"
    assert len(machine.told) == 2
    assert "EndpointConnectionError: Could not connect to the endpoint URL" in machine.told[0]
    assert machine.told[0].endswith("the build goes on without it (what it needs: README, 'A shared store')")


def test_bucket_that_does_not_exist_is_a_warning_when_sending(s3: Shared, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "s3://no-such-bucket/x")
    machine.make()
    assert machine.remote.pull(KEY) is None
    assert not machine.remote.push(KEY)
    assert "The specified bucket does not exist" in machine.told[0]
    assert KEY[:16] in str(machine.store.get("adapter", KEY))


def test_forbidden_remote_is_a_warning_and_the_build_goes_on(s3: Shared, s3_server: str, tmp_path: Path) -> None:
    def ask_for_rights(unchecked_requests: int) -> None:
        url, plain = f"{s3_server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, str(unchecked_requests).encode(), plain)).close()

    machine, models = Machine(tmp_path, s3.url), FakeModels()
    project = machine.project(models)
    ask_for_rights(0)
    try:
        project.build()
    finally:
        ask_for_rights(1_000_000)
    assert models.log[0] == "train 3"
    assert "PermissionError: Forbidden; the build goes on" in machine.told[0]
    assert "PermissionError: Forbidden; it is kept here" in machine.told[1]
    assert project.push()  # once it may
    assert len(s3.names()) == 2


def test_full_disk_while_fetching_is_no_fault_of_the_remote(folder: Shared, tmp_path: Path) -> None:
    Machine(tmp_path / "a", folder.url).make()
    Machine(tmp_path / "a", folder.url).remote.push(KEY)
    (tmp_path / "b" / "build").mkdir(parents=True)
    (tmp_path / "b" / "build" / "cache").write_text("a file where the store goes")
    machine = Machine(tmp_path / "b", folder.url)
    with pytest.raises(OSError, match="cache"):
        machine.remote.pull(KEY)
    assert machine.told == []


def test_unknown_scheme_is_an_input_error_before_training(tmp_path: Path) -> None:
    models = FakeModels()
    wanted = "cache.remote: no driver is known for 's33://'. Did you mean 's3'?"
    with pytest.raises(InputError, match="no driver") as e:
        Machine(tmp_path, "s33://bucket").project(models).build()
    assert str(e.value) == wanted
    assert models.log == []


def test_missing_driver_is_a_machine_error_with_its_cure() -> None:
    fsspec.register_implementation("gonbuild-none", "no_such_module.Files", errtxt="Please install no_such_module")
    with pytest.raises(MachineError, match="not installed. Please install no_such_module."):
        open_url("gonbuild-none://x")


def test_missing_s3fs_names_the_extra() -> None:
    code = "import sys; sys.modules['s3fs'] = None\nfrom gonbuild.driver import open_url\nopen_url('s3://b/x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert "the driver of 's3://' is not installed. Install it: pip install -c constraints.txt -e '.[s3]'." in (
        done.stderr
    )


# --- who may send, and who asks nothing ----------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, ""),
        ({"GITHUB_EVENT_NAME": "push"}, ""),
        ({"GITHUB_EVENT_NAME": "pull_request"}, "this is a pull request"),
        ({"GITHUB_EVENT_NAME": "pull_request_target"}, "this is a pull request"),
        ({"CI_MERGE_REQUEST_IID": "7"}, "this is a pull request"),
        ({"CI_MERGE_REQUEST_IID": ""}, ""),
        ({"GONBUILD_REMOTE_READ_ONLY": "1"}, "GONBUILD_REMOTE_READ_ONLY is set"),
        ({"GONBUILD_REMOTE_READ_ONLY": "0"}, ""),
        ({"GONBUILD_REMOTE_READ_ONLY": ""}, ""),
    ],
)
def test_pull_request_is_known_by_its_environment(environ: dict[str, str], why: str) -> None:
    assert why_read_only(environ) == why


def test_pull_request_fetches_and_never_sends(shared: Shared, tmp_path: Path) -> None:
    environ = {"GITHUB_EVENT_NAME": "pull_request"}
    models = FakeModels()
    request = Machine(tmp_path / "a", shared.url, environ)
    key = request.project(models).train().name
    assert models.log == ["train 3"]
    assert shared.names() == []
    assert request.told == [f"adapter {key[:8]} is not sent to {shared.url}: this is a pull request"]
    Machine(tmp_path / "b", shared.url).project(FakeModels()).train()
    again, others = Machine(tmp_path / "c", shared.url, environ), FakeModels()
    again.project(others).train()
    assert others.log == again.told == []


def test_push_that_is_switched_off_sends_nothing_and_says_nothing(folder: Shared, tmp_path: Path) -> None:
    machine = Machine(tmp_path, folder.url)
    machine.project(FakeModels(), "[tool.gonbuild.cache]\npush = false\n").train()
    assert machine.told == []
    assert folder.names() == []


def test_build_that_needs_no_adapter_asks_nothing_and_loads_no_driver(folder: Shared, tmp_path: Path) -> None:
    Machine(tmp_path / "a", folder.url).project(FakeModels()).build()
    again = Machine(tmp_path / "a", folder.url)
    project = again.project(FakeModels())
    assert not project.build().plan.changes
    project.plan(refresh=["all"])
    project.train()
    assert again.asked == []
    code = (
        "import sys; from pathlib import Path; from fakes import open_project\n"
        "project = open_project(Path(sys.argv[1])); assert project.settings.cache.remote\n"
        "assert not project.build().plan.changes and project.plan(['all']).changes\n"
        "sys.exit('fsspec' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "GONBUILD_REMOTE": folder.url}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=environ).returncode == 0


def test_plan_says_that_the_remote_may_have_the_adapter_without_asking_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "s3://bucket/gon")
    step = machine.project(FakeModels()).plan().adapter
    assert (step.action, step.reasons[-1]) == ("train", "fetched instead if s3://bucket/gon has it")
    assert machine.asked == []


def test_no_remote_is_asked_where_none_is_set(tmp_path: Path) -> None:
    machine, models = Machine(tmp_path, ""), FakeModels()
    machine.project(models).train()
    assert models.log == ["train 3"]
    assert machine.asked == machine.told == []


def test_finished_adapter_is_in_the_store_before_it_is_sent(folder: Shared, tmp_path: Path) -> None:
    def interrupted(url: str) -> tuple[Any, str]:
        files, root = open_url(url)
        files.put_file = interrupt
        return files, root

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    machine = Machine(tmp_path, folder.url, opener=interrupted)
    project = machine.project(FakeModels())
    with pytest.raises(KeyboardInterrupt):
        project.train()
    assert machine.store.get("adapter", project.workspace().adapter_key) is not None


class Another(FakeModels):
    """A machine whose GPU gives other bits."""

    def train(self, rows: Any, folder: Path, progress: Any) -> None:
        super().train([*rows, Row("gpu", "", "")], folder, progress)


def test_fetched_adapter_goes_before_one_that_would_be_trained_here(folder: Shared, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a", folder.url)
    key = first.project(FakeModels()).train().name
    other = Machine(tmp_path / "b", folder.url)
    other.project(Another()).train()
    assert entry(other.store, key) == entry(first.store, key)


# --- settings and command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("bucket/prefix", "Wanted a URL such as s3://bucket/prefix or file:///folder."),
        ("s3://", "Wanted a URL such as s3://bucket/prefix or file:///folder."),
        ("file://shared", "Wanted an absolute path, file:///folder."),
        ("sftp://me:secret@host/x", "Wanted no password in a URL; the driver takes it from its own environment."),
    ],
)
def test_what_is_no_url_is_refused_without_repeating_secrets(
    url: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="cache.remote") as e:
        parse_settings({"cache": {"remote": url}})
    assert str(e.value) == f"pyproject.toml: setting 'cache.remote'. {wanted}"
    make_project(tmp_path)
    monkeypatch.setenv("GONBUILD_REMOTE", url)
    with pytest.raises(InputError, match="^GONBUILD_REMOTE: no URL of a shared store") as e:
        load_settings(tmp_path)
    assert "secret" not in str(e.value)


def test_environment_names_another_remote_and_an_empty_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path, settings='[tool.gonbuild.cache]\nremote = "s3://a/b"\n')
    monkeypatch.setenv("GONBUILD_REMOTE", "")
    assert load_settings(tmp_path).cache.remote == "s3://a/b"
    monkeypatch.setenv("GONBUILD_REMOTE", "gs://c/d")
    assert load_settings(tmp_path).cache.remote == "gs://c/d"


def test_cache_push_sends_what_could_not_be_sent(
    folder: Shared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(tmp_path, folder.url)
    project = machine.project(FakeModels(), "[tool.gonbuild.cache]\npush = false\n")

    def run() -> tuple[int, str, str]:
        code = main(["cache", "push"], lambda _root, _profile: project)
        told = capsys.readouterr()
        return code, told.out, told.err

    code, _, err = run()
    assert code == 2
    assert "is not in the cache. `gonbuild train` makes it, and sends it." in err
    key = project.train().name
    assert run()[:2] == (0, f"adapter {key[:8]} is in {folder.url}\n")
    assert len(folder.names()) == 2
    read_only = Machine(tmp_path, folder.url, {"GONBUILD_REMOTE_READ_ONLY": "1"})
    project = read_only.project(FakeModels())
    code, out, err = run()
    assert (code, out) == (3, "")
    assert "is not sent to" in err


def test_cache_push_without_a_remote_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no remote is set. Wanted cache.remote in the settings, or GONBUILD_REMOTE."):
        Machine(tmp_path, "").project(FakeModels()).push()
