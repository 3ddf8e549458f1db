import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stories import STORIES

from gonbuild.clauses import MOST_SENTENCES, MOST_WORDS, add_detail, reorder
from gonbuild.effects import read_effect, tell
from gonbuild.language import sentences, words
from gonbuild.settings import FilterSettings


def drawn(change, story, times=60):
    """Returns everything that a change gives over many seeds."""
    return {change(story, random.Random(seed)) for seed in range(times)}


@pytest.mark.parametrize(
    ("story", "other"),
    [
        ("Sông tăng 2 điểm nhờ con đập ở cửa kênh.", "Nhờ con đập ở cửa kênh, Sông tăng 2 điểm."),
        ("Làng mất 2 điểm vì phố xá ngột ngạt.", "Vì phố xá ngột ngạt nên Làng mất 2 điểm."),
        ("Chú Tư vớt rác quanh hồ mỗi sáng.", "Mỗi sáng, chú Tư vớt rác quanh hồ."),
    ],
)
def test_cause_or_time_moves_to_the_front_and_back(story, other):
    assert drawn(reorder, story) == {other}
    assert drawn(reorder, other) == {story}


def test_sentences_are_exchanged_where_neither_leans_on_the_other():
    story = "Đất tăng 1 điểm nhờ ủ phân bèo. Kênh thông nước, luống rau xanh mướt."
    assert "Kênh thông nước, luống rau xanh mướt. Đất tăng 1 điểm nhờ ủ phân bèo." in drawn(reorder, story)


@pytest.mark.parametrize(
    "story",
    [
        "Bác Tư đắp đập. Nhờ vậy, Sông tăng 2 điểm.",
        "Sông tăng 2 điểm nhờ việc đó. Cá về.",
        "Rừng mất 1 điểm vì cháy rừng mà không ai dập.",
        "Mùa khô, sông cạn nên cá chết.",
        "Bé Na thấy cây héo. Bé tưới cây mỗi sáng, Đất tăng 1 điểm.",
    ],
)
def test_story_whose_clauses_hang_together_keeps_its_order(story):
    assert drawn(reorder, story) == {story}


@given(st.sampled_from(STORIES), st.integers(0, 99))
def test_reordered_story_has_the_same_words_and_tells_its_effect(told, seed):
    _, effect, story = told
    new = reorder(story, random.Random(seed))
    assert new == reorder(story, random.Random(seed))
    assert not tell(new, read_effect(effect))
    assert len(sentences(new)) == len(sentences(story))
    joins = {"vào", "nên", "sau", "giờ"}
    before, after = (Counter(w.lower() for w in words(text) if w.lower() not in joins) for text in (story, new))
    assert before == after


def test_detail_fits_region_direction_and_what_the_story_speaks_of():
    assert drawn(add_detail, "Tàn lửa bay vào cỏ khô. Cháy rừng lan rộng, Rừng mất 2 điểm.") == {
        f"Tàn lửa bay vào cỏ khô. Cháy rừng lan rộng, {detail}, Rừng mất 2 điểm."
        for detail in ("chim thú hoảng sợ bỏ chạy", "khói bay mù trời")
    }
    assert drawn(add_detail, "Khói xe đầy cổng trường. Làng mất 1 điểm.") == {
        "Khói xe đầy cổng trường. Ai cũng ho và cay mắt, Làng mất 1 điểm."
    }


@pytest.mark.parametrize(
    "story",
    [
        "Cháy rừng làm khói bay mù. Chim bay đi, Rừng mất 2 điểm.",  # told already
        "Tàn lửa bay. Cháy rừng lan rộng nên Rừng mất 2 điểm.",  # the cause would be the detail's
        "Rừng mất 2 điểm vì cháy rừng. Lửa lan rộng.",
        "Bác Tư kể chuyện xưa. Ai cũng nghe, Rừng mất 2 điểm.",
    ],
)
def test_story_that_no_detail_fits_stays_as_it_is(story):
    assert drawn(add_detail, story) == {story}


def test_opening_is_added_to_a_deed_of_which_nothing_tells_the_hour():
    found = drawn(add_detail, "Bé Na trồng hoa quanh sân. Ong bướm kéo về nên Làng tăng 2 điểm.")
    assert len(found) == 5
    assert all(story.endswith(", bé Na trồng hoa quanh sân. Ong bướm kéo về nên Làng tăng 2 điểm.") for story in found)
    rainy = "Bé Na trồng hoa sau mưa. Ong bướm kéo về nên Làng tăng 2 điểm."
    assert drawn(add_detail, rainy) == {rainy}


def test_limits_are_the_filters_own():
    filters = FilterSettings()
    assert (filters.max_words, filters.max_sentences) == (MOST_WORDS, MOST_SENTENCES)


def test_detail_that_would_make_a_story_too_long_is_not_added():
    story = f"Tàn lửa bay qua {'rất ' * 27}xa. Cháy rừng lan rộng, Rừng mất 2 điểm."
    assert len(words(story)) == MOST_WORDS
    assert drawn(add_detail, story) == {story}


@given(st.sampled_from(STORIES), st.integers(0, 99))
def test_story_with_a_detail_keeps_its_words_its_effect_and_the_limits(told, seed):
    _, effect, story = told
    new = add_detail(story, random.Random(seed))
    assert new == add_detail(story, random.Random(seed))
    if new == story:
        return
    assert not tell(new, read_effect(effect))
    assert len(words(new)) <= MOST_WORDS
    assert len(sentences(new)) == len(sentences(story))
    assert len(new) > len(story)
    assert re.findall(r"\d+ điểm", new) == re.findall(r"\d+ điểm", story)
