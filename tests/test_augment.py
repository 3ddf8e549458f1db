import random
from pathlib import Path

import pytest

from gonbuild.augment import PAIRS, Told, exchange_numbers, exchange_words, retell_points, reword_effect, vary
from gonbuild.cards import parse_examples
from gonbuild.effects import read_effect, tell

EXAMPLES = Path(__file__).parent.parent / "cards" / "examples"
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
