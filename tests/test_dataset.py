from dataclasses import replace
from pathlib import Path

import pytest

from gonbuild.augment import KINDS
from gonbuild.cards import read_library
from gonbuild.chat import import_chat
from gonbuild.dataset import FEW_ROWS, chat_jsonl, row_counts, row_digests, row_notes, split, training_rows
from gonbuild.prompts import load_templates
from gonbuild.records import END, Card, Row
from gonbuild.settings import DatasetSettings
from gonbuild.wordings import trace

ROOT = Path(__file__).parents[1]
TEMPLATES = load_templates(ROOT)
CARDS = [
    Card("b", "Hai", "Bảo Vệ", "+2 điểm cho Rừng", examples=("Hai một.", "Hai hai.")),
    Card("a", "Một", "Thiên Tai", "-1 điểm Làng", examples=("Một một.",)),
]
EXAMPLES = [
    Card("", f"Thẻ {n}", "Bảo Vệ", "+1 điểm cho Sông", examples=tuple(f"Chuyện {n} {m}." for m in range(4)))
    for n in range(10)
]


def rows_of(cards=CARDS, examples=EXAMPLES, count=0, seed=0, **more):
    return training_rows(cards, examples, TEMPLATES, DatasetSettings(examples=count, seed=seed), **more)


def test_row_is_prompt_and_story_with_its_end():
    first = rows_of()[0]
    assert first == Row("a", TEMPLATES.prompt(CARDS[1]).text, "Một một.<|end|>")


def test_deck_rows_come_first_by_id_whatever_the_order_of_cards():
    rows = rows_of(count=3)
    assert [row.source for row in rows[:3]] == ["a", "b", "b"]
    assert all(row.source.startswith("Thẻ ") for row in rows[3:])
    assert rows == rows_of(cards=CARDS[::-1], examples=EXAMPLES[::-1], count=3)


@pytest.mark.parametrize("count", [0, 1, 7, 40, 1000])
def test_as_many_example_stories_are_drawn_as_asked(count):
    assert len(rows_of(count=count)) == 3 + min(count, 40)


def test_one_more_example_shifts_one_row_at_most():
    before = {*rows_of(count=20)}
    for n in range(10):
        more = [*EXAMPLES, replace(EXAMPLES[0], name=f"Mới {n}", examples=("Mới.",))]
        assert len(before - {*rows_of(examples=more, count=20)}) <= 1


def test_another_seed_draws_others():
    assert {*rows_of(count=10)} != {*rows_of(count=10, seed=1)}


def test_story_that_does_not_fit_is_left_out_and_another_drawn():
    rows = rows_of(count=20, fits=lambda story, card: "1." not in story and card.name != "Thẻ 3")
    assert len(rows) == 3 + 20
    assert not any("1.<" in row.completion or row.source == "Thẻ 3" for row in rows)


def test_duplicates_are_dropped():
    twice = [replace(CARDS[1], examples=("Một một.", "Một một."))]
    assert len(rows_of(cards=twice)) == 1
    assert len(rows_of(cards=[], examples=[*EXAMPLES, *EXAMPLES], count=1000)) == 40


def test_story_of_a_deck_card_is_not_told_twice_by_the_examples():
    again = [replace(CARDS[1], id="")]
    assert [row.source for row in rows_of(examples=again, count=5)] == ["a", "b", "b"]


def test_digest_moves_for_the_changed_card_alone():
    changed = [CARDS[0], replace(CARDS[1], examples=("Một khác.",))]
    before, after = row_digests(rows_of(count=5)), row_digests(rows_of(cards=changed, count=5))
    assert {source for source in before if before[source] != after[source]} == {"a"}
    assert before.keys() == after.keys()


def test_digest_depends_on_the_order_of_a_cards_stories():
    turned = [replace(CARDS[0], examples=CARDS[0].examples[::-1]), CARDS[1]]
    before, after = row_digests(rows_of()), row_digests(rows_of(cards=turned))
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]


def test_chat_format_is_read_back():
    found = import_chat(chat_jsonl(CARDS, system="Kể chuyện.").encode(), "chat.jsonl")
    assert found.cards == tuple(replace(card, id="") for card in CARDS)
    assert found.unplaced == ()


