"""Stories that became copies after they were chosen: people decide, and no build changes them by itself."""

import json
from pathlib import Path

import pytest
from fakes import DECK, FakeModels, make_project, open_project

from gonbuild.packs import PACKS


def first_story(root: Path) -> str:
    pack = json.loads((root / PACKS / "stories.json").read_bytes())
    return str(pack["cards"]["rung-001"]["stories"][0]["text"])


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A project whose designer took a story that ships for an example."""
    make_project(tmp_path).build()
    example = "      - Học sinh gieo hạt keo"
    deck = DECK.replace(example, f"      - {first_story(tmp_path)}\n{example}", 1)
    (tmp_path / "cards" / "thu.yaml").write_text(deck, encoding="utf-8")
    return tmp_path


def test_shipped_story_that_became_an_example_stays_and_is_told(copied: Path) -> None:
    models = FakeModels()
    project = open_project(copied, models)
    assert not project.plan().changes
    (problem,) = project.check()
    assert problem.what.startswith(
        "story 'rung-001.1' is dropped by novelty: too near to a training story (BLEU 100.0)"
    )
    assert problem.wanted == (
        "`gonbuild stories --refresh rung-001` asks for another, and one that people approve may stay."
    )
    assert project.build().plan.changes is False
    assert models.log == []


def test_copy_that_a_person_approved_is_none(copied: Path) -> None:
    row = f'- {{card: rung-001, approve: "{first_story(copied)}"}}\n'
    (copied / "cards" / "reviews.yaml").write_text(row, encoding="utf-8")
    assert open_project(copied).check() == []


def test_what_was_found_is_remembered_until_something_changes(copied: Path) -> None:
    project = open_project(copied)
    found = project.check()
    kept = list((copied / "build/cache/copies").iterdir())
    assert open_project(copied).check() == found
    assert list((copied / "build/cache/copies").iterdir()) == kept


def test_card_far_from_its_own_examples_is_told_where_that_is_a_filter(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    project = make_project(tmp_path, settings="[tool.gonbuild.filters]\nmin_reference_bleu = 99.0\n")
    assert {p.what.partition(": ")[0].partition(" by ")[2] for p in project.check()} == {"reference"}
