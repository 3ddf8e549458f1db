"""Edits, merges and machines at CI's size, and that what they look at can be told apart."""

import json
from collections.abc import Sequence
from pathlib import Path

from fakes import make_project
from torture import edits, machines, merges

from gonbuild.packs import PACKS


def test_edit_of_one_card_changes_that_card_alone() -> None:
    assert edits.run(24, 1, 1).failures == ()


def test_edit_that_changes_too_much_is_told(monkeypatch) -> None:
    def two(_rng: object, decks: Sequence[list[dict]]) -> set[str]:
        first, second = decks[0][:2]
        first["name"], second["name"] = "Thẻ Khác", "Thẻ Khác Nữa"
        return {first["id"]}

    monkeypatch.setattr(edits, "EDITS", {"two at once": two})
    (line,) = edits.run(1, 0, 1).failures
    assert line == "edit 0, two at once: ['rung-000', 'rung-001'] changed, ['rung-000'] wanted"


def test_record_of_a_card_is_all_that_packs_and_lock_hold_of_it(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = edits.records(tmp_path)
    assert [len(told) for told in before.values()] == [4, 4, 4]
    path = tmp_path / PACKS / "thu.json"
    pack = json.loads(path.read_bytes())
    pack["cards"]["song-001"]["stories"][0]["text"] += "!"
    path.write_text(json.dumps(pack), encoding="utf-8")
    after = edits.records(tmp_path)
    assert [card for card in before if before[card] != after[card]] == ["song-001"]


def test_branches_that_add_cards_merge() -> None:
    assert merges.run(3, 1, 1).failures == ()


def test_merge_that_git_stops_at_is_told(monkeypatch, tmp_path: Path) -> None:
    for name in (".gitattributes", ".gitignore"):
        (tmp_path / name).touch()
    monkeypatch.setattr(merges, "REPOSITORY", tmp_path)  # no lock merges as a union there
    lines = merges.run(4, 1, 1).failures
    assert any("git stopped at" in line for line in lines)


def test_build_is_the_same_whatever_the_machine_is_told() -> None:
    outcome = machines.run(2, 0, 1)
    assert outcome.failures == ()
    assert outcome.told.startswith("1 hash of packs and lock")
