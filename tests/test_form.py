import time
from typing import Any

import pytest

from gonbuild.form import Shown, form_card, form_decisions, word_diff
from gonbuild.packs import Other, form_check, form_entries
from gonbuild.records import Card, Story
from gonbuild.reviews import Decision, Reviews

CARD = Card("a-1", "Một", "Bảo Vệ", "+2 điểm cho Rừng")
STORIES = (Story("a-1.1", "Một.", 3, -0.51, 20.5, ("Xưa.",)), Story("a-1.2", "Hai.", 4, -0.04, 0.0))
OTHERS = (Other(7, "Bảy."), Other(8, "Tám."))
SHOWN = {"a-1": Shown(CARD, {s.id: s for s in STORIES}, {"a-1.c7": "Bảy.", "a-1.c8": "Tám."})}


def form(*lines: str) -> str:
    return "# GON\n\n" + "".join(f"- {line}\n" for line in lines)


FULL = ("[ ] `a-1.1` Một.", "[ ] `a-1.2` Hai.")


def whole(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Adds the lines of stories that a test does not touch."""
    return (*lines, *(line for line in FULL if not any(line[4:11] in other for other in lines)))


def read(*lines: str, reviews: Reviews = Reviews(), **more: Any) -> tuple[list[tuple[Any, ...]], list[str]]:  # noqa: B008
    decisions, problems = form_decisions(form(*whole(lines)), SHOWN, reviews, "stories.md", **more)
    return [(d.kind, d.text, d.slot, d.replaces or d.reason) for d in decisions], list(map(str, problems))


def test_untouched_form_decides_nothing() -> None:
    assert read("[ ] `a-1.1` Một.", "[ ] `a-1.2` Hai.", "[ ] `a-1.c7` Bảy.") == ([], [])


def test_ticked_story_is_approved_and_named_reviewer_stands_by_it() -> None:
    assert read("[x] `a-1.1` Một.", "[X] `a-1.2` Hai.")[0] == [("approve", "Một.", 0, ""), ("approve", "Hai.", 0, "")]
    decisions, _ = form_decisions(form("[x] `a-1.1` Một."), SHOWN, Reviews(), "stories.md", "Lan")
    assert decisions == [Decision("a-1", "approve", "Một.", by="Lan")]


def test_changed_text_is_an_edit_that_remembers() -> None:
    told, problems = read("[ ] `a-1.1` Một  hai.", "[x] `a-1.2` Hai ba.")
    assert told == [("edit", "Một hai.", 1, "Một."), ("edit", "Hai ba.", 2, "Hai.")]
    assert problems == []


def test_escapes_of_the_pack_are_read_as_the_text() -> None:
    assert read(r"[ ] `a-1.1` 1\. *Một* &lt;b&gt; \#.")[0] == [("edit", "1. *Một* <b> #.", 1, "Một.")]


def test_dash_with_a_reason_bans() -> None:
    assert read("[- sai sự thật] `a-1.2` Hai.", "[-lạ] `a-1.c7` Bảy.")[0] == [
        ("ban", "Hai.", 0, "sai sự thật"),
        ("ban", "Bảy.", 0, "lạ"),
    ]


@pytest.mark.parametrize(
    ("lines", "slot"),
    [
        (["[x] `a-1.c7` Bảy."], 2),
        (["[1] `a-1.c7` Bảy."], 1),
        (["[x] `a-1.2` Hai.", "[x] `a-1.c7` Bảy."], 1),
        (["[- sai] `a-1.1` Một.", "[x] `a-1.c7` Bảy."], 1),
        (["[x] `a-1.c7` Bảy.", "[- sai] `a-1.1` Một."], 1),
    ],
)
def test_ticked_candidate_takes_the_slot_it_is_given_or_one_that_is_free(lines: list[str], slot: int) -> None:
    told, problems = read(*lines)
    assert problems == []
    assert ("pin", "Bảy.", slot, "") in told


def test_two_ticked_candidates_take_two_slots() -> None:
    assert read("[x] `a-1.c7` Bảy.", "[x] `a-1.c8` Tám rưỡi.")[0] == [
        ("pin", "Bảy.", 2, ""),
        ("edit", "Tám rưỡi.", 1, "Tám."),
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["[?] `a-1.1` Một."], "stories.md:3: '?' in the box of a story. Wanted x, or - and a reason."),
        (["[-] `a-1.1` Một."], "stories.md:3: a ban without a reason. Write it into the box: `[- REASON]`."),
        (["[x] `a-1.1`"], "stories.md:3: a story without text. To ban it write `[- REASON]` and leave its text."),
        (["[3] `a-1.c7` Bảy."], "stories.md:3: '3' in the box of a candidate. Wanted x, 1 or 2, or - and a reason."),
        ([f"[{'9' * 5000}] `a-1.c7` Bảy."], f"stories.md:3: '{'9' * 57}...' in the box of a candidate. "
         "Wanted x, 1 or 2, or - and a reason."),
        (["[ ] `a-1.c7` Bảy rưỡi."], "stories.md:3: a candidate was edited and not ticked. "
         "Write x or a slot's number into its box."),
        (["[x] `a-1.c9` Chín."], "stories.md:3: candidate a-1.c9 is not offered any more. "
         "`gonbuild review --pin` takes any text."),
        (["[x] `a-1.1` Một.", "[x] `a-1.2` Hai.", "[x] `a-1.c7` Bảy."],
         "stories.md:5: each slot of the card holds what a person chose. Write the slot's number into the box."),
        (["[x] `a-2.1` Một."], "stories.md:3: unknown card 'a-2'. Did you mean 'a-1'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_named_with_its_line(lines: list[str], said: str) -> None:
    assert read(*lines)[1] == [said]


def test_line_that_cannot_be_read_is_missed() -> None:
    _, problems = form_decisions(form("[- sai [1]] `a-1.1` Một.", FULL[1]), SHOWN, Reviews(), "stories.md")
    assert [str(p) for p in problems] == [
        "stories.md:4: no line of story a-1.1 can be read in its card's block. Wanted `- [ ] `a-1.1` ...` with a box "
        "that holds no bracket; `[- REASON]` bans a story."
    ]


def test_what_the_reviews_have_already_is_no_decision() -> None:
    effect = CARD.effect
    reviews = Reviews(
        (
            Decision("a-1", "approve", "Một."),
            Decision("a-1", "edit", "Hai ba.", 2, effect, "Hai."),
            Decision("a-1", "ban", "Tám.", reason="sai"),
        )
    )
    lines = ("[x] `a-1.1` Một.", "[x] `a-1.2` Hai ba.", "[- sai] `a-1.c8` Tám.")
    assert read(*lines, reviews=reviews) == ([], [])


def test_block_as_a_build_wrote_it_decides_nothing_however_old_it_is() -> None:
    check = form_check([("a-1.1", "x", "Xưa."), ("a-1.c3", " ", "Ba.")])
    old = form("[x] `a-1.1` Xưa.", "[ ] `a-1.c3` Ba.") + f"\n<!-- a-1 {check}; a-1.1: pinned -->\n"
    assert form_decisions(old, SHOWN, Reviews(), "stories.md") == ([], [])
    changed, _ = form_decisions(old.replace("Xưa", "Mới"), SHOWN, Reviews(), "stories.md")
    assert [d.text for d in changed] == ["Mới."]


def test_what_people_did_in_the_block_of_a_lost_card_is_named_and_an_untouched_line_is_not() -> None:
    said = "stories.md:{}: unknown card 'a-2'. Did you mean 'a-1'?"
    assert read("[ ] `a-2.1` Xưa.") == ([], [])
    assert read("[ ] `a-2.1` Xưa.", "[x] `a-2.2` Cũ.") == ([], [said.format(4)])
    written = f"\n<!-- a-2 {form_check([('a-2.1', ' ', 'Xưa.')])} -->\n"
    for text, problems in (("Xưa.", []), ("Mới.", [said.format(3)])):
        decisions, found = form_decisions(form(f"[ ] `a-2.1` {text}") + written, SHOWN, Reviews(), "stories.md")
        assert (decisions, list(map(str, found))) == ([], problems)


def test_ticked_candidate_that_is_pinned_already_keeps_its_slot() -> None:
    reviews = Reviews((Decision("a-1", "pin", "Bảy.", 1, CARD.effect),))
    assert read("[x] `a-1.c7` Bảy.", reviews=reviews) == ([], [])


MERGED = """\
- [ ] `a-1.1` Một.
- [ ] `a-1.2` Hai.

<!-- a-1 01234567; a-1.1: pinned -->
- [ ] `a-1.1` Xưa.
- [x] `a-1.2` Hai.

<!-- a-1 89abcdef; a-1.1: pinned -->

- [ ] `a-1.c7` Bảy.
- [ ] `a-1.c7` Bảy khác.
"""
"""One branch banned the first story, `Xưa.`, and the other one approved the second: git leaves what both wrote."""


@pytest.mark.parametrize("marks", ["<=>", ""])
def test_what_a_merge_left_of_an_older_block_is_no_edit(marks: str) -> None:
    text = "".join(line for line in MERGED.splitlines(keepends=True) if marks or line[:1] not in "<=>")
    reviews = Reviews((Decision("a-1", "approve", "Hai."),))
    assert form_decisions(text, SHOWN, reviews, "stories.md") == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[ ] `a-1.1` Một.", "[x] `a-1.1` Một.", ("approve", "Một.", 0)),
        ("[ ] `a-1.1` Một.", "[ ] `a-1.1` Một rưỡi.", ("edit", "Một rưỡi.", 1)),
        ("[ ] `a-1.c7` Bảy.", "[1] `a-1.c7` Bảy.", ("pin", "Bảy.", 1)),
    ],
)
def test_decision_in_what_a_merge_left_is_read(old: str, new: str, told: tuple[Any, ...]) -> None:
    reviews = Reviews((Decision("a-1", "approve", "Hai."),))
    decisions, problems = form_decisions(MERGED.replace(old, new), SHOWN, reviews, "stories.md")
    assert [(d.kind, d.text, d.slot) for d in decisions] == [told]
    assert problems == []


def test_form_shows_box_figures_changes_and_candidates() -> None:
    shown = form_card(CARD, STORIES, OTHERS, Reviews())
    assert [(s["box"], s["note"]) for s in shown["stories"]] == [
        (" ", "score -0.5, novelty 20"),
        (" ", "score 0.0, novelty 0"),
    ]
    assert shown["stories"][0]["changes"] == [{"same": "", "old": "Xưa.", "new": "Một."}]
    assert shown["others"] == [{"id": "a-1.c7", "text": "Bảy."}, {"id": "a-1.c8", "text": "Tám."}]


def test_accepted_story_shows_a_tick_and_no_changes_and_banned_candidates_are_not_offered() -> None:
    reviews = Reviews(
        (
            Decision("a-1", "approve", "Một."),
            Decision("a-1", "pin", "Hai.", 2, CARD.effect),
            Decision("a-1", "ban", "Bảy.", reason="sai"),
        )
    )
    shown = form_card(CARD, STORIES, OTHERS, reviews)
    assert [(s["box"], s["note"], s["changes"]) for s in shown["stories"]] == [
        ("x", "score -0.5, novelty 20", []),
        ("x", "pinned", []),
    ]
    assert [o["id"] for o in shown["others"]] == ["a-1.c8"]


def test_words_are_compared_word_by_word() -> None:
    assert word_diff("Sông tăng 2 điểm.", "Sông thêm 2 điểm nữa.") == [
        {"same": "Sông", "old": "", "new": ""},
        {"same": "", "old": "tăng", "new": "thêm"},
        {"same": "2", "old": "", "new": ""},
        {"same": "", "old": "điểm.", "new": "điểm nữa."},
    ]


def test_texts_of_many_words_are_shown_whole() -> None:
    long = "và " * 20_000
    began = time.thread_time()
    (part,) = word_diff(long, f"x {long}")
    assert time.thread_time() - began < 1
    assert (part["same"], part["old"], part["new"]) == ("", long.strip(), f"x {long}".strip())


def test_escape_with_a_number_of_any_length_is_no_character() -> None:
    (entry,) = form_entries(f"- [ ] `a-1.1` Một&#{'9' * 5_000};&#1114112;&#33;")
    assert entry.text == "Một\ufffd\ufffd!"
