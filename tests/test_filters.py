from pathlib import Path

import pytest
import yaml

from gonbuild.filters import FILTERS, Context, StoryIndex, diversity, judge, without_effect
from gonbuild.records import Candidate, Card
from gonbuild.settings import FilterSettings

TRAINED = "Bà con lên đồi trồng cây non từ sáng đến chiều. Chim về làm tổ, Rừng tăng 2 điểm."
CARD = Card("rung-1", "Trồng Rừng", "Bảo Vệ", "+2 điểm cho Rừng", examples=("Ông nội ươm lim, Rừng được 2 điểm.",))


def candidate(text: str, *, ended: bool = True) -> Candidate:
    return Candidate("rung-1", 0, text, 20, 0.0, 0.0, ended)


def context(pack: tuple[str, ...] = (), **settings) -> Context:
    wanted = FilterSettings(**{"min_words": 8, "banned_words": ("súng",), **settings})
    told = [(story, CARD.effect) for story in pack]
    return Context(wanted, StoryIndex([(TRAINED, CARD.effect)]), StoryIndex(told))


CUT = "Bà con trồng cây non, Rừng tăng"
REASONS = [
    ("Bà con trồng cây non trên đồi, Rừng tăng 2 điểm", "ending: the last sentence has no end"),
    ("Bà con trồng cây, Rừng tăng 2 điểm.<|end|>", "ending: holds a tag of the chat template"),
    ("Rừng tăng 2 điểm.", "length: 4 words are too few, wanted 8 or more"),
    ("Bà con trồng cây. " * 11, "length: 44 words are too many, wanted 40 or fewer"),
    ("Mưa to. Gió to. Bà con trồng cây, Rừng tăng 2 điểm.", "length: 3 sentences are too many, wanted 2 or fewer"),
    ("Bà con trồng 森 trên đồi, Rừng tăng 2 điểm.", "language: holds characters that no story needs: 森"),
    ("Bà con trồng cây\non đồi, Rừng tăng 2 điểm.", "language: holds characters that no story needs: U+000A"),
    (
        "The villagers plant trees on hills so Rừng tăng 2 điểm.",
        "language: 36% of the words are no Vietnamese syllables: villagers, plant, trees, hills",
    ),
    ("Bà con trồng cây, cây cây cây mọc, Rừng tăng 2 điểm.", "repetition: 'cây' stands three times in 6 words"),
    ("Rừng tăng 2 điểm vì bà con trồng cây vì đồi trọc.", "repetition: says 'vì' twice in a sentence"),
    ("Bà con nhặt rác và rác trong vườn trồng cây, Rừng tăng 2 điểm.", "repetition: says 'rác và rác'"),
    ("Bà con đi trồng cây, bà con đi trồng cây, Rừng tăng 2 điểm.", "repetition: says 'bà con đi trồng cây' twice"),
    (
        "Bà con trồng cây và bà con trồng cây rồi bà con trồng cây, Rừng tăng 2 điểm.",
        "repetition: says 'bà con', 'con trồng', 'trồng cây' again",
    ),
    ("Bà con đi trồng Rừng trên đồi cao, Rừng tăng 2 điểm.", "language: writes 'trồng Rừng' for 'Trồng Rừng'"),
    ("Kẻ xấu bỏ Súng lại, bà con trồng cây, Rừng tăng 2 điểm.", "banned: holds the banned word 'súng'"),
    ("Bà con lên đồi trồng cây non, Rừng tăng 3 điểm.", "effect: says Rừng +3 điểm, wanted Rừng +2 điểm"),
    ("Bà con lên đồi trồng cây non, Rừng mất 2 điểm.", "effect: says Rừng -2 điểm, wanted Rừng +2 điểm"),
    ("Bà con lên đồi trồng cây non, Sông tăng 2 điểm.", "effect: says Sông +2 điểm, wanted Rừng +2 điểm"),
    ("Bà con lên đồi trồng cây non và hát vang.", "effect: does not name Rừng"),
    ("Bà con cho Rừng 2 điểm, bạn rút thêm 2 lá.", "effect: says 2 lá, which the effect does not"),
    (TRAINED[:-1] + "!", f"novelty: too near to a training story (BLEU 100.0): {TRAINED}"),
]


@pytest.mark.parametrize(("text", "reason"), REASONS)
def test_reason_says_what_was_found_and_wanted(text, reason):
    judged = judge(candidate(text), CARD, context())
    drop = judged.dropped_by
    assert drop is not None
    assert f"{drop.filter}: {drop.reason}" == reason
    assert judged.verdicts[-1] == drop
    assert drop.measured
    assert drop.wanted


def test_what_the_token_limit_cut_is_dropped():
    drop = judge(candidate(CUT + " 2 điểm.", ended=False), CARD, context()).dropped_by
    assert drop is not None
    assert drop.reason == "cut at the token limit"


