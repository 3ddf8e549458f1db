"""Making stories for cards where something of it was lost meanwhile."""

import re
from pathlib import Path

import pytest
from fakes import make_project

from gonbuild.errors import MachineError
from gonbuild.making import adapter_folder


def test_candidates_that_vanish_as_they_are_drawn_end_the_build_with_their_cards(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.draw = lambda *_: None
    said = "candidates of rung-001, lang-001, song-001 that were kept just now cannot be read. Is the disk sound"
    with pytest.raises(MachineError, match=re.escape(f"{tmp_path}/build/cache: {said}")):
        project.build()
    assert not list((tmp_path / "build/packs").glob("*"))


def test_lost_adapter_of_earlier_settings_is_not_trained_again(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    with pytest.raises(MachineError, match="adapter 00000000 was damaged in the store .* uses the current adapter"):
        adapter_folder(project.workspace(), "0" * 64)
    assert project.models.log == []