def test_the_games_own_cards_make_rows_of_every_kind():
    library = read_library(ROOT)
    rows = training_rows(library.cards, library.examples[:50], TEMPLATES, DatasetSettings(examples=100))
    assert {card.id for card in library.cards} < {row.source for row in rows}
    assert len(rows) == sum(len(card.examples) for card in library.cards) + 100


DECK = [
    Card("đ", "Phân Giun", "Bảo Vệ", "+2 điểm cho Đất", examples=("Bé Na nuôi giun. Đất tăng 2 điểm.",)),
    Card("r", "Trồng Cây", "Bảo Vệ", "+1 điểm cho Rừng", examples=("Bà con trồng cây. Rừng thêm 1 điểm.",)),
]


def test_variants_are_told_with_their_own_effect_and_do_not_depend_on_other_cards():
    settings = DatasetSettings(variants=5)
    rows = training_rows(DECK, (), TEMPLATES, settings)
    plain = training_rows(DECK, (), TEMPLATES, DatasetSettings())
    assert [row for row in rows if row in plain] == plain
    assert len(plain) < len(rows) <= 6 * len(plain)
    assert {row.source for row in rows} == {"đ", "r"}
    assert training_rows(DECK[1:], (), TEMPLATES, settings) == [row for row in rows if row.source == "r"]


def test_variants_alone_are_marked_with_what_was_changed_and_no_digest_depends_on_the_marks():
    rows = training_rows(DECK, EXAMPLES, TEMPLATES, DatasetSettings(variants=5, examples=7))
    plain = training_rows(DECK, EXAMPLES, TEMPLATES, DatasetSettings(examples=7))
    assert [row for row in rows if not row.changes] == plain
    assert {kind for row in rows for kind in row.changes} <= {*KINDS}
    assert all(row.source in {"đ", "r"} for row in rows if row.changes)
    assert row_digests(rows) == row_digests(replace(row, changes=()) for row in rows)
    counts = row_counts(rows)
    assert counts.pop("rows") == len(rows)
    assert counts.pop("varied") == len(rows) - len(plain)
    assert sum(counts.values()) == sum(len(row.changes) for row in rows)


def test_split_is_by_card_and_covers_every_example_card_once():
    found = split(CARDS, EXAMPLES, {"Thẻ 3", "thẻ  7", "MỘT", "nobody"})
    assert [card.name for card in found.held_out] == ["Thẻ 3", "Thẻ 7"]
    assert {*found.training, *found.held_out} == {*EXAMPLES}


def test_nothing_of_the_games_held_out_cards_is_among_the_rows_nor_in_varied_copies():
    library = read_library(ROOT)
    names = (ROOT / "gonbuild" / "nano" / "held-out.txt").read_text(encoding="utf-8").split("\n")
    found = split(library.cards, library.examples, {*names} - {""})
    assert (len(found.held_out), sum(len(card.examples) for card in found.held_out)) == (100, 434)
    held = {trace(story) for card in found.held_out for story in card.examples}
    told = [story for card in (*library.cards, *found.training) for story in card.examples]
    assert not [story for story in told if trace(story) in held or not found.may_train(story)]
    rows = training_rows(library.cards, (), TEMPLATES, DatasetSettings(variants=4), lambda s, _: found.may_train(s))
    assert len(rows) > 300
    assert not {trace(row.completion.removesuffix(END)) for row in rows} & held


def test_variant_that_does_not_fit_its_card_as_varied_is_left_out():
    def fits(_story, card):
        return card.effect in {c.effect for c in DECK}

    every = training_rows(DECK, (), TEMPLATES, DatasetSettings(variants=20))
    rows = training_rows(DECK, (), TEMPLATES, DatasetSettings(variants=20), fits)
    own = tuple(f"Hiệu ứng: {card.effect}<" for card in DECK)
    assert [row for row in every if any(text in row.prompt for text in own)] == rows
    assert len(rows) < len(every)


@pytest.mark.parametrize(
    ("count", "notes"),
    [
        (0, ["no story to train on; give cards `examples:`, or raise dataset.examples"]),
        (1, ["1 story to train on: expect candidates that repeat them; give cards more `examples:`"]),
        (FEW_ROWS, []),
    ],
)
def test_few_rows_deserve_a_note_and_enough_do_not(count: int, notes: list[str]) -> None:
    assert row_notes([Row("a", "p", f"Chuyện {n}.") for n in range(count)]) == notes
