"""What the process that runs templates answers, asked in this one, without its limits."""

import io
import json
import pickle
import resource
import signal

import pytest

from gonbuild.sandbox import Runner, limit_process, serve


def ask(*requests: tuple[str, tuple[object, ...]]) -> tuple[list[dict], list[tuple[float, int]]]:
    """Serves requests from memory; returns the answers, and what `limit` was told."""
    sent = b"".join(pickle.dumps((0.5, 1 << 20, what, pickle.dumps(given))) for what, given in requests)
    reader, writer, limits = io.BytesIO(sent), io.BytesIO(), []
    serve(reader, writer, lambda seconds, memory: limits.append((seconds, memory)))
    data, answers = writer.getvalue(), []
    while data:
        size = int.from_bytes(data[:8], "big")
        answers.append(json.loads(data[8 : 8 + size]))
        data = data[8 + size :]
    return answers, limits


def test_each_request_gets_its_answer_and_is_limited_while_it_is_worked_on() -> None:
    answers, limits = ask(
        ("compile", ("k", "templates/card.txt", "{{ name }}\n{{ missing }}")),
        ("compile", ("s", "templates/system.txt", "Chào {{ name }}")),
        ("render", ("k", "templates/card.txt", 100, {"name": "Rừng"})),
        ("render", ("s", "templates/system.txt", 100, {"name": "Rừng"})),
        ("render", ("s", "templates/system.txt", 4, {"name": "Rừng"})),
    )
    assert answers == [
        {"text": ""},
        {"text": ""},
        {"error": "'missing' is undefined", "line": 2},
        {"text": "Chào Rừng"},
        {"long": 4},
    ]
    assert limits == [(0.5, 1 << 20), (0, 0)] * 5


def test_template_of_html_escapes_its_values_and_others_do_not() -> None:
    runner = Runner()
    for name in ("templates/report.html.jinja", "templates/card.txt"):
        runner.compile(name, name, "{{ x }}")
    assert runner.render("templates/report.html.jinja", "", 99, {"x": "<b>"})["text"] == "&lt;b&gt;"
    assert runner.render("templates/card.txt", "", 99, {"x": "<b>"})["text"] == "<b>"


def test_memory_that_ran_out_is_told_in_what_little_there_is(monkeypatch) -> None:
    def full(*_: object) -> dict:
        raise MemoryError

    for name in ("compile", "render"):
        monkeypatch.setattr(Runner, name, full)
    answers, _ = ask(("compile", ("k", "n", "{{ 1 }}")), ("render", ("k", "n", 9, {})))
    assert answers == [{"memory": True}] * 2


def test_template_gets_nothing_that_could_fill_the_memory() -> None:
    runner = Runner()
    for text, said in (
        ("{{ n * 9 }}", "'*' is not for templates"),
        ("{{ n.ljust(9) }}", "access to attribute 'ljust'"),
    ):
        assert runner.compile(text, "t", text) == {"text": ""}
        answer = runner.render(text, "t", 9, {"n": "x"})
        assert said in answer["error"]


def test_template_that_cannot_be_compiled_is_told_with_its_line() -> None:
    assert Runner().compile("k", "t", "\n{% frob %}")["line"] == 2
    deep = "{{ " + "-" * 100_000 + "1 }}"
    assert "recursion" in Runner().compile("k", "t", deep)["error"]


def test_memory_that_runs_out_is_no_fault_of_the_line_where_it_does(monkeypatch) -> None:
    def full(*_: object, **__: object) -> object:
        raise MemoryError

    runner = Runner()
    runner.compile("k", "t", "{{ f() }}")
    with pytest.raises(MemoryError):
        runner.render("k", "t", 9, {"f": full})
    monkeypatch.setattr(runner._environment, "compile", full)
    with pytest.raises(MemoryError):
        runner.compile("k", "t", "x")


def test_process_without_limits_is_as_before() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_process(0.0, 0)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert resource.getrlimit(resource.RLIMIT_AS) == (before[1], before[1])
