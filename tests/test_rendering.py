"""The process that templates run in: what it refuses, that it comes back, and that it has nobody's environment."""

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from gonbuild.errors import InputError, MachineError
from gonbuild.rendering import Renderer

NAME = "templates/card.txt"
DOUBLED = "{% set s = namespace(x='a') %}{% for i in range(64) %}{% set s.x = s.x ~ s.x %}{% endfor %}"
BOMBS = {
    "loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "0.5 s of computing"),
    "loops while compiling": ("{{ " + "+".join(["'a'"] * 20000) + " }}", "no valid template|cannot be rendered|takes"),
    "a text that doubles": (DOUBLED, "more than 192 MiB of memory"),
    "a padded number": ("{{ '%999999999d' % n }}", "more than 192 MiB of memory"),
    "a padded constant": ("{{ '%999999999d' % 1 }}", "more than 192 MiB of memory"),
    "an indented list": ("{{ [1, 2, 3]|tojson(indent=999999999) }}", "more than 192 MiB of memory"),
    "a list of lists": (
        "{% set s = namespace(x=[0]) %}{% for i in range(64) %}{% set s.x = s.x + s.x %}{% endfor %}",
        "more than 192 MiB of memory",
    ),
    "batches": ("{{ [1]|batch(999999999, 0)|list|length }}", "more than 192 MiB of memory"),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "a power": ("{{ 9 ** 9 ** 9 }}", "'[*][*]' is not for templates"),
    "deep nesting": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "no valid template|signal"),
}


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.end()


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_an_error_within_a_second_and_the_next_template_renders(renderer: Renderer, name: str) -> None:
    text, said = BOMBS[name]
    renderer.render(NAME, "warm", 10, {})
    began = time.thread_time()
    with pytest.raises(InputError, match=f"^{NAME}(:1)?: .*({said})"):
        renderer.render(NAME, text, 1000, {"n": 1})
    assert time.thread_time() - began < 0.2  # of this process: the other one has its own limit
    assert renderer.render(NAME, "{{ n }}", 10, {"n": "Sông"}) == "Sông"


def test_limits_grow_with_what_is_handed_over(renderer: Renderer) -> None:
    cards = [{"text": f"Cây xanh số {n:06}. " * 10} for n in range(20_000)]
    text = "{% for c in cards %}{{ c.text | md }}{% endfor %}"
    assert len(renderer.render(NAME, text, 10**8, {"cards": cards})) == 20_000 * 199


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_template_that_leaves_the_sandbox_finds_no_secret(monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    made = Renderer()
    made.render(NAME, "warm", 10, {})
    process = made._process
    assert process is not None
    with open(f"/proc/{process.pid}/environ", "rb") as file:  # noqa: PTH123 (no path of a project)
        assert file.read() == b""
    made.end()
    assert process.poll() == 0


def test_process_that_was_killed_is_started_again(renderer: Renderer) -> None:
    assert renderer.render(NAME, "a{{ n }}", 10, {"n": 1}) == "a1"
    first = renderer._process
    assert first is not None
    first.kill()
    first.wait()
    assert renderer.render(NAME, "a{{ n }}", 10, {"n": 2}) == "a2"


def test_process_that_cannot_start_is_the_machines_fault(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    made = Renderer()
    with pytest.raises(
        MachineError, match=r"process that renders templates did not start, or ended by itself with 1\."
    ):
        made.render(NAME, "a", 10, {})
    made.end()


def test_interrupt_while_waiting_leaves_no_answer_for_the_next_request(renderer: Renderer) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            renderer.render(NAME, BOMBS["loops"][0], 10, {})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert renderer.render(NAME, "{{ n }}", 10, {"n": 3}) == "3"


def test_ended_renderer_leaves_no_process() -> None:
    made = Renderer()
    made.render(NAME, "a", 10, {})
    assert made._process is not None
    pid = made._process.pid
    made.end()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
