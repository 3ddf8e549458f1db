"""The command line on the small project: what is printed where, and the exit codes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import DECK, FakeModels, make_project, open_project

from gonbuild.cli import main
from gonbuild.pipeline import Project
from gonbuild.records import Progress, Row

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    make_project(tmp_path)

    def call(*argv: str, models: FakeModels | None = None) -> tuple[int, str, str]:
        def load(root: str, profile: str | None) -> Project:
            return open_project(Path(root), models)

        code = main([*argv, "--root", str(tmp_path)], load)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_stories_builds_and_then_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    code, out, err = run("stories")
    assert code == 0
    assert "rung-001          generate    new card" in out
    assert "3 cards made; see build/packs/stories.md" in out
    assert [line for line in err.splitlines() if line.endswith("to do")] == [
        "reading the training stories: 1 to do",
        "training: 1 to do",
        "generating: 3 to do",
        "filtering: 3 to do",
    ]
    assert run("stories") == (0, "Nothing to do: 3 cards up to date.\n", "")


def test_plan_changes_nothing(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("plan")
    assert code == 0
    assert "packs             write       3 cards changed" in out
    assert not (tmp_path / "build" / "packs").exists()


def test_check_is_1_until_the_packs_are_built(run: Run, tmp_path: Path) -> None:
    code, _, err = run("check")
    assert code == 1
    assert err == "The packs are stale. Run `make stories` and commit build/.\n"
    run("stories")
    assert run("check")[0] == 0
    (tmp_path / "build/packs/stories.json").write_text("{}")
    assert run("check")[0] == 1


def test_card_without_stories_is_exit_1_each_time(run: Run) -> None:
    models = FakeModels(bad=["song-001"])
    for command in ("stories", "stories", "check", "plan"):
        code, _, err = run(command, models=models)
        assert code == 1, command
        assert "gonbuild: card 'song-001' has 0 new of 2 stories; dropped by effect 128" in err


def test_all_mistakes_are_printed_at_once_with_exit_2(run: Run, tmp_path: Path) -> None:
    bad = DECK.replace("type: Bảo Vệ", "type: Bao Ve").replace("effect: +1", "efect: +1")
    (tmp_path / "cards" / "thu.yaml").write_text(bad, encoding="utf-8")
    code, out, err = run("stories")
    assert (code, out) == (2, "")
    assert "cards/thu.yaml:5:11: card 'rung-001': unknown type 'Bao Ve'" in err
    assert "Did you mean 'Bảo Vệ'?" in err
    assert "efect" in err
    assert "Traceback" not in err


def test_unwritable_build_is_exit_3_with_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "build").write_text("a file where the folder goes")
    code, _, err = run("stories")
    assert code == 3
    assert len(err.splitlines()) == 1
    assert "build" in err


def test_unforeseen_error_is_one_line_and_a_traceback_with_debug(run: Run) -> None:
    class Broken(FakeModels):
        def identity(self) -> str:
            raise ZeroDivisionError("\x1b[31mred")

    code, _, err = run("plan", models=Broken())
    assert code == 3
    assert err == "gonbuild: internal error: ZeroDivisionError: \\x1b[31mred. --debug shows where; please report it.\n"
    assert "Traceback" in run("plan", "--debug", models=Broken())[2]


def test_interrupt_is_130(run: Run) -> None:
    class Interrupted(FakeModels):
        def identity(self) -> str:
            raise KeyboardInterrupt

    code, _, err = run("stories", models=Interrupted())
    assert (code, err) == (130, "gonbuild: interrupted; what was finished is kept\n")


def test_why_tells_inputs_stories_and_drops(run: Run) -> None:
    assert "rung-001: generate: new card" in run("why", "rung-001")[1]
    run("stories", models=FakeModels(bad=["song-001"]))
    out = run("why", "song-001")[1]
    assert "effect: -1 điểm cho Sông" in out
    assert "dropped by effect: 128" in out
    assert "rung-001.1 (candidate " in run("why", "rung-001")[1]
    code, _, err = run("why", "rung-01")
    assert (code, err) == (2, "gonbuild: unknown card 'rung-01'. Did you mean 'rung-001'?\n")


def test_try_prints_candidates_with_verdicts(run: Run) -> None:
    code, out, _ = run("try", "Tên thẻ: Vớt Rác. Loại: Bảo Vệ. Hiệu ứng: +2 điểm cho Sông", "-n", "5")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 6
    assert all(line.startswith(("ok ", "drop")) for line in lines[:5])
    assert lines[5].endswith("of 5 pass")
    assert run("try", "rung-001", "-n", "0")[0] == 2
    assert run("try", "rung-01")[0] == 2


def chat(**turns: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": role, "content": content} for role, content in turns.items()]}


def test_import_writes_examples_and_names_what_it_could_not_place(run: Run, tmp_path: Path) -> None:
    user = "Tên thẻ: Vớt Rác\nLoại: Bảo Vệ\nHiệu ứng: +2 điểm cho Sông"
    rows = [
        chat(system="s", user=user, assistant="Sông tăng 2 điểm."),
        chat(user="xin chào", assistant="chào"),
    ]
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run("import", str(file))
    assert code == 0
    assert "1 stories of 1 card" in out
    assert "1 line not placed" in out
    assert "chat.jsonl:2" in err
    written = (tmp_path / "cards/examples/chat.jsonl").read_text()
    assert json.loads(written)["stories"] == ["Sông tăng 2 điểm."]
    assert run("import", str(file))[0] == 2
    assert run("import", str(file), "--force")[0] == 0
    assert run("plan")[0] == 0


def test_export_gives_what_import_reads(run: Run, tmp_path: Path) -> None:
    assert run("export", "chat", str(tmp_path / "out.jsonl"))[0] == 0
    assert run("import", str(tmp_path / "out.jsonl"))[0] == 0
    cards = [json.loads(line) for line in (tmp_path / "cards/examples/out.jsonl").read_text().splitlines()]
    assert [card["name"] for card in cards] == ["Gieo Hạt Trên Đồi", "Quét Ngõ Sáng Chủ Nhật", "Rác Trôi Theo Lũ"]
    assert run("export", "chat", str(tmp_path / "out.jsonl"))[0] == 2


def test_export_adapter_copies_its_files_alone(run: Run, tmp_path: Path) -> None:
    assert run("export", "adapter", str(tmp_path / "adapter"))[0] == 0
    assert [p.name for p in (tmp_path / "adapter").iterdir()] == ["adapter_model.safetensors"]


def test_merged_is_for_the_adapter_alone(run: Run, tmp_path: Path) -> None:
    code, _, err = run("export", "base", str(tmp_path / "out"), "--merged")
    assert (code, err) == (2, "gonbuild: --merged: is for `export adapter` alone.\n")
    assert not (tmp_path / "out").exists()


def test_train_tells_its_data_curve_time_and_hardware(run: Run) -> None:
    class Recorded(FakeModels):
        def train(self, rows: list[Row], folder: Path, work: Path, progress: Progress, *marks: Any) -> None:
            super().train(rows, folder, work, progress, *marks)
            told = {
                "losses": [[1, 2.5], [2, 1.25]],
                "seconds": 4.9,
                "versions": {"torch": "2.13.0"},
                "data": {"rows": 3},
                "hardware": {"device": "NVIDIA H100", "devices": 2},
            }
            (folder / "training.json").write_text(json.dumps(told))

    out = run("train", models=Recorded())[1]
    line = "trained on 3 rows, loss 2.50 -> 1.25 in 2 updates, 5 s on 2 x NVIDIA H100, torch 2.13.0"
    assert out.splitlines()[1] == line


def test_train_says_where_the_adapter_is(run: Run) -> None:
    models = FakeModels()
    code, out, _ = run("train", models=models)
    assert code == 0
    assert out.startswith("adapter ")
    run("train", models=models)
    assert models.log == ["train 3"]


def test_cache_lists_and_clears(run: Run) -> None:
    run("stories")
    out = run("cache")[1]
    assert "adapter " in out
    assert "candidates " in out
    assert run("cache", "clear")[0] == 0
    assert run("cache")[1].startswith("0 entries, 0.0 MB")


@pytest.mark.parametrize("what", ["cards", "reviews", "settings"])
def test_schema_is_json(run: Run, what: str) -> None:
    schema = json.loads(run("schema", what)[1])
    assert {"$defs", "properties", "items"} & schema.keys()


def test_settings_are_a_table_too(run: Run) -> None:
    assert run("schema", "table")[1].splitlines()[1].startswith("|---|")


def test_release_is_1_with_each_thing_to_mend_until_people_accept_the_stories(run: Run) -> None:
    run("stories")
    code, out, err = run("check", "--release")
    assert code == 1
    assert out.splitlines()[-1] == "3 things to mend before a release."
    assert [line.partition(": people accepted")[0] for line in err.splitlines()] == [
        f"gonbuild: cards/thu.yaml:{line}: card '{card}'"
        for line, card in ((3, "rung-001"), (9, "lang-001"), (15, "song-001"))
    ]
    names = [f"{card}.{slot}" for card in ("rung-001", "lang-001", "song-001") for slot in (1, 2)]
    assert run("review", "--approve", *names)[0] == 0
    run("stories")
    code, out, err = run("check", "--release")
    assert (code, out.splitlines()[-1], err) == (0, "Ready for a release.", "")


def test_report_says_where_its_page_is(run: Run, tmp_path: Path) -> None:
    run("stories")
    code, out, _ = run("report")
    assert (code, out) == (0, f"wrote {tmp_path}/build/report/index.html\n")
    assert (tmp_path / "build/report/index.html").is_file()


def test_eval_prints_what_it_writes(run: Run, tmp_path: Path) -> None:
    run("stories")
    code, out, _ = run("eval")
    assert code == 0
    assert out.startswith("# Base `nano` and adapter ")
    assert (tmp_path / "build/report/eval.md").read_text(encoding="utf-8") == out


def test_doctor_tells_the_machine_and_what_each_profile_lacks_and_needs(run: Run) -> None:
    class Examined(FakeModels):
        def examine(self) -> tuple[dict[str, Any], dict[str, tuple[list[str], list[str]]]]:
            return {"GPU": "none"}, {"nano": ([], ["1.5 to draw"]), "mistral-7b": (["no CUDA device", "no disk"], [])}

    code, out, _ = run("doctor", models=Examined())
    assert code == 0
    assert [line.split(maxsplit=2) for line in out.splitlines()] == [
        ["GPU", "none"],
        ["profile", "nano", "runs here"],
        ["memory,", "GiB", "1.5 to draw"],
        ["profile", "mistral-7b", "cannot run here: no CUDA device; no disk"],
    ]


def test_port_that_is_taken_is_one_line(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, out, err = run("review", "--web", "--port", str(taken.getsockname()[1]))
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert err.endswith("Wanted a free --port.\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file. Name a chat-format JSON Lines file."),
        ("{}\n", "holds no story that could be placed. Wanted chat-format JSON Lines."),
    ],
)
def test_file_without_stories_is_not_imported(run: Run, tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "chat.jsonl"
    if text is not None:
        file.write_text(text)
    code, out, err = run("import", str(file))
    assert (code, out, err.splitlines()[-1]) == (2, "", f"gonbuild: {file}: {said}")
    assert not (tmp_path / "cards/examples").exists()


def test_second_process_of_a_launch_leaves_the_mistake_to_the_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    code, _, err = run("plan")
    assert (code, "together they can only train" in err) == (2, True)
    monkeypatch.setenv("RANK", "1")
    assert run("plan") == (2, "", "")


def test_reader_that_closes_the_pipe_ends_the_command_without_a_word() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "gonbuild.cli", "schema", "settings"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_names_every_command_file_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    for word in "stories plan check why train eval try import export schema doctor cache 130 GONBUILD_CACHE".split():
        assert word in out


def test_build_with_nothing_to_do_loads_no_heavy_library(tmp_path: Path) -> None:
    """In a fresh interpreter, on the real entry point with fake models: what the plan needs is all that is loaded."""
    make_project(tmp_path).build()
    code = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; from fakes import open_project; "
        f"from gonbuild.cli import main; code = main(['stories', '--root', {str(tmp_path)!r}], "
        "lambda root, profile: open_project(Path(root))); "
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'bitsandbytes', 'sacrebleu', 'jinja2', 'yaml', "
        "'ray', 'numpy', 'tqdm', 'gonbuild.plots', 'gonbuild.curves', 'gonbuild.comparison'} & set(sys.modules); "
        "print(code, sorted(heavy))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "Nothing to do: 3 cards up to date.\n0 []\n"
