"""The gate of `make test`: which modules it names, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from coverage_floors import WHOLE

SCRIPT = Path(__file__).parent / "coverage_floors.py"


def gate(tmp_path: Path, **percent: float) -> tuple[int, list[str]]:
    """Runs the gate on a report in which modules are covered in full but for these; 0 leaves one out."""
    told = {**dict.fromkeys(WHOLE, 100.0), "bleu": 100.0, **percent}
    files = {
        f"gonbuild/{name}.py": {"summary": {"percent_covered": p, "missing_lines": 3, "missing_branches": 1}}
        for name, p in told.items()
        if p
    }
    (tmp_path / "coverage.json").write_text(json.dumps({"files": files}))
    command = [sys.executable, str(SCRIPT), str(tmp_path / "coverage.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_each_module_under_its_floor_has_a_line(tmp_path: Path) -> None:
    assert gate(tmp_path, bleu=89.99, store=99.97, cli=42.0) == (
        1,
        [
            "bleu: 89.9% covered, wanted 90%: 3 lines and 1 branches missed",
            "cli: 42.0% covered, wanted 90%: 3 lines and 1 branches missed",
            "store: 99.9% covered, wanted 100%: 3 lines and 1 branches missed",
        ],
    )


def test_what_is_covered_as_it_should_be_passes(tmp_path: Path) -> None:
    assert gate(tmp_path, bleu=90.0) == (0, ["Every module is covered as far as it should be."])


def test_module_that_no_test_loaded_does_not_pass(tmp_path: Path) -> None:
    assert gate(tmp_path, store=0) == (1, ["store: not measured, wanted 100%"])


@pytest.mark.parametrize("name", WHOLE)
def test_module_with_a_floor_of_its_own_is_there(name: str) -> None:
    assert (SCRIPT.parent.parent / "gonbuild" / f"{name}.py").is_file()
