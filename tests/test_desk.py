"""Reviewing on the small project: decisions taken down, honoured by builds, and nothing lost on the way."""

import json
import multiprocessing
import os
import pty
import re
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import SCENES, FakeModels, make_project, open_project

from gonbuild.cli import main
from gonbuild.desk import Desk
from gonbuild.errors import InputError
from gonbuild.review_flags import reviewer
from gonbuild.reviews import Decision
from gonbuild.terminal import Session

REVIEWS = "cards/reviews.yaml"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    project = make_project(tmp_path)
    project.build()
    return Desk(project)


def pack(root: Path) -> dict[str, list[str]]:
    cards = json.loads((root / "build/packs/stories.json").read_bytes())["cards"]
    return {card: [story["text"] for story in told["stories"]] for card, told in cards.items()}


def rebuilt(desk: Desk, models: FakeModels | None = None, **more: list[str]) -> dict[str, list[str]]:
    root = desk.project.root
    open_project(root, models).build(**more)  # type: ignore[arg-type]
    assert not open_project(root).plan().changes
    return pack(root)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


# What builds make of decisions


def test_sheet_shows_stories_candidates_and_why_others_were_dropped(desk: Desk) -> None:
    sheet = desk.sheet("rung-001")
    assert [t.story.id for t in sheet.stories] == ["rung-001.1", "rung-001.2"]
    assert sheet.deck == "Thử"
    passed = [c for c in sheet.candidates if not c.filter]
    dropped = [c for c in sheet.candidates if c.filter]
    assert passed
    assert all(c.reason for c in dropped)
    assert sheet.candidates == (*passed, *dropped)
    assert not sheet.done


def test_pinned_text_ships_word_for_word_and_no_model_is_asked(desk: Desk) -> None:
    before = pack(desk.project.root)
    desk.pin("rung-001", 2, "Bé gieo hạt  trên đồi. Rừng tăng 2 điểm.", "Lan")
    models = FakeModels()
    after = rebuilt(desk, models)
    assert after["rung-001"] == [before["rung-001"][0], "Bé gieo hạt trên đồi. Rừng tăng 2 điểm."]
    assert {card: after[card] for card in after if card != "rung-001"} == {
        card: before[card] for card in before if card != "rung-001"
    }
    assert models.log == []


