import json
import random
import re
import time
from pathlib import Path

import pytest

from gonbuild.effects import Effect, form_of, read_effect, tell
from gonbuild.records import REGIONS

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "cards" / "examples"


def facts(effect: Effect) -> str:
    """One line of what was read: points, conditions, counts, rules and what stayed unread."""
    limits = [f"{kind} {value}" for kind, value in effect.limits]
    counts = [f"{value} {unit}" for unit, value in effect.counts]
    unread = [f"unread: {effect.unread}"] if effect.unread else []
    return "; ".join([*map(str, effect.points), *limits, *counts, *effect.says, *unread])


GOLDEN = [
    line.split(" => ")
    for line in (HERE / "data" / "effects" / "read.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("text", "wanted"), GOLDEN)
def test_effect_is_read_into_facts(text, wanted):
    assert facts(read_effect(text)) == wanted


def test_every_effect_of_the_game_stands_in_the_golden_file():
    assert len(GOLDEN) >= 24


@pytest.mark.parametrize("text", ["+ 2 Điểm cho Rừng", "+2 điểm Rừng.", "+2 ĐIỂM cho Rừng", "Rừng tăng 2 điểm"])
def test_spelling_of_an_effect_does_not_matter(text):
    assert read_effect(text).points == read_effect("+2 điểm cho Rừng").points


def test_what_no_rule_reads_is_said():
    assert read_effect("+2 điểm cho Rừng, mời thầy giáo hát").unread == "mời thầy giáo hát"


def test_effect_without_anything_readable_checks_nothing():
    effect = read_effect("Mời thầy giáo hát")
    assert effect.unread == "mời thầy giáo hát"
    assert tell("Cả lớp vỗ tay.", effect) == ()


TOLD = [
    ("+2 điểm cho Rừng", "Bé Na trồng ba cây và nhặt 10 chai, Rừng tăng hai điểm."),
    ("+2 điểm cho Rừng", "2 điểm cho Rừng, vì chim đã về."),
    ("+2 điểm cho Rừng", "Bà con thấy rừng được cộng 2 điểm."),
    ("+2 điểm cho Rừng", "Xóm bớt khói bếp cho Rừng 2 điểm."),
    ("+2 điểm cho Rừng", "Bé Na bỏ hai lá khô vào hố ủ, Rừng tăng 2 điểm."),
    ("+1 điểm cho Rừng", "Mỗi cây một mầm, Rừng được thêm điểm."),
    ("+1 điểm Rừng, +1 điểm Sông", "Rừng và Sông mỗi nơi tăng 1 điểm nhờ bà con."),
    ("+1 điểm Rừng, +1 điểm Sông", "Cộng 1 điểm cho cả Sông và Rừng."),
    ("+2 Điểm cho Đất, + 1 điểm Sông", "Nước trong nên Sông nhận 1 điểm, còn Đất được những 2 điểm."),
    ("-2 điểm cho Đất", "Mưa lớn, 2 điểm của Đất bị cuốn trôi mất."),
    ("-2 điểm cho Sông", "Cây ngã xuống dòng, Sông Hồng đục ngầu. Bị trừ 2 điểm, Sông buồn lắm."),
    ("-1 điểm Làng, mất 1 lượt", "Làng hao một điểm và bạn mất lượt."),
    ("Rút thêm 2 lá.", "Lá rụng đầy sân, bạn rút thêm hai thẻ."),
    ("Rút thêm 2 lá.", "Bạn bốc thêm được 2 lá bài."),
    ("Chọn 1 vùng của đối phương: -2 điểm.", "Khói bay sang, một vùng của đối phương mất 2 điểm."),
    ("Giảm thiệt hại trừ điểm đi một nửa trong 3 lượt", "Trong ba lượt, điểm bị trừ chỉ còn phân nửa."),
    ("Gấp đôi điểm các thẻ cộng điểm trong lượt sau.", "Lượt tới, điểm cộng được nhân đôi."),
    ("Mỗi vùng có trên 3 điểm bị trừ 2", "Bão tới, vùng nào hơn 3 điểm đều giảm 2 điểm."),
]


@pytest.mark.parametrize(("effect", "story"), TOLD)
def test_story_that_tells_its_effect_has_no_reason_against_it(effect, story):
    assert tell(story, read_effect(effect)) == ()


NOT_TOLD = [
    ("+2 điểm cho Rừng", "Rừng tăng 3 điểm.", "says Rừng +3 điểm, wanted Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Rừng tăng 2,5 điểm.", "says Rừng +? điểm, wanted Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Rừng tăng mười hai điểm.", "says Rừng +12 điểm, wanted Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Rừng bị trừ hai điểm.", "says Rừng -2 điểm, wanted Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Rừng không được cộng 2 điểm.", "says Rừng -2 điểm, wanted Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Cây trong rừng xanh, Sông tăng 2 điểm.", "says Sông +2 điểm, wanted Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Cây trong Rừng xanh, sông tăng 2 điểm.", "says Sông +2 điểm, wanted Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Cây trong Rừng xanh tốt.", "does not say Rừng +2 điểm"),
    ("+2 điểm cho Rừng", "Bạn được 2 điểm.", "does not name Rừng"),
    ("+2 điểm cho Rừng", "Rừng tăng 2 điểm, đối phương buồn.", "says 'đối phương', which the effect does not"),
    ("+2 điểm cho Rừng", "Rừng tăng 2 điểm, bạn mất lượt.", "says 'mất lượt', which the effect does not"),
    ("+2 điểm cho Rừng", "Rừng tăng 2 điểm trong 3 lượt.", "says 3 lượt, which the effect does not"),
    (
        "+2 điểm Đất, +1 điểm Sông",
        "Đất tăng 1 điểm, Sông tăng 2 điểm.",
        "says Đất +1 điểm, wanted Đất +2 điểm, Sông +1 điểm",
    ),
    ("Rút thêm 2 lá.", "Bạn rút thêm 3 lá.", "says 3 lá, which the effect does not"),
    ("Rút thêm 2 lá.", "Bạn bỏ 2 lá.", "says 'bỏ 2 lá', which the effect does not"),
    ("Rút thêm 2 lá.", "Bạn vui lắm.", "does not say 2 lá"),
    ("Mỗi vùng có trên 3 điểm bị trừ 2", "Vùng nào dưới 3 điểm mất 2 điểm.", "says dưới 3 điểm, wanted -2 điểm"),
    ("Gấp đôi điểm các thẻ cộng điểm trong lượt sau.", "Lượt sau cộng điểm.", "does not say 'gấp đôi'"),
    ("Rừng không bị trừ điểm trong 2 lượt", "Trong rừng, Sông không bị trừ điểm 2 lượt.", "does not name Rừng"),
]


@pytest.mark.parametrize(("effect", "story", "reason"), NOT_TOLD)
def test_first_reason_says_what_differs(effect, story, reason):
    assert tell(story, read_effect(effect))[0] == reason


def sample(count: int) -> list[tuple[str, str]]:
    rows = [
        json.loads(line)
        for p in sorted(EXAMPLES.glob("*.jsonl"))
        for line in p.read_text(encoding="utf-8").splitlines()
    ]
    return random.Random(0).sample([(row["effect"], story) for row in rows for story in row["stories"]], count)


def other_number(draw: random.Random, story: str, effect: str) -> str:
    found = draw.choice(list(re.finditer(r"\d+", story)) or [None])
    if found is None:
        return story
    number = draw.choice([n for n in range(1, 7) if n != int(found[0])])
    return story[: found.start()] + str(number) + story[found.end() :]


OPPOSITE = {"tăng": "giảm", "cộng": "trừ", "thêm": "mất", "được": "mất", "mất": "tăng", "giảm": "tăng", "trừ": "cộng"}


def other_sign(draw: random.Random, story: str, effect: str) -> str:
    return re.sub(r"(\w+) (?=\d+ điểm)", lambda m: f"{OPPOSITE.get(m[1], m[1])} ", story, count=1)


def other_region(draw: random.Random, story: str, effect: str) -> str:
    others = [r for r in REGIONS if r not in effect]
    return re.sub(rf"\b({'|'.join(REGIONS)})\b(?=[^.,;]* \d+ điểm)", draw.choice(others), story) if others else story


def without_effect(draw: random.Random, story: str, effect: str) -> str:
    clauses = re.split(r"(?<=[,.;!?])\s", story)
    return " ".join(clause for clause in clauses if not re.search(r"\d", clause))


def foreign_clause(draw: random.Random, story: str, effect: str) -> str:
    region = draw.choice([r for r in REGIONS if r not in effect] or ["Sông"])
    return f"{story[:-1]}, {region} tăng {draw.choice([4, 5, 6])} điểm."


CHANGES = (other_number, other_sign, other_region, without_effect, foreign_clause)


def test_stories_by_people_are_kept_and_changed_ones_dropped():
    stories = sample(600)
    dropped = [(effect, story) for effect, story in stories if tell(story, read_effect(effect))]
    assert len(dropped) <= 6
    draw = random.Random(1)
    tried, passed = 0, []
    for effect, story in stories:
        for change in CHANGES:
            changed = change(draw, story, effect)
            if changed != story and "điểm" in effect and re.match(r"[+-]", effect):
                tried += 1
                passed += [] if tell(changed, read_effect(effect)) else [(change.__name__, effect, changed)]
    assert tried > 1500
    assert len(passed) / tried < 0.005, passed


@pytest.mark.parametrize(
    "story",
    [
        "Bà con trồng cây ven bờ, Rừng và Sông được 2 điểm.",
        "Cả xóm chung tay giữ cây, Rừng, Đất và Làng mỗi nơi tăng 2 điểm.",
    ],
)
def test_foreign_region_that_shares_the_right_number_never_passes(story):
    assert tell(story, read_effect("+2 điểm cho Rừng")) != ()
    assert tell("Bà con trồng cây, Rừng được 2 điểm.", read_effect("+2 điểm cho Rừng")) == ()


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (("+2 điểm cho Rừng", "+1 Điểm Sông."), "+n điểm vùng"),
        (("+2 Điểm cho Đất, + 1 điểm Sông", "+3 điểm Làng. +1 điểm Rừng"), "+n điểm vùng, +n điểm vùng"),
        (("Rút thêm 2 lá.", "Rút thêm 3 lá"), "rút thêm n lá"),
    ],
)
def test_form_of_an_effect_leaves_out_numbers_and_regions(texts, form):
    assert {form_of(text) for text in texts} == {form}


