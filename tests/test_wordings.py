import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stories import STORIES

from gonbuild.effects import read_effect, tell
from gonbuild.wordings import ACTORS, PLACES, SYNONYMS, Exchange, exchange, trace

TABLES = (SYNONYMS, ACTORS, PLACES)


def drawn(story, table, name="Thẻ", *, alone=False, times=60):
    """Returns everything that an exchange gives over many seeds."""
    return {exchange(name, story, table, random.Random(seed), alone=alone) for seed in range(times)}


def test_no_word_stands_in_two_entries_so_that_every_copy_has_one_trace():
    words = [word.lower() for table in TABLES for entry in table for word in entry.words]
    assert len(words) == len(set(words)) > 200


def test_each_word_is_found_in_a_story_and_becomes_one_of_its_entry():
    for table in TABLES:
        for entry in table:
            bare = Exchange(entry.words, entry.becomes)
            for old in entry.words:
                wanted = {*(entry.becomes or entry.words)} - {old}
                found = drawn(f"Hôm ấy {old}, gió im.", [bare])
                assert found == {f"Hôm ấy {new}, gió im." for new in wanted}, old


def test_capital_at_the_start_of_a_sentence_stays_and_all_uses_are_exchanged():
    story = "Túi nhựa bay. Bà nhặt túi nhựa."
    assert drawn(story, SYNONYMS) == {story}  # "nhựa" twice: its sentence may hang on the word
    assert drawn("Cơn mưa tạnh. Sau cơn mưa, cây xanh.", SYNONYMS) == {"Trận mưa tạnh. Sau trận mưa, cây xanh."}


@pytest.mark.parametrize(
    "story",
    [
        "Đèn sáng cả đêm.",  # "sáng suốt" is another word
        "Cả đêm lẫn ngày đội canh đê.",
        "Xe đi nhặt rác rơi.",
        "Cây to cây nhỏ cùng lớn.",
        "Bà con khu phố quét đường.",
        "Bốn bà con bà Tư góp rác.",
    ],
)
def test_words_that_are_part_of_others_stay(story):
    assert drawn(story, SYNONYMS) == {story}


def test_words_of_the_cards_name_stay():
    assert drawn("Cơn mưa tạnh.", SYNONYMS, name="Cơn Mưa Đầu Mùa") == {"Cơn mưa tạnh."}


@pytest.mark.parametrize(
    "story",
    [
        "Bác kiểm lâm thấy khói. Bác dập lửa.",  # the pronoun would no longer agree
        "Bé Na gọi to. Na chạy đi.",
        "Cô giáo khen cô bé.",
        "Bé Na là cậu bé ngoan.",
    ],
)
def test_people_who_are_called_otherwise_too_stay(story):
    assert drawn(story, ACTORS, alone=True) == {story}


def test_no_two_people_come_to_be_called_alike():
    assert drawn("Chú kiểm lâm và bác nông dân trồng cây.", ACTORS, alone=True) == {
        "Anh kiểm lâm và bác nông dân trồng cây.",
        "Chú kiểm lâm và cô nông dân trồng cây.",
    }


def test_person_is_exchanged_throughout_the_story():
    found = drawn("Bé Na gom rác. Bà khen bé Na.", ACTORS, alone=True)
    assert found == {f"Bé {name} gom rác. Bà khen bé {name}." for name in ("Tí", "An", "Bông")}


def test_place_may_change_beside_the_region_that_scores_and_not_beside_the_same_word():
    assert drawn("Bờ sông sạch, Sông tăng 1 điểm.", PLACES, alone=True) == {"Bờ kênh sạch, Sông tăng 1 điểm."}
    for story in ("Bờ sông sạch, nước sông trong.", "Bờ sông Hương sạch.", "Bờ sông có đò."):
        assert drawn(story, PLACES, alone=True) == {story}


@given(st.sampled_from(STORIES), st.sampled_from(TABLES), st.integers(0, 99))
def test_exchanged_story_tells_its_effect_keeps_its_trace_and_depends_on_the_seed_alone(told, table, seed):
    name, effect, story = told
    alone = table is not SYNONYMS
    new = exchange(name, story, table, random.Random(seed), alone=alone)
    assert new == exchange(name, story, table, random.Random(seed), alone=alone)
    assert trace(new) == trace(story)
    assert bool(tell(story, read_effect(effect))) or not tell(new, read_effect(effect))
    assert re.sub(r"\D", "", new) == re.sub(r"\D", "", story)


def test_trace_is_blind_to_words_that_share_one() -> None:
    assert (
        len({trace(f"Sau {kind} {size}, Đất xói.") for kind in ("cơn mưa", "trận mưa") for size in ("to", "lớn")}) == 1
    )


def test_trace_is_blind_to_numbers_people_and_case_and_sees_the_rest():
    one = trace("Bé Na vớt rác mỗi sáng, Sông tăng 2 điểm.")
    assert one == trace("bé Bông vớt rác mỗi chiều, Sông tăng 15 điểm.")
    assert one != trace("Bé Na vớt bèo mỗi sáng, Sông tăng 2 điểm.")
    assert one != trace("Bé Na vớt rác mỗi sáng, Đất tăng 2 điểm.")