def test_good_story_passes_every_filter_with_its_figures():
    judged = judge(candidate("Chú kiểm lâm dập lửa suốt đêm, Rừng được cộng hai điểm."), CARD, context())
    assert judged.kept
    assert [v.filter for v in judged.verdicts] == [check.__name__ for check in FILTERS]
    assert judged.verdicts[1].measured == "words 12, sentences 1"


@pytest.mark.parametrize("end", [".", "!", "?", "…", '."', ".”", "!»"])
def test_sentence_may_end_inside_quotes(end):
    text = f"Bé Na reo lên: Rừng được cộng 2 điểm rồi kìa{end}"
    assert judge(candidate(text), CARD, context()).kept


def test_effect_filter_can_be_turned_off():
    assert judge(candidate("Bà con lên đồi trồng cây non và hát vang."), CARD, context(effect=False)).kept


def test_banned_word_is_a_whole_word():
    text = "Bà con trồng sung bên suối, Rừng được cộng 2 điểm."
    assert judge(candidate(text), CARD, context(banned_words=("sun", "ung", "súng"))).kept
    assert not judge(candidate(text), CARD, context(banned_words=("Bên Suối",))).kept


def test_reference_needs_the_cards_own_words_once_it_is_set():
    far = candidate("Chú kiểm lâm dập lửa suốt đêm, Rừng được cộng 2 điểm.")
    drop = judge(far, CARD, context(min_reference_bleu=60.0)).dropped_by
    assert drop is not None
    assert drop.reason.startswith("too far from the card's examples (BLEU ")
    near = candidate("Ông nội ươm lim non, Rừng được 2 điểm.")
    assert judge(near, CARD, context(min_reference_bleu=60.0)).kept


def test_same_text_in_another_composition_is_no_new_story():
    verdict = diversity(candidate("Hoà lên đồi."), CARD, context(pack=("Mưa rơi.", "hòa  lên đồi.")))
    assert (verdict.kept, verdict.reason) == (False, "too near to a chosen story (BLEU 100.0): hòa  lên đồi.")


DECKS = [p for p in sorted((Path(__file__).parent.parent / "cards").glob("*.yaml")) if p.stem != "reviews"]
CARDS = [card for deck in DECKS for card in yaml.safe_load(deck.read_text(encoding="utf-8")).get("cards", [])]


def test_examples_of_the_decks_pass_what_needs_no_training_stories():
    ctx = Context(FilterSettings(max_repeated_pairs=1), StoryIndex(), StoryIndex())  # people may say a pair again
    drops = [
        f"{card['id']}: {drop.filter}: {drop.reason}: {text}"
        for card in CARDS
        for text in card.get("examples", [])
        if (
            drop := judge(
                candidate(text), Card(card["id"], card["name"], card["type"], str(card["effect"])), ctx
            ).dropped_by
        )
    ]
    assert drops == []
    assert len(CARDS) >= 24


def test_verb_that_an_effect_of_two_regions_needs_twice_is_no_repetition():
    card = Card("rung-2", "Trồng Rừng", "Bảo Vệ", "-1 điểm Rừng, -1 điểm Đất")
    text = "Lửa bén sang nương ngô khô giòn, Rừng bị trừ 1 điểm và Đất bị trừ 1 điểm."
    assert judge(candidate(text), card, context()).kept


LONG = "Nếu đối phương không dùng thẻ Bảo Vệ trong lượt kế tiếp, -2 điểm cho 1 vùng của họ."


def test_long_rule_told_in_two_stories_makes_them_no_copies():
    rule = "Nếu đối phương không dùng thẻ Bảo Vệ trong lượt kế tiếp, 1 vùng của họ bị trừ 2 điểm."
    one, two = f"Quán nước bật máy lạnh mà mở toang cửa. {rule}", f"Bé Tí để vòi chảy tràn cả buổi trưa. {rule}"
    assert without_effect(one, LONG) == "Quán nước bật máy lạnh mà mở toang cửa"
    index = StoryIndex([(one, LONG)])
    assert index.nearest(two, LONG)[0] < 20
    assert index.nearest(one, LONG) == (pytest.approx(100.0), one)


def test_limit_of_100_lets_copies_pass():
    assert judge(candidate(TRAINED), CARD, context(max_novelty_bleu=100.0)).kept


def test_copy_of_the_rest_is_a_copy_whatever_the_effect():
    index = StoryIndex([("Bà con lên đồi trồng cây non, Rừng tăng 2 điểm.", "+2 điểm cho Rừng")])
    assert index.nearest("Bà con lên đồi trồng cây non, Đất tăng 1 điểm.", "+1 điểm cho Đất")[0] == pytest.approx(100.0)
