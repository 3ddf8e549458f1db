import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from gonbuild.language import fold, is_syllable, place_tones, sentences, unknown_words, words

EXAMPLES = Path(__file__).parent.parent / "cards" / "examples"


def test_words_are_stripped_of_punctuation():
    assert words('"Ồ!" – bé Na nói: Rừng tăng +2 điểm…') == ["Ồ", "bé", "Na", "nói", "Rừng", "tăng", "+2", "điểm"]


def test_sentences_end_at_marks_before_a_space():
    assert sentences('Mưa to! "Chạy đi!" Bé Na nói… Sông được 1.5 điểm.') == [
        "Mưa to!",
        '"Chạy đi!',
        "Bé Na nói…",
        "Sông được 1.5 điểm.",
    ]


@pytest.mark.parametrize(
    "word", "hoà hòa thuý thúy quý gì gìn giếng giữa nghiêng yêu kỹ khuỷu rừng được xoong khuya ủy a".split()
)
def test_syllable_is_known_by_its_structure(word):
    assert is_syllable(word)


@pytest.mark.parametrize("word", "hóà ầ\u0301 qúy iêu tóan hôò kươ ngê cê gê fa zoo wat street bàc rừngg ràt".split())
def test_what_breaks_the_structure_is_no_syllable(word):
    assert not is_syllable(word)


def test_nearly_every_lower_case_word_of_the_stories_is_a_syllable():
    counts = Counter()
    for path in sorted(EXAMPLES.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            counts.update(w for story in json.loads(line)["stories"] for w in words(story) if w.islower())
    assert counts.total() > 100_000
    assert sum(n for word, n in counts.items() if is_syllable(word)) / counts.total() > 0.999


def test_random_letters_and_english_are_mostly_refused():
    draw = random.Random(0)
    letters = ["".join(draw.choices("abcdeghiklmnopqrstuvxy", k=draw.randint(3, 6))) for _ in range(2000)]
    assert sum(map(is_syllable, letters)) < 40
    english = "forest river land village water school house street storm fire bird plant clean score turn card".split()
    assert [word for word in english if is_syllable(word)] == []


def test_fold_unifies_tone_placement_case_and_composition():
    assert fold("Hoà  THUỶ quý hoạ xoè toán") == "hòa thủy quý họa xòe toán"
    assert fold("Ru\u031b\u0300ng") == "rừng"
    assert place_tones("Hoà bình, HUỶ") == "Hòa bình, HỦY"


def test_names_and_numbers_are_known_words():
    assert unknown_words("Bé Winnie ở Kon Tum đạp xe 12 km qua bãi xỉ, blah ô-tô 50%.") == ["km", "blah"]


def test_long_run_of_marks_inside_a_word_takes_no_time():
    began = time.thread_time()
    assert words("“" * 60_000 + "lá" + "!" * 60_000 + "a” và") == ["lá" + "!" * 60_000 + "a", "và"]
    assert words("!" * 60_000) == []
    assert time.thread_time() - began < 1  # a pattern tried anew from each mark took 20 s