def test_pins_outlive_everything_but_another_effect(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    root = desk.project.root
    desk.pin("rung-001", 1, "Bé gieo hạt trên đồi. Rừng tăng 2 điểm.")
    rebuilt(desk, refresh=["all"])
    for toml in ('[tool.gonbuild.filters]\nbanned_words = ["gieo"]\n', "[tool.gonbuild.sampling]\nseed = 3\n"):
        with (root / "pyproject.toml").open("a") as file:
            file.write(toml)
        assert rebuilt(desk)["rung-001"][0] == "Bé gieo hạt trên đồi. Rừng tăng 2 điểm."
    edit(root / "cards/thu.yaml", "+2 điểm cho Rừng", "+3 điểm cho Rừng")
    assert "Bé gieo hạt trên đồi. Rừng tăng 2 điểm." not in rebuilt(desk)["rung-001"]
    assert [d.slot for d in desk.sheet("rung-001").stale] == [1]
    capsys.readouterr()
    assert main(["check", "--root", str(root)], load=lambda *_: open_project(root)) == 0
    assert "reviews.yaml:2: pin of rung-001.1 is stale" in capsys.readouterr().out


def test_ban_makes_its_slot_anew_and_leaves_the_card_s_other_story(desk: Desk) -> None:
    before = pack(desk.project.root)
    desk.ban("rung-001", before["rung-001"][1], "sai")
    plan = open_project(desk.project.root).plan()
    assert [(s.what, s.reasons) for s in plan.cards if s.changes] == [("rung-001", ("rung-001.2 is banned: sai",))]
    after = rebuilt(desk)
    assert after["rung-001"][0] == before["rung-001"][0]
    assert after["rung-001"][1] not in before["rung-001"]
    assert {k: v for k, v in after.items() if k != "rung-001"} == {k: v for k, v in before.items() if k != "rung-001"}


def test_near_copy_of_a_banned_story_goes_too(desk: Desk) -> None:
    shipped = pack(desk.project.root)["rung-001"][0]
    scene = shipped.rpartition(". ")[0]
    desk.ban("lang-001", f"{scene} ngoài đồng. Làng tăng 1 điểm.", "chán")
    plan = open_project(desk.project.root).plan()
    reasons = {s.what: s.reasons for s in plan.cards if s.changes}
    assert reasons["rung-001"] == ("rung-001.1 is banned: near to a story that is (chán)",)
    assert all(scene not in story for stories in rebuilt(desk).values() for story in stories)


def test_banned_candidate_never_ships_and_is_dropped_with_its_reason(desk: Desk) -> None:
    root = desk.project.root
    for scene in SCENES[:8]:
        desk.ban("rung-001", f"{scene}. Rừng tăng 2 điểm.", "chán")
    after = rebuilt(desk, refresh=["rung-001"])
    assert not any(scene in story for scene in SCENES[:8] for story in after["rung-001"])
    assert {c.reason for c in desk.sheet("rung-001").candidates if c.filter == "banned"} == {"is banned (chán)"}
    assert (root / REVIEWS).read_text().count("ban:") == 8


def test_banned_text_goes_even_where_no_text_is_too_near(desk: Desk) -> None:
    root = desk.project.root
    with (root / "pyproject.toml").open("a") as file:
        file.write("[tool.gonbuild.filters]\nmax_novelty_bleu = 100.0\nmax_diversity_bleu = 100.0\n")
    before = rebuilt(desk)
    desk.ban("rung-001", before["rung-001"][0], "chán")
    after = rebuilt(desk)
    assert before["rung-001"][0] not in after["rung-001"]
    assert after["rung-001"][1] == before["rung-001"][1]
    assert len(set(after["rung-001"])) == 2


def test_approved_story_outlives_other_settings(desk: Desk) -> None:
    root, before = desk.project.root, pack(desk.project.root)
    desk.approve("rung-001", before["rung-001"][1])
    for text in before["song-001"]:
        desk.approve("song-001", text)
    with (root / "pyproject.toml").open("a") as file:
        file.write("[tool.gonbuild.sampling]\nseed = 3\n")
    plan = {s.what: s for s in open_project(root).plan().cards}
    assert plan["song-001"].reasons[-1] == "its stories are approved"
    after = rebuilt(desk)
    assert plan["rung-001"].held == (2,)
    assert after["rung-001"][1] == before["rung-001"][1]
    assert after["song-001"] == before["song-001"]


def test_taking_a_decision_back_leaves_what_ships(desk: Desk) -> None:
    desk.pin("rung-001", 1, "Bé gieo hạt keo trên đồi vắng mỗi sớm mai. Rừng tăng 2 điểm.")
    shipped = rebuilt(desk)
    assert [d.kind for d in desk.take_back(lambda d: d.card == "rung-001")] == ["pin"]
    assert rebuilt(desk) == shipped


def test_text_that_no_filter_passes_goes_when_nobody_vouches_for_it_any_more(desk: Desk) -> None:
    first = rebuilt(desk)
    desk.pin("rung-001", 1, "Bé gieo hạt. Rừng tăng 2 điểm.")
    rebuilt(desk)
    desk.take_back(lambda d: d.card == "rung-001")
    (step,) = [step for step in desk.project.plan().cards if step.changes]
    assert step.reasons == ("rung-001.1 is dropped by length: 7 words are too few, wanted 12 or more",)
    assert rebuilt(desk) == first


def test_card_whose_every_slot_is_pinned_never_meets_a_model(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    lines = [
        f'- {{card: {card}, pin: "Câu {n} của {card}.", slot: {n}, effect: "{effect}"}}\n'
        for card, effect in (
            ("rung-001", "+2 điểm cho Rừng"),
            ("lang-001", "+1 điểm cho Làng"),
            ("song-001", "-1 điểm cho Sông"),
        )
        for n in (1, 2)
    ]
    (tmp_path / REVIEWS).write_text("".join(lines), encoding="utf-8")
    models = FakeModels()
    open_project(tmp_path, models).build()
    assert models.log == []
    assert pack(tmp_path)["song-001"] == ["Câu 1 của song-001.", "Câu 2 của song-001."]
    assert not project.plan().changes


def test_packs_are_the_same_on_a_machine_without_the_cache(desk: Desk, tmp_path: Path) -> None:
    import shutil

    root = desk.project.root
    desk.pin("rung-001", 1, "Bé gieo hạt trên đồi. Rừng tăng 2 điểm.")
    desk.ban("song-001", pack(root)["song-001"][0], "sai")
    rebuilt(desk)
    for name in ("build/cache", "build/report"):
        shutil.rmtree(root / name)
    assert not open_project(root).plan().changes


# Mistakes


@pytest.mark.parametrize(
    ("decide", "said"),
    [
        (lambda d: d.pin("rung-001", 3, "Ba."), "pin of card 'rung-001' wants slot 3. Wanted a slot from 1 to 2"),
        (
            lambda d: d.pin("rung-001", 1, "a " * 50),
            "pin of card 'rung-001' has 50 words in 1 sentence. Wanted at most 40",
        ),
        (lambda d: d.ban("rung-001", "Một.", ""), "a ban has no reason"),
        (lambda d: d.approve("rung-1", "Một."), "approve of card 'rung-1', which no deck has. Did you mean 'rung-001'"),
        (lambda d: d.edit("rung-001", 1, "x\u202ey", "z"), "the text has an invisible character, U\\+202E"),
        (lambda d: d.find("rung-001.9"), "no story 'rung-001.9'. Card 'rung-001' ships rung-001.1, rung-001.2"),
        (lambda d: d.find("rung-01.1"), "unknown card 'rung-01'. Did you mean 'rung-001'"),
    ],
)
def test_what_cannot_be_honoured_is_not_written(desk: Desk, decide: Callable[[Desk], object], said: str) -> None:
    desk.approve("lang-001", "Một.")
    before = (desk.project.root / REVIEWS).read_bytes()
    with pytest.raises(InputError, match=said):
        decide(desk)
    assert (desk.project.root / REVIEWS).read_bytes() == before


def test_several_decisions_are_written_together_or_not_at_all(desk: Desk) -> None:
    with pytest.raises(InputError, match="slot 3"):
        desk.decide(Decision("rung-001", "approve", "Một."), Decision("rung-001", "pin", "x", 3, "+2 điểm cho Rừng"))
    assert not (desk.project.root / REVIEWS).exists()


def test_mistakes_of_decks_and_reviews_are_told_together(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    root = desk.project.root
    edit(root / "cards/thu.yaml", "type: Thiên Tai", "type: Thien Tai")
    (root / REVIEWS).write_text("- {card: rung-001, ban: x}\n<<<<<<< HEAD\n")
    before = (root / "build/packs/stories.json").read_bytes()
    assert main(["stories", "--root", str(root)], load=lambda *_: open_project(root)) == 2
    err = capsys.readouterr().err
    assert "cards/thu.yaml:17:11: card 'song-001': unknown type 'Thien Tai'" in err
    assert "cards/reviews.yaml:2: a conflict marker of git" in err
    assert (root / "build/packs/stories.json").read_bytes() == before


def test_reviews_of_a_lost_card_stop_the_build_until_forgotten(desk: Desk) -> None:
    root = desk.project.root
    desk.approve("song-001", "Một.")
    deck = (root / "cards/thu.yaml").read_text(encoding="utf-8")
    (root / "cards/thu.yaml").write_text(deck[: deck.index("  - id: song")], encoding="utf-8")
    with pytest.raises(InputError, match=r"reviews.yaml:2: approve of card 'song-001', which no deck has"):
        open_project(root).plan()
    assert run(root, "review", "--forget", "song-001") == 0
    assert "song-001" not in rebuilt(desk)


def test_reviews_that_are_a_link_out_of_the_project_are_refused(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "r.yaml"
    outside.write_text("- {card: rung-001, approve: x}\n")
    (desk.project.root / REVIEWS).symlink_to(outside)
    with pytest.raises(InputError, match="cards/reviews.yaml: is a link that leaves the project"):
        open_project(desk.project.root).plan()


# Many at a time


def _approve_some(root: str, who: int) -> None:
    desk = Desk(open_project(Path(root)))
    for n in range(5):
        desk.approve("rung-001", f"Câu {who} {n}.", f"R{who}")


def test_processes_and_threads_at_a_time_lose_no_decision(desk: Desk) -> None:
    root = str(desk.project.root)
    workers = [
        *(multiprocessing.get_context("spawn").Process(target=_approve_some, args=(root, who)) for who in range(2)),
        *(threading.Thread(target=_approve_some, args=(root, who)) for who in range(2, 6)),
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(desk.reviews().decisions) == 30


@pytest.mark.parametrize("round_", range(2))
def test_two_branches_merge_without_a_conflict(tmp_path: Path, round_: int) -> None:
    def git(*args: str) -> str:
        told = subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *args], cwd=tmp_path,
                              capture_output=True, text=True, check=True)  # fmt: skip
        return told.stdout

    desk = Desk(make_project(tmp_path))
    git("init", "-q", "-b", "main")
    (tmp_path / ".gitattributes").write_text((Path(__file__).parent.parent / ".gitattributes").read_text())
    desk.approve("lang-001", "Đầu.", "Lan")
    if round_:
        desk.ban("rung-001", "M.", "sai")
    git("add", "."), git("commit", "-qm", "base"), git("branch", "other")
    desk.approve("rung-001", "Một.", "Lan")
    desk.ban("rung-001", "Ba.", "sai", "Lan")
    git("commit", "-qam", "ours"), git("switch", "-q", "other")
    desk.approve("rung-001", "Hai.", "Mai")
    desk.ban("rung-001", "Bốn.", "sai", "Mai")
    git("commit", "-qam", "theirs"), git("merge", "-q", "main", "-m", "both")
    texts = [d.text for d in desk.reviews().decisions]
    assert sorted(texts) == sorted(["Một.", "Hai.", "Ba.", "Bốn.", "Đầu.", *(["M."] if round_ else [])])


# The form


def run(root: Path, *args: str) -> int:
    return main([*args, "--root", str(root)], load=lambda *_: open_project(root))


def test_ticks_and_edits_in_the_pack_become_decisions(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    root = desk.project.root
    before, form = pack(root), root / "build/packs/stories.md"
    candidate = next(c for c in desk.sheet("song-001").candidates if not c.filter)
    edit(form, f"- [ ] `rung-001.1` {before['rung-001'][0]}", f"- [x] `rung-001.1` {before['rung-001'][0]}")
    edit(form, f"- [ ] `rung-001.2` {before['rung-001'][1]}", "- [ ] `rung-001.2` Bé hát. Rừng tăng 2 điểm.")
    edit(form, "- [ ] `lang-001.2`", "- [- chán] `lang-001.2`")
    edit(form, f"- [ ] `song-001.c{candidate.index}`", f"- [1] `song-001.c{candidate.index}`")

    plan = open_project(root).plan()
    assert len(plan.pending) == 4
    assert run(root, "stories") == 2
    assert "gonbuild review --from build/packs/stories.md` takes it down" in capsys.readouterr().err
    assert run(root, "review", "--from", str(form), "--by", "Lan") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "`make stories` brings it into the packs."
    kinds = [(d.card, d.kind, d.by) for d in desk.reviews().decisions]
    assert sorted(kinds) == [
        ("lang-001", "ban", "Lan"),
        ("rung-001", "approve", "Lan"),
        ("rung-001", "edit", "Lan"),
        ("song-001", "pin", "Lan"),
    ]
    after = rebuilt(desk)
    assert after["rung-001"] == [before["rung-001"][0], "Bé hát. Rừng tăng 2 điểm."]
    assert after["lang-001"][0] == before["lang-001"][0]
    assert after["lang-001"][1] != before["lang-001"][1]
    assert after["song-001"] == [candidate.text, before["song-001"][1]]
    text = form.read_text(encoding="utf-8")
    assert f"- [x] `rung-001.1` {before['rung-001'][0]}" in text
    assert "rung-001.2: a person's wording" in text
    assert run(root, "review", "--from", str(form)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "No new decision."


def test_form_with_a_mistake_decides_nothing_and_keeps_the_form(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    root = desk.project.root
    form = root / "build/packs/stories.md"
    edit(form, "- [ ] `rung-001.1`", "- [x] `rung-001.1`")
    edit(form, "- [ ] `rung-001.2`", "- [-] `rung-001.2`")
    filled = form.read_bytes()
    assert run(root, "review", "--from", str(form)) == 2
    assert "a ban without a reason. Write it into the box" in capsys.readouterr().err
    assert not (root / REVIEWS).exists()
    assert run(root, "check") == 1
    assert form.read_bytes() == filled


# The flags and the keys


def test_flags_decide_and_say_what_they_did(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    root = desk.project.root
    texts = pack(root)
    candidate = next(c for c in desk.sheet("song-001").candidates if not c.filter)
    assert run(root, "review", "--approve", "rung-001.1", "rung-001.2", "--by", "Lan") == 0
    assert run(root, "review", "--ban", "lang-001.2", "--reason", "sai", "--by", "Lan") == 0
    assert run(root, "review", "--pin", "song-001.1", "--candidate", f"song-001.c{candidate.index}", "--by", "Lan") == 0
    assert run(root, "review", "--edit", "song-001.2", "--text", "Lũ về. Sông mất 1 điểm.", "--by", "Lan") == 0
    assert run(root, "review", "--rate", "rung-001.1", "sense=4", "card=5", "--by", "Mai") == 0
    assert run(root, "review", "--rate", "rung-001.1", "language=3", "--by", "Mai") == 0
    rated = next(d for d in desk.reviews().decisions if d.kind == "rating")
    assert rated.scores == {"sense": 4, "card": 5, "language": 3}
    capsys.readouterr()
    assert run(root, "review", "--take-back", "rung-001.2") == 0
    assert capsys.readouterr().out.startswith(f"gone: approve rung-001 by Lan: {texts['rung-001'][1][:20]}")
    assert run(root, "review", "--list") == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 6
    assert out[-1] == "5 decisions; 0 of 3 cards approved"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--ban", "rung-001.1"], "a ban has no reason"),
        (["--rate", "rung-001.1", "sense=9", "--by", "L"], "--rate: 'sense=9' is no mark. Wanted 1 to 5"),
        (["--rate", "rung-001.1", "--by", "L"], "--rate: no mark was given"),
        (["--pin", "rung-001.7"], "no story 'rung-001.7'"),
        (["--edit", "rung-001.1"], "a edit has no text"),
        (["--rate", "rung-001.1", "sense=4"], "--rate: a rating needs a name. Wanted --by NAME."),
        (["--from", "nowhere.md"], "nowhere.md: no such file"),
        ([], "reviewing key by key wants a terminal"),
    ],
)
def test_flag_that_lacks_something_says_so(
    desk: Desk, args: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # where git is not found, nobody is named
    assert run(desk.project.root, "review", *args) == 2
    assert said in capsys.readouterr().err
    assert not (desk.project.root / REVIEWS).exists()


def test_candidate_alone_is_no_slot_and_the_cure_pins_it(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    root = desk.project.root
    candidate = next(c for c in desk.sheet("song-001").candidates if not c.filter)
    name = f"song-001.c{candidate.index}"
    assert run(root, "review", "--pin", name) == 2
    cure = f"song-001.1, and --candidate {name}"
    assert f"gonbuild: {name}: is no slot. Wanted one such as {cure}.\n" in capsys.readouterr().err
    assert run(root, "review", "--pin", *cure.replace(", and", "").split()) == 0
    assert rebuilt(desk)["song-001"][0] == candidate.text


def test_reviewer_is_who_the_environment_names_else_who_git_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "config", "user.name", "Mai"], cwd=tmp_path, check=True)
    monkeypatch.setenv("GONBUILD_REVIEWER", "Lan")
    assert reviewer(tmp_path) == "Lan"
    monkeypatch.delenv("GONBUILD_REVIEWER")
    assert reviewer(tmp_path) == "Mai"
    monkeypatch.setenv("PATH", "")
    assert reviewer(tmp_path) == ""


class Typist:
    """Types what it was told, and remembers what it was shown."""

    def __init__(self, keys: str, *lines: str) -> None:
        self.keys, self.lines, self.shown = list(keys), list(lines), []

    def key(self) -> str:
        return self.keys.pop(0) if self.keys else ""

    def line(self, prompt: str, start: str = "") -> str:
        return self.lines.pop(0)

    def say(self, text: str) -> None:
        self.shown.append(text)


def test_keys_decide_story_by_story_and_the_next_sitting_goes_on(desk: Desk) -> None:
    first = Typist("aspkx?ub", "nhạt")
    assert Session(desk, first, "Lan").run() == 3
    kinds = [d.kind for d in desk.reviews().decisions]
    assert sorted(kinds) == ["approve", "ban"]
    assert any("a approve   b ban" in line for line in first.shown)
    again = Typist("e1r" + "q", "Bé hát. Làng tăng 1 điểm.", "sense=4 sens=2")
    assert Session(desk, again, "Lan").run() == 2
    assert again.shown[1].startswith("[1/")
    assert "  --rate: 'sens=2' is no mark. Wanted sense, card, effect or language, as sense=4." in again.shown


def test_marks_at_the_keys_are_kept_and_the_story_stays(desk: Desk) -> None:
    typist = Typist("rq", "sense=4 card=5")
    assert Session(desk, typist, "Lan").run() == 1
    assert typist.shown[-1] == "  rated"
    (rated,) = desk.reviews().decisions
    assert (rated.kind, rated.text, dict(rated.scores)) == (
        "rating",
        desk.sheet(rated.card).stories[0].story.text,
        {"sense": 4, "card": 5},
    )


def test_new_story_is_shown_with_what_its_slot_held_before(desk: Desk) -> None:
    before = pack(desk.project.root)["rung-001"][1]
    desk.ban("rung-001", before, "sai")
    after = rebuilt(desk)["rung-001"][1]
    typist = Typist("sq")
    Session(desk, typist, "Lan").run()
    (shown,) = (line for line in typist.shown if line.startswith("  was: "))
    assert re.sub(r"\{\+.*?\+\}|\[-|-\]", "", shown.removeprefix("  was: ")).split() == before.split()
    assert re.sub(r"\[-.*?-\]|\{\+|\+\}", "", shown.removeprefix("  was: ")).split() == after.split()


def test_story_that_a_build_took_away_meanwhile_is_passed_over(desk: Desk) -> None:
    root = desk.project.root

    class Slow(Typist):
        """At the first key another build ships one story of each card."""

        def key(self) -> str:
            if len(self.keys) == 2:
                with (root / "pyproject.toml").open("a") as file:
                    file.write("[tool.gonbuild.selection]\nstories = 1\n")
                open_project(root).build()
            return super().key()

    typist = Slow("sq")
    desk = Desk(open_project(root))
    assert Session(desk, typist, "Lan").run() == 0
    places = [line.split()[:2] for line in typist.shown if line.startswith("[")]
    assert places == [["[1/6]", "rung-001.1"], ["[3/6]", "lang-001.1"]]


def test_mistake_at_the_keys_is_said_and_the_story_stays(desk: Desk) -> None:
    typist = Typist("eq", "a " * 60)
    assert Session(desk, typist, "Lan").run() == 0
    assert any("has 60 words" in line for line in typist.shown)


def test_nothing_left_to_decide_is_said(desk: Desk) -> None:
    for sheet in desk.sheets():
        for told in sheet.stories:
            desk.approve(sheet.card.id, told.story.text)
    assert all(sheet.done for sheet in desk.sheets())
    typist = Typist("")
    assert Session(desk, typist, "").run() == 0
    assert typist.shown == ["Every story is decided on."]


def test_a_real_terminal_takes_single_keys(desk: Desk) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gonbuild.cli", "review", "--by", "Lan", "--root", str(desk.project.root)]
    out = ""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        for wanted, keys in (
            ("? more", "a"),
            ("? more", "b"),
            ("why?", "nhạt\n"),
            ("? more", "q"),
            ("into the packs", ""),
        ):
            seen = ""
            while wanted not in seen:
                ready, _, _ = select.select([ours], [], [], 60)
                assert ready, out
                seen += os.read(ours, 1 << 16).decode("utf-8", "replace")
            out += seen
            os.write(ours, keys.encode())
        process.wait(60)
    assert "2 decisions made" in out
    assert sorted((d.kind, d.by, d.reason) for d in desk.reviews().decisions) == [
        ("approve", "Lan", ""),
        ("ban", "Lan", "nhạt"),
    ]


def test_review_loads_no_model(desk: Desk) -> None:
    code = (
        "import sys; from gonbuild.cli import main; "
        f"main(['review', '--list', '--root', {str(desk.project.root)!r}]); "
        "print([m for m in ('torch', 'transformers', 'peft', 'trl', 'flask') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"
