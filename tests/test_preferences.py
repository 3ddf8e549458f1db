"""What reviewers' marks teach: the pairs and rows, their formats, and the keys that they move."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import REPOSITORY, FakeModels, make_project

from gonbuild.cli import main
from gonbuild.errors import InputError
from gonbuild.pipeline import Project
from gonbuild.preferences import (
    Marks,
    balance,
    dpo_jsonl,
    kto_jsonl,
    marked_rows,
    preference_digests,
    read_marks,
    require_marks,
)
from gonbuild.prompts import load_templates
from gonbuild.records import NO_PREFERENCES, Card, Marked, Preferences
from gonbuild.report import training_line
from gonbuild.reviews import Decision, Reviews
from gonbuild.settings import AdapterSettings, Settings
from gonbuild.store import Store
from gonbuild.workspace import Workspace

TEMPLATES = load_templates(REPOSITORY)
RIVER = Card("song-001", "Rác Trôi", "Thiên Tai", "-1 điểm cho Sông", where="cards/a.yaml:9")
WOOD = Card("rung-001", "Gieo Hạt", "Bảo Vệ", "+2 điểm cho Rừng", where="cards/a.yaml:3")
LIKED = {"song-001": ("Nước đục.", "Cá đi."), "rung-001": ("Cây mọc.",), "gone-001": ("Mất.",)}
BANNED = {"song-001": ("Sông mất 1 điểm.",), "rung-001": ("Rừng thêm.", "Rừng."), "gone-001": ("Rồi.",)}


def told(liked: Marks = LIKED, banned: Marks = BANNED) -> Preferences:
    return read_marks([RIVER, WOOD], TEMPLATES, liked, banned)


def test_each_liked_story_is_paired_with_each_banned_one_of_its_card() -> None:
    assert [(p.card, p.chosen, p.rejected) for p in told().pairs] == [
        ("rung-001", "Cây mọc.<|end|>", "Rừng thêm.<|end|>"),
        ("rung-001", "Cây mọc.<|end|>", "Rừng.<|end|>"),
        ("song-001", "Cá đi.<|end|>", "Sông mất 1 điểm.<|end|>"),
        ("song-001", "Nước đục.<|end|>", "Sông mất 1 điểm.<|end|>"),
    ]


def test_each_marked_story_is_a_row_by_itself() -> None:
    assert [(r.card, r.completion, r.liked) for r in told().rows] == [
        ("rung-001", "Cây mọc.<|end|>", True),
        ("rung-001", "Rừng thêm.<|end|>", False),
        ("rung-001", "Rừng.<|end|>", False),
        ("song-001", "Cá đi.<|end|>", True),
        ("song-001", "Nước đục.<|end|>", True),
        ("song-001", "Sông mất 1 điểm.<|end|>", False),
    ]


def test_texts_are_those_of_training_rows() -> None:
    for row in marked_rows(told()):
        card = {card.id: card for card in (RIVER, WOOD)}[row.source]
        assert (row.prompt, row.where) == (TEMPLATES.prompt(card).text, card.where)


def test_order_and_repetition_of_marks_and_cards_change_nothing() -> None:
    turned = {card: (*reversed(texts), texts[0]) for card, texts in reversed(BANNED.items())}
    assert read_marks([WOOD, RIVER], TEMPLATES, {**LIKED}, turned) == told()


def test_story_that_is_liked_and_banned_is_banned() -> None:
    both = told({"song-001": ("Cá đi.", "Nước đục.")}, {"song-001": ("Cá đi.",)})
    assert [(r.completion, r.liked) for r in both.rows] == [("Nước đục.<|end|>", True), ("Cá đi.<|end|>", False)]


def test_marks_of_one_kind_alone_make_no_pair() -> None:
    assert told(LIKED, {}).pairs == told({}, BANNED).pairs == ()
    assert len(told({}, BANNED).rows) == 3
    assert told({}, {}) == NO_PREFERENCES


def test_formats_are_those_that_trl_names(tmp_path: Path) -> None:
    from datasets import load_dataset

    (tmp_path / "dpo.jsonl").write_text(dpo_jsonl(told().pairs), encoding="utf-8")
    (tmp_path / "kto.jsonl").write_text(kto_jsonl(told().rows), encoding="utf-8")
    for name, wanted in (("dpo", told().pairs), ("kto", told().rows)):
        path = str(tmp_path / f"{name}.jsonl")
        rows = load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
        columns = {"dpo": ["prompt", "chosen", "rejected"], "kto": ["prompt", "completion", "label"]}[name]
        assert rows.column_names == columns
        assert [list(row.values()) for row in rows] == [list(vars(x).values())[1:4] for x in wanted]


def test_digest_moves_for_the_card_whose_marks_changed_alone() -> None:
    before = preference_digests(told(), "kto")
    after = preference_digests(told({**LIKED, "song-001": ("Cá đi.",)}), "kto")
    assert before.keys() == after.keys() == {"rung-001", "song-001"}
    assert before["rung-001"] == after["rung-001"]
    assert before["song-001"] != after["song-001"]


def test_ban_without_a_liked_story_counts_for_kto_and_not_for_dpo() -> None:
    alone = told({"rung-001": ("Cây mọc.",)})
    assert preference_digests(alone, "dpo").keys() == {"rung-001"}
    assert preference_digests(alone, "kto").keys() == {"rung-001", "song-001"}


@pytest.mark.parametrize(
    ("liked", "banned", "weights"),
    [(2, 2, (1.0, 1.0)), (1, 4, (4.0, 1.0)), (6, 4, (1.0, 1.5)), (0, 3, (1.0, 1.0)), (3, 0, (1.0, 1.0))],
)
def test_both_sides_weigh_the_same(liked: int, banned: int, weights: tuple[float, float]) -> None:
    rows = [Marked("a", "", str(n), liked=n < liked) for n in range(liked + banned)]
    assert balance(rows) == weights


def test_what_is_wanted_is_said_where_there_is_nothing_to_learn_from() -> None:
    wanted = "no card has both .* Approve or pin a story and ban another of the same card: `gonbuild review`"
    with pytest.raises(InputError, match=wanted):
        require_marks(told({}, BANNED), "dpo")
    for one_kind in (NO_PREFERENCES, told({}, BANNED), told(LIKED, {})):
        with pytest.raises(
            InputError, match="not both stories .* Approve or pin stories and ban .*: `gonbuild review`"
        ):
            require_marks(one_kind, "kto")
    for method, preferences in (("sft", NO_PREFERENCES), ("kto", told()), ("dpo", told())):
        require_marks(preferences, method)


# --- the project ---------------------------------------------------------------------------------

OWN_LIKED = {"rung-001": ("Cây mọc kín đồi.",)}
OWN_BANNED = {"rung-001": ("Rừng tăng 2 điểm.",)}


class Reviewed(Project):
    """A project whose stories bear marks."""

    liked: Marks = OWN_LIKED
    banned: Marks = OWN_BANNED

    def workspace(self) -> Workspace:
        decisions = [Decision(card, "approve", text) for card, texts in self.liked.items() for text in texts]
        decisions += [
            Decision(card, "ban", text, reason="sai") for card, texts in self.banned.items() for text in texts
        ]
        ws = super().workspace()
        ws.reviews = Reviews(tuple(decisions))
        return ws


@pytest.fixture
def reviewed(tmp_path: Path) -> Callable[..., Reviewed]:
    make_project(tmp_path)

    def make(method: str, models: FakeModels | None = None) -> Reviewed:
        settings = Settings(adapter=AdapterSettings.model_validate({"method": method}))
        return Reviewed(tmp_path, settings, Store(tmp_path / "cache"), models or FakeModels())

    return make


def test_settings_that_learn_from_no_marks_have_the_key_they_had() -> None:
    names = {name for name in AdapterSettings.model_fields if name != "method" and not name.startswith("preference_")}
    plain = Settings().adapter.model_dump(mode="json")
    assert plain.keys() == names
    assert AdapterSettings(preference_beta=0.7).model_dump(mode="json") == plain
    assert AdapterSettings(method="dpo").model_dump(mode="json").keys() == set(AdapterSettings.model_fields)


@pytest.mark.parametrize(("method", "moved"), [("sft", False), ("dpo", True), ("kto", True)])
def test_changed_mark_moves_the_adapter_where_it_learns_from_marks_alone(
    reviewed: Callable[..., Reviewed], method: str, moved: bool
) -> None:
    project = reviewed(method)
    before = project.workspace().adapter_key
    assert project.workspace().adapter_key == before
    project.liked = {"rung-001": ("Mầm xanh kín đồi.",)}
    assert (project.workspace().adapter_key != before) is moved


def test_plan_says_which_card_has_other_marks(reviewed: Callable[..., Reviewed]) -> None:
    project = reviewed("kto")
    project.build()
    project.banned = {**OWN_BANNED, "lang-001": ("Làng tăng 1 điểm.",)}
    plan = project.plan(refresh=["lang-001"])
    assert plan.adapter.reasons == ("reviewers' marks added: lang-001",)


def test_plan_says_that_marks_are_learned_from_now(reviewed: Callable[..., Reviewed]) -> None:
    reviewed("sft").build()
    reasons = reviewed("dpo").plan(refresh=["lang-001"]).adapter.reasons
    assert reasons == (
        'adapter.method: nothing -> "dpo"',
        "adapter.preference_beta: nothing -> 0.5",
        "adapter.preference_epochs: nothing -> 5.0",
        "adapter.preference_learning_rate: nothing -> 0.001",
        "reviewers' marks added: rung-001",
        "preferences_step: nothing -> 1",
    )


def test_training_is_given_what_the_marks_teach(reviewed: Callable[..., Reviewed]) -> None:
    given = []

    class Watched(FakeModels):
        def train(self, *args: object) -> None:
            given.append(args[-1])
            super().train(*args)

    project = reviewed("dpo", Watched())
    project.train()
    assert given == [project.workspace().preferences]
    assert len(given[0].pairs) == 1


@pytest.mark.parametrize(("method", "what"), [("dpo", "dpo on 9 pairs"), ("kto", "kto on 9 marked stories")])
def test_training_is_told_with_its_marks(method: str, what: str) -> None:
    record = {
        "losses": [[1, 2.5], [2, 1.25]],
        "seconds": 4.9,
        "versions": {"torch": "2.13.0"},
        "data": {"rows": 3},
        "hardware": {"device": "NVIDIA H100", "devices": 1},
        "preferences": {"method": method, "read": 9, "losses": [[1, 0.7]], "seconds": 7.2},
    }
    line = f"3 rows, loss 2.50 -> 1.25 in 2 updates, 5 s, then {what}, 7 s, on 1 x NVIDIA H100, torch 2.13.0"
    assert training_line(json.dumps(record).encode()) == line


def test_export_writes_both_files(reviewed: Callable[..., Reviewed], tmp_path: Path, capsys) -> None:
    def export(where: str) -> int:
        return main(["export", "preferences", str(tmp_path / where)], lambda *_: reviewed("sft"))

    assert export("out") == 0
    assert capsys.readouterr().out == f"1 pair, 2 marked stories\nwrote {tmp_path / 'out'}\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dpo.jsonl", "kto.jsonl"]
    assert json.loads((tmp_path / "out/dpo.jsonl").read_text())["chosen"] == "Cây mọc kín đồi.<|end|>"
    assert export("out") == 2
    assert "is there already. Name a path that is free." in capsys.readouterr().err


def test_export_leaves_out_a_file_that_would_be_empty(reviewed: Callable[..., Reviewed], tmp_path: Path) -> None:
    project = reviewed("sft")
    project.liked = {}
    assert len(project.export_preferences(tmp_path / "out").rows) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["kto.jsonl"]


def test_export_without_marks_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no story of these cards bears a reviewer's mark.*`gonbuild review`"):
        make_project(tmp_path).export_preferences(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_processes_are_sent_back(reviewed: Callable[..., Reviewed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were started, and learning from marks takes one"):
        reviewed("dpo").train()