def test_points_are_told_as_often_as_the_effect_has_them():
    one, two = read_effect("+2 điểm cho Làng"), read_effect("+1 điểm Rừng, +1 điểm Sông")
    assert tell("Làng thêm 2 điểm khi rác vơi. Ruồi ít đi, Làng thêm 2 điểm.", one) == ("says 2 điểm 2 times",)
    assert tell("Rừng tăng 1 điểm, Sông tăng 1 điểm.", two) == ()
    assert tell("Rừng và Sông cùng tăng 1 điểm.", two) == ()
    assert tell("Rừng tăng 1 điểm, Sông tăng 1 điểm. Rừng tăng 1 điểm.", two) == ("says 1 điểm 3 times",)


def test_number_of_any_length_is_read():
    long = "9" * 5_000
    assert read_effect(f"+{long} điểm cho Rừng").points == read_effect("+2.5 điểm cho Rừng").points
    assert tell(f"Cây mọc kín đồi, Rừng tăng {long} điểm.", read_effect("+2 điểm cho Rừng"))


def test_effect_without_a_word_says_nothing():
    assert read_effect("\\").says == ()
    assert read_effect("\\").unread == ""


def test_effect_of_many_rules_takes_no_time():
    began = time.thread_time()
    assert read_effect("không được " * 80_000).says == ("không được",)
    assert time.thread_time() - began < 15


@pytest.mark.parametrize("part", ["+1 ", "1 lá ", "không mất 1 điểm giá ", "tăng 1 điểm cho Rừng và Sông, "])
def test_numbers_without_end_take_no_time(part):
    began = time.thread_time()
    assert tell(part * 20_000, read_effect("+2 điểm cho Rừng, rút 1 lá"))
    assert time.thread_time() - began < 15  # each number looked through all words: minutes
