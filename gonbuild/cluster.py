"""Owns drawing on a Ray cluster: Ray Data hands batches of cards to actors, and runs lost ones again elsewhere.

What crosses hosts is JSON and the adapter's files, each checked by its digest. The driver alone writes into the store.
"""

import contextlib
import io
import json
import logging
import os
import re
import signal
import socket
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

# Read when Ray is first imported: nothing is reported to anybody, nothing is printed, and no call of Ray's starts or
# joins a cluster by itself, as those of its own destructors would after the end.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ENABLE_AUTO_CONNECT": "0"}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
import ray.data  # noqa: E402
from ray.exceptions import RayError  # noqa: E402

import gonbuild  # noqa: E402
from gonbuild.base import locate_base  # noqa: E402
from gonbuild.drawing import Asked, Place, keep  # noqa: E402
from gonbuild.errors import MachineError, Problem  # noqa: E402
from gonbuild.models import LOADING, Models  # noqa: E402
from gonbuild.node import SHIPPED, Job, MakeModels, Node, error_of  # noqa: E402
from gonbuild.records import Candidate, Progress, digest  # noqa: E402
from gonbuild.settings import ModelSettings, Settings  # noqa: E402
from gonbuild.store import Store  # noqa: E402

MOST_CARDS = 256
"""In a batch: what is drawn again at most where a node is lost."""
BATCHES = 3
"""Per actor, so that an engine has many cards at once and none waits long for the last one."""
MOST_LOSSES = 5
"""Of one actor or one batch: what kills every process that draws it would else be tried for ever."""
MOST_THREADS = 4
ANSWER_S = 5.0
"""Seconds for a cluster to answer; Ray itself would wait for minutes."""


def draw_on_cluster(
    address: str,
    place: Place,
    folder: Path | None,
    asked: Sequence[Asked],
    progress: Progress,
    models: MakeModels = Models,
) -> None:
    """Draws what is asked into the store, each card as it comes; `models` is what each actor loads.

    Raises:
        GonbuildError: as an actor did.
        MachineError: no cluster there, one without a place for an actor, or one that stopped.
    """
    progress(LOADING, 0, 1)
    with _joined(address):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        threads, actors = places(place.settings, nodes)
        files = {name: (folder / name).read_bytes() for name in SHIPPED if (folder / name).is_file()} if folder else {}
        job = Job(
            version=gonbuild.__version__,
            settings=_settings_for_nodes(place, threads).model_dump_json(),
            identity=place.models.identity(),
            adapter=partial(ray.get, ray.put(files)) if folder else None,
            digests={name: digest(data) for name, data in files.items()},
            models=models,
        )
        rows = [json.dumps({"at": at, "request": asdict(a.request)}) for at, a in enumerate(asked)]
        try:
            with contextlib.closing(_draw(job, rows, actors, _resources(place.settings, threads))) as drawn:
                left = _keep(place.store, asked, drawn, progress)
        except RayError as e:
            raise stopped(f"{type(e).__name__}: {e}") from e
        if left:
            raise stopped(f"{left} of {len(asked)} cards did not come back")


def _keep(store: Store, asked: Sequence[Asked], drawn: Iterable[str], progress: Progress) -> int:
    """Puts what comes into the store, each card once; returns how many did not come."""
    missing = dict(enumerate(asked))
    for row in drawn:
        told = json.loads(row)
        if "error" in told:
            raise error_of(told["error"])
        if len(missing) == len(asked):
            progress(LOADING, 1, 1)
            progress("generating", 0, len(asked))
        keep(store, missing.pop(told["at"]), [Candidate(**c) for c in told["candidates"]])
        progress("generating", len(asked) - len(missing), len(asked))
    return len(missing)


