import random
from dataclasses import replace

from gonbuild.filters import Context, StoryIndex
from gonbuild.records import Candidate, Card, Judged, Verdict
from gonbuild.selection import commonest_drops, select
from gonbuild.settings import FilterSettings

CARD = Card("rung-1", "Trồng Rừng", "Bảo Vệ", "+2 điểm cho Rừng")
TEXTS = (
    "Bà con lên đồi trồng cây non, Rừng tăng 2 điểm.",
    "Bà con lên đồi trồng cây non, Rừng tăng 2 điểm!",
    "Chú kiểm lâm dập lửa suốt đêm. Rừng được cộng 2 điểm.",
    "Chim về làm tổ khi không ai đặt bẫy nữa, Rừng thêm 2 điểm.",
)


def judged(index: int, score: float, *, kept: bool = True) -> Judged:
    candidate = Candidate("rung-1", index, TEXTS[index], 10, score * 10, score * 10, ended=True)
    return Judged(candidate, (Verdict("length", kept),))


def context(*pack: str) -> Context:
    trained = StoryIndex([("Bà con lên nương trồng ngô, Đất thêm 1 điểm.", "+1 điểm Đất")])
    return Context(FilterSettings(), trained, StoryIndex((story, CARD.effect) for story in pack))


def test_highest_score_comes_first_and_ties_go_to_the_lower_index():
    chosen = select(CARD, [judged(3, 0.5), judged(0, 0.2), judged(2, 0.5)], 2, context())
    assert [(s.id, s.candidate, s.score) for s in chosen.stories] == [("rung-1.1", 2, 0.5), ("rung-1.2", 3, 0.5)]


def test_what_is_told_much_as_a_training_story_comes_last_whatever_its_score():
    near = replace(context(), training=StoryIndex([(TEXTS[2], CARD.effect)]))
    chosen = select(CARD, [judged(2, 0.9), judged(3, 0.1), judged(0, 0.2)], 3, near)
    assert [s.candidate for s in chosen.stories] == [0, 3, 2]


def test_near_duplicate_of_a_picked_story_is_passed_over():
    chosen = select(CARD, [judged(i, 0.9 - i / 10) for i in range(4)], 3, context())
    assert [s.candidate for s in chosen.stories] == [0, 2, 3]
    dropped = chosen.judged[1].dropped_by
    assert dropped is not None
    assert dropped.reason == f"too near to a chosen story (BLEU 100.0): {TEXTS[0]}"


def test_story_of_another_card_counts_too():
    chosen = select(CARD, [judged(0, 0.9), judged(2, 0.1)], 2, context(TEXTS[0].upper()))
    assert [s.candidate for s in chosen.stories] == [2]


def test_dropped_candidates_are_never_picked():
    chosen = select(CARD, [judged(0, 0.9, kept=False), judged(2, 0.1)], 2, context())
    assert [s.candidate for s in chosen.stories] == [2]
    assert len(chosen.judged) == 2


def test_order_of_the_candidates_does_not_matter():
    candidates = [judged(i, 0.3) for i in range(4)]
    first = select(CARD, candidates, 2, context())
    for seed in range(5):
        random.Random(seed).shuffle(candidates)
        assert select(CARD, candidates, 2, context()) == first


def test_choosing_leaves_the_pack_as_it_was():
    ctx = context()
    select(CARD, [judged(0, 0.9)], 1, ctx)
    assert ctx.pack.texts == []


def test_story_keeps_its_novelty():
    story = select(CARD, [judged(0, 0.12345)], 1, context()).stories[0]
    assert (story.score, story.novelty) == (0.123, round(context().training.nearest(TEXTS[0], CARD.effect)[0], 1))


def test_commonest_drops_are_counted_by_filter():
    drops = [judged(0, 0.1, kept=False), judged(1, 0.1, kept=False), judged(2, 0.1)]
    other = Judged(drops[2].candidate, (Verdict("length", kept=True), Verdict("effect", kept=False)))
    assert commonest_drops([*drops, other]) == [("length", 2), ("effect", 1)]
