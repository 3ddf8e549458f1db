import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stories import STORIES

from gonbuild.augment import (
    BASE_KINDS,
    KINDS,
    PAIRS,
    Told,
    exchange_numbers,
    exchange_words,
    retell_points,
    reword_effect,
    vary,
)
from gonbuild.cards import parse_examples
from gonbuild.effects import read_effect, tell

EXAMPLES = Path(__file__).parent.parent / "cards" / "examples"
BASE_COPIES = [
    ("Gom Rác", "+2 Điểm cho Đất", "Chú kiểm lâm gom rác mỗi sáng. Chú vui, Đất được cộng 2 điểm."),
    ("Gom Rác", "+1 điểm cho Đất", "Chú kiểm lâm gom rác mỗi chiều. Chú vui, Đất tăng 1 điểm."),
    ("Gom Rác", "+2 Điểm cho Đất", "Chú kiểm lâm gom rác mỗi sáng. Chú vui, Đất tăng 2 điểm."),
    ("Gom Rác", "+5 điểm cho Đất.", "Chú kiểm lâm gom rác mỗi chiều. Chú vui, Đất tăng 5 điểm."),
    ("Gom Rác", "+1 điểm cho Đất", "Chú kiểm lâm gom rác mỗi sáng. Chú vui, Đất tăng 1 điểm."),
    ("Gom Rác", "+2 Điểm cho Đất", "Chú kiểm lâm gom rác mỗi sáng. Chú vui, Đất tăng 2 điểm."),
]
TOLD = Told("Phân Giun", "+2 Điểm cho Đất, + 1 điểm Sông", "Bé Na nuôi giun. Đất tăng 2 điểm, Sông được cộng 1 điểm.")


def drawn(change, times=200):
    """Returns everything that a change gives over many seeds."""
    return {change(random.Random(seed)) for seed in range(times)}


def test_numbers_are_exchanged_in_effect_and_story_alike_and_stay_different():
    found = drawn(lambda rng: exchange_numbers(TOLD.effect, TOLD.story, rng))
    assert len(found) == 6 * 5
    for effect, story in found:
        assert not tell(story, read_effect(effect))
        assert len({fact.value for fact in read_effect(effect).points}) == 2


@pytest.mark.parametrize("story", ["Đất tăng hai điểm, Sông tăng 1 điểm.", "Đất tăng 2 điểm."])
def test_story_that_does_not_write_all_numbers_in_digits_keeps_its_own(story):
    assert drawn(lambda rng: exchange_numbers(TOLD.effect, story, rng)) == {(TOLD.effect, story)}


def test_words_are_exchanged_with_their_capital():
    assert drawn(lambda rng: exchange_words("Gom Rác", "Bé Na gom rác. Chị khen bé Na.", rng)) == {
        "Bé Tí gom rác. Chị khen bé Tí."
    }


@pytest.mark.parametrize(
    ("name", "story"),
    [
        ("Vườn Của Bé Na", "Bé Na trồng rau."),
        ("Gom Rác", "Bé Na và bé Tí gom rác."),
        ("Gom Rác", "Bốn mẹ con bà Tư góp rác cho bà con."),
        ("Gom Rác", "Chị Hai gom rác."),
    ],
)
def test_words_that_the_card_names_or_whose_other_is_there_stay(name, story):
    assert drawn(lambda rng: exchange_words(name, story, rng)) == {story}


def test_no_word_stands_in_two_pairs_so_that_an_exchange_can_be_undone():
    words = [word for pair in PAIRS for word in pair]
    assert len(words) == len(set(words))


def test_points_are_told_with_one_verb_of_the_same_direction():
    assert drawn(lambda rng: retell_points("Nhờ vậy Đất tăng 2 điểm, Sông thêm 1 điểm.", rng)) == {
        f"Nhờ vậy Đất {verb} 2 điểm, Sông {verb} 1 điểm." for verb in ("tăng", "được cộng", "thêm")
    }
    assert drawn(lambda rng: retell_points("Khiến Làng mất 2 điểm.", rng)) == {
        f"Khiến Làng {verb} 2 điểm." for verb in ("mất", "bị trừ", "giảm")
    }


def test_reworded_effect_says_the_same():
    facts = read_effect(TOLD.effect).points
    found = drawn(lambda rng: reword_effect(TOLD.effect, rng))
    assert len(found) > 10
    assert {read_effect(effect).points for effect in found} == {facts}


def test_chance_of_none_changes_nothing_and_the_same_generator_gives_the_same():
    assert drawn(lambda rng: vary(TOLD, rng, 0.0)) == {TOLD}
    assert vary(TOLD, random.Random(1), 0.5) == vary(TOLD, random.Random(1), 0.5)


@pytest.mark.parametrize("kind", [*KINDS, *BASE_KINDS])
def test_each_kind_is_marked_where_it_changed_something_and_only_there(kind):
    found = {vary(Told(*told), random.Random(n), 1.0, (kind,)) for told in STORIES[::20] for n in range(3)}
    as_written = {Told(*told) for told in STORIES}
    marked = {told for told in found if told.changes}
    assert all(told.changes == (kind,) for told in marked)
    assert found - marked <= as_written
    assert marked
    assert not marked & as_written


@given(st.sampled_from(STORIES), st.integers(0, 999))
def test_varied_story_tells_its_effect_depends_on_the_seed_and_keeps_what_is_not_marked(story, seed):
    told = Told(*story)
    new = vary(told, random.Random(seed), 0.5, KINDS)
    assert new == vary(told, random.Random(seed), 0.5, KINDS)
    assert not tell(new.story, read_effect(new.effect))
    assert list(new.changes) == [kind for kind in KINDS if kind in new.changes]
    assert new.changes or new == told
    assert (new.effect == told.effect) or {"numbers", "effect"} & {*new.changes}
    assert (new.name == told.name) or "name" in new.changes


def test_another_seed_gives_another_copy():
    copies = {vary(Told(*STORIES[0]), random.Random(seed), 0.5, KINDS) for seed in range(20)}
    assert len(copies) > 5


def test_base_is_varied_as_it_was_when_it_was_made():
    told = Told("Gom Rác", "+2 Điểm cho Đất", "Chú kiểm lâm gom rác mỗi sáng. Chú vui, Đất tăng 2 điểm.")
    found = [vary(told, random.Random(seed), 0.5) for seed in range(6)]
    assert [(t.name, t.effect, t.story) for t in found] == BASE_COPIES


def test_effect_never_counts_more_regions_than_there_are():
    told = Told("Lãng Phí", "Chọn 1 vùng: vùng đó -2 điểm", "Chọn 1 vùng, vùng đó mất 2 điểm.")
    effects = {vary(told, random.Random(seed), 1.0, ("numbers",)).effect for seed in range(200)}
    assert {re.search(r"(\d) vùng", effect)[1] for effect in effects} == set("1234")


def test_stories_that_people_wrote_still_tell_their_effect_when_varied():
    rng, wrong, count = random.Random(0), [], 0
    for path in sorted(EXAMPLES.glob("plain-*.jsonl")):
        cards, _ = parse_examples(path.read_bytes(), path.name)
        for card in cards[::7]:
            for story in card.examples:
                told = vary(Told(card.name, card.effect, story), rng, 1.0)
                count += 1
                if tell(told.story, read_effect(told.effect)) and not tell(story, read_effect(card.effect)):
                    wrong.append(told)
    assert count > 1000
    assert len(wrong) < count / 200, wrong[:3]