def stopped(why: str) -> MachineError:
    """Puts what Ray says, some pages with colours, into a line."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", why).splitlines()]
    line, cure = lines[0], "What was finished is kept: run the command again."
    if absent := [line for line in lines if "No module named" in line]:
        line, cure = absent[0], "Every node wants what this host has: pip install -c constraints.txt -e '.[ray]'."
    return MachineError(Problem("--ray", f"the cluster stopped: {line.rstrip('.')[:300]}", cure))


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """Joins the cluster, unless this process has, and leaves it; Ray says nothing meanwhile."""
    if joined := not ray.is_initialized():
        _check_answers(os.environ.get("RAY_ADDRESS", "") or address if address == "auto" else address)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            with _without_stderr():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own there, which would end with another code
        except (ConnectionError, RuntimeError, ValueError, RayError) as e:
            raise _unreachable(address, str(e)) from e
    # Its thread for errors prints to stdout, whatever `log_to_driver` says, and it warns of its own settings.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            if joined:
                ray.shutdown()


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Lets nothing through to the terminal, from C++ either, which tells at its start what it will not tell later."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _check_answers(address: str) -> None:
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto`, which Ray finds among this host's processes
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except OSError as e:
        raise _unreachable(address, str(e)) from e


def _unreachable(address: str, why: str) -> MachineError:
    cure = (
        "`ray start --head` on one host and `ray start --address HOST:6379` on the others make one; `ray status` asks."
    )
    return MachineError(
        Problem("--ray", f"no cluster answers at '{address}': {' '.join(why.split()).rstrip('.')[:200]}", cure)
    )


def places(settings: Settings, nodes: Sequence[Mapping[str, float]]) -> tuple[int, int]:
    """Returns the CPU threads of an actor, and how many actors nodes with these resources have a place for.

    Raises:
        MachineError: for none.
    """
    cores = int(max((node.get("CPU", 0) for node in nodes), default=0))
    threads = settings.machine.threads or max(1, min(MOST_THREADS, cores))
    if settings.model.device == "cuda":
        found, wanted = sum(int(node.get("GPU", 0)) for node in nodes), "a GPU"
    else:
        found, wanted = sum(int(node.get("CPU", 0)) // threads for node in nodes), f"{threads} CPUs"
    if not found:
        cure = "`ray status` shows what it has; model.device and machine.threads say what is wanted."
        raise MachineError(Problem("--ray", f"no node of the cluster has {wanted}", cure))
    return threads, found


def _resources(settings: Settings, threads: int) -> dict[str, float]:
    return {"num_gpus": 1, "num_cpus": 1} if settings.model.device == "cuda" else {"num_cpus": threads}


def _settings_for_nodes(place: Place, threads: int) -> Settings:
    """Returns the settings with the base's folder in full, since nodes know no project, and no more than they need."""
    base = locate_base(place.settings.model, place.root)
    whole = place.settings.model.base
    if base.folder is not None and whole != ModelSettings().base:
        whole = str(base.folder.resolve())
    return Settings(
        model=place.settings.model.model_copy(update={"base": whole}),
        adapter=place.settings.adapter,
        sampling=place.settings.sampling,
        selection=place.settings.selection,
        machine=place.settings.machine.model_copy(update={"threads": threads}),
    )


def _draw(job: Job, rows: list[str], actors: int, resources: Mapping[str, float]) -> Generator[str]:
    """Yields what the actors return, in whatever order it comes."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # bytes: each card comes back as it is drawn, not with the last of its batch
    actors = min(actors, len(rows))
    batches = max(-(-len(rows) // MOST_CARDS), min(len(rows), BATCHES * actors))
    drawn = ray.data.from_items(rows, override_num_blocks=batches).map_batches(
        Node,
        fn_constructor_args=(job,),
        batch_size=None,
        # One batch at a time: what waits in a lost actor's queue could go to nobody else.
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        max_restarts=MOST_LOSSES,
        max_task_retries=MOST_LOSSES,
        **resources,
    )
    for row in drawn.iter_rows():
        yield str(row["row"])
