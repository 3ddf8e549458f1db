"""What stands against a release: each rule with a pack that keeps it and one that does not."""

import unicodedata
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from fakes import make_project, open_project
from fontTools.fontBuilder import FontBuilder

from gonbuild.errors import Problem
from gonbuild.filters import Context, StoryIndex
from gonbuild.glyphs import font_characters, missing_glyphs
from gonbuild.records import Card, Story
from gonbuild.release import PACK, Release, characters, check_release, release_notes, release_problems
from gonbuild.reviews import APPROVE, BAN, EDIT, PIN, RATING, Decision, Reviews
from gonbuild.settings import FilterSettings, ReleaseSettings, SelectionSettings, Settings

FOREST = Card("rung-001", "Gieo Hạt", "Bảo Vệ", "+2 điểm cho Rừng", where="cards/thu.yaml:3")
VILLAGE = Card("lang-001", "Quét Ngõ", "Cộng Đồng", "+1 điểm cho Làng", where="cards/thu.yaml:9")
SEEDS = "Học sinh gieo hạt keo lên ngọn đồi trọc sau cơn mưa. Cây mọc kín đồi nên Rừng tăng 2 điểm."
BIRDS = "Chim bay về làm tổ trong vòm lá xanh vừa khép tán. Rừng được cộng 2 điểm."
BROOMS = "Sáng chủ nhật, cả xóm mang chổi ra quét ngõ và nhổ cỏ. Lối đi sạch bóng, Làng tăng 1 điểm."
LANTERNS = "Tối đến, đèn lồng giấy sáng dọc con đường không còn rác. Làng thêm 1 điểm."
GOOD = {"rung-001": (SEEDS, BIRDS), "lang-001": (BROOMS, LANTERNS)}


def approve(stories: dict[str, tuple[str, ...]] = GOOD) -> list[Decision]:
    return [Decision(card, APPROVE, text, line=1) for card, texts in stories.items() for text in texts]


def release(
    stories: dict[str, tuple[str, ...]] = GOOD,
    decisions: list[Decision] | None = None,
    font: frozenset[int] | None = None,
    **settings: object,
) -> Release:
    told = {
        card: tuple(Story(f"{card}.{n}", text, n, -0.5, 10.0) for n, text in enumerate(texts, 1))
        for card, texts in stories.items()
    }
    reviews = Reviews(tuple(approve(stories) if decisions is None else decisions))
    values = Settings(release=ReleaseSettings(**settings))
    return Release((FOREST, VILLAGE), told, reviews, values, {}, font)


def found(checked: Release) -> list[str]:
    return [str(problem) for problem in release_problems(checked)]


def test_pack_that_people_approved_has_no_problems() -> None:
    assert found(release()) == []


def test_every_story_that_ships_must_be_accepted_unless_fewer_are_wanted() -> None:
    some = approve({"rung-001": GOOD["rung-001"], "lang-001": (BROOMS,)})
    assert found(release(decisions=some)) == [
        "cards/thu.yaml:9: card 'lang-001': people accepted 1 of the 2 stories that a release wants. "
        "`gonbuild review` asks about lang-001.2."
    ]
    assert found(release(decisions=some, approved=1)) == []
    assert found(release(decisions=[], approved=0)) == []


def test_rating_or_ban_is_no_approval() -> None:
    others = [Decision("lang-001", RATING, LANTERNS, by="a", scores={"sense": 5}), Decision("lang-001", BAN, LANTERNS)]
    some = [*approve({"rung-001": GOOD["rung-001"], "lang-001": (BROOMS, LANTERNS)}), *others]
    (problem,) = found(release(decisions=some))
    assert problem.endswith("asks about lang-001.2.")


def test_card_with_too_few_stories_is_named_though_all_of_them_are_accepted() -> None:
    assert found(release({**GOOD, "rung-001": (SEEDS,)})) == [
        "cards/thu.yaml:3: card 'rung-001' ships 1 of 2 stories. `gonbuild why rung-001` tells what dropped the others."
    ]


def test_more_approved_stories_than_the_card_wants_cannot_be_asked_for() -> None:
    assert found(release(approved=9)) == []


def test_stale_pin_is_a_problem_and_one_for_todays_effect_is_none() -> None:
    pin = Decision("rung-001", PIN, SEEDS, slot=1, effect="+3 điểm cho Rừng", line=7)
    assert found(release(decisions=[*approve(), pin])) == [
        "cards/reviews.yaml:7: pin of rung-001.1 is stale: it was made for '+3 điểm cho Rừng'. "
        "The card says '+2 điểm cho Rừng': pin another text, or take it back."
    ]
    today = Decision("rung-001", PIN, SEEDS, slot=1, effect="+2 điểm cho Rừng", line=7)
    assert found(release(decisions=[*approve(), today])) == []


def test_banned_story_that_ships_is_a_problem() -> None:
    banned = replace(release(), refused={"rung-001": {"2": "is banned: chim không làm tổ lúc này"}})
    assert found(banned) == [
        f"{PACK}: story 'rung-001.2' ships and is banned: chim không làm tổ lúc này. "
        "`gonbuild stories` puts another in its place."
    ]


def test_near_duplicates_over_cards_are_named_with_both_scores() -> None:
    near = BROOMS.replace("nhổ cỏ", "tưới cây")
    (problem,) = release_problems(release({**GOOD, "lang-001": (BROOMS, near)}, max_openings=0))
    assert problem.what.startswith("stories 'lang-001.1' and 'lang-001.2' are near-duplicates: BLEU ")
    assert problem.wanted == "Wanted at most 30.0, effects left out (filters.max_diversity_bleu): ban or edit one."
    limits = Settings(filters=FilterSettings(max_diversity_bleu=100.0))
    same = release({**GOOD, "lang-001": (BROOMS, BROOMS)})
    assert release_problems(replace(same, settings=limits)) == []


def test_equal_stories_are_told_once_for_each_pair() -> None:
    three = release({"rung-001": GOOD["rung-001"], "lang-001": (BROOMS, BROOMS, BROOMS)})
    pairs = [p.what.split(" are ")[0] for p in release_problems(three)]
    assert pairs == [
        "stories 'lang-001.1' and 'lang-001.2'",
        "stories 'lang-001.1' and 'lang-001.3'",
        "stories 'lang-001.2' and 'lang-001.3'",
    ]


def test_near_duplicates_that_people_pinned_are_a_note() -> None:
    pins = [Decision("lang-001", PIN, BROOMS, n, VILLAGE.effect, line=n) for n in (1, 2)]
    both = release({**GOOD, "lang-001": (BROOMS, BROOMS)}, [*approve(), *pins])
    assert found(both) == []
    (note,) = release_notes(both, CONTEXT)
    assert note == (
        "cards/reviews.yaml:2: pin of lang-001.2 ships as a person wanted it, though diversity: too near to another "
        f"pin (BLEU 100.0): {BROOMS}"
    )


def test_openings_are_compared_by_their_first_words() -> None:
    scenes = (
        "đàn sếu hạ cánh xuống ruộng lúa chín vàng. Làng tăng 1 điểm.",
        "lớp em vẽ tranh cổ động treo kín bức tường trước chợ phiên. Làng thêm 1 điểm.",
        "ông bà kể chuyện bên bếp lửa hồng đêm giao thừa thật ấm. Làng được cộng 1 điểm.",
    )
    texts = [f"Sáng chủ nhật, CẢ {scene}" for scene in scenes]
    stories = {"rung-001": GOOD["rung-001"], "lang-001": (*texts, BROOMS)}
    assert found(release(stories, max_openings=3)) == [
        f"{PACK}: 4 stories open with 'sáng chủ nhật cả': lang-001.1, lang-001.2, lang-001.3, lang-001.4. "
        "Wanted at most 3 (release.max_openings): edit some, or refresh their cards."
    ]
    assert found(release(stories, max_openings=4)) == []
    assert found(release(stories, max_openings=0)) == []
    assert found(release(stories, max_openings=3, opening_words=5)) == []


def test_length_is_counted_as_a_reader_does() -> None:
    assert characters("Rừng") == characters(unicodedata.normalize("NFD", "Rừng")) == 4
    longest = characters(SEEDS)
    assert longest == characters(BROOMS) > max(map(characters, (BIRDS, LANTERNS)))
    assert found(release(max_characters=longest)) == []
    assert found(release(max_characters=longest - 1))[:1] == [
        f"{PACK}: story 'rung-001.1' has {longest} characters. "
        f"Wanted at most {longest - 1} (release.max_characters): edit it, or lower filters.max_words."
    ]


def test_text_that_is_not_in_nfc_is_a_problem() -> None:
    loose = {**GOOD, "rung-001": (unicodedata.normalize("NFD", SEEDS), BIRDS)}
    assert found(release(loose)) == [
        f"{PACK}: story 'rung-001.1' is not in NFC: letters and marks stand apart. Type the letters again."
    ]


@pytest.mark.parametrize(
    ("char", "name"),
    [
        ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u0007", "U+0007 unnamed character"),
        ("\n", "U+000A unnamed character"),
        ("\u3164", "U+3164 HANGUL FILLER"),
        ("\ue000", "U+E000 unnamed character"),
    ],
)
def test_characters_that_nobody_sees_are_named(char: str, name: str) -> None:
    hidden = {**GOOD, "rung-001": (SEEDS.replace("gieo", f"g{char}ieo"), BIRDS)}
    assert f"{PACK}: story 'rung-001.1' holds {name}. Take it out of the text." in found(release(hidden))


def test_problem_of_a_pinned_text_is_at_its_pin() -> None:
    pin = Decision("rung-001", EDIT, SEEDS, 1, FOREST.effect, BIRDS, line=12)
    problems = release_problems(release(decisions=[*approve(), pin], max_characters=80))
    assert [p.where for p in problems] == ["cards/reviews.yaml:12", PACK]


CONTEXT = Context(FilterSettings(), StoryIndex(), StoryIndex())


def test_pin_that_breaks_a_filter_is_a_note_and_no_problem() -> None:
    wrong = "Học sinh gieo hạt keo lên ngọn đồi trọc sau cơn mưa, ai cũng thấy vui."
    pin = Decision("rung-001", PIN, wrong, 1, FOREST.effect, line=4)
    pinned = release({**GOOD, "rung-001": (wrong, BIRDS)}, [*approve(), pin])
    assert found(pinned) == []
    assert release_notes(pinned, CONTEXT) == [
        "cards/reviews.yaml:4: pin of rung-001.1 ships as a person wanted it, though effect: does not name Rừng"
    ]
    assert release_notes(release(), CONTEXT) == []


# --- the font ------------------------------------------------------------------------------------


def font_bytes(letters: str) -> bytes:
    """A TrueType font with an empty glyph for each letter."""
    names = {ord(c): f"uni{ord(c):04X}" for c in letters}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf({name: empty_glyph() for name in order})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (500, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Thử", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    data = BytesIO()
    builder.font.save(data)
    return data.getvalue()


def empty_glyph() -> object:
    from fontTools.ttLib.tables._g_l_y_f import Glyph

    return Glyph()


def test_font_tells_the_characters_that_it_can_draw(tmp_path: Path) -> None:
    (tmp_path / "game.ttf").write_bytes(font_bytes("Rừng ặ"))
    font, problem = font_characters(tmp_path, "game.ttf")
    assert problem is None
    assert font == set(map(ord, "Rừng ặ"))
    assert missing_glyphs("Rừng ặ", font) == ""
    assert missing_glyphs("Rừng ỡẵặỡ", font) == "'ẵ' U+1EB5, 'ỡ' U+1EE1"
    assert missing_glyphs("\u200b", font) == "U+200B"


def test_character_without_a_glyph_is_named_with_its_code_point() -> None:
    have = frozenset(ord(c) for texts in GOOD.values() for text in texts for c in text)
    assert found(release(font=have)) == []
    named = release(font=have - {ord("ơ")})
    settings = Settings(release=ReleaseSettings(font="fonts/game.ttf"))
    assert found(replace(named, settings=settings)) == [
        f"{PACK}: story 'rung-001.1': fonts/game.ttf has no glyph for 'ơ' U+01A1. Wanted another font, or other words."
    ]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("game.ttf", None, "game.ttf: no such font. Wanted the path of a TTF or OTF in the project (release.font)."),
        ("../game.ttf", b"", "../game.ttf: is a font outside the project. Copy it here (release.font)."),
        ("game.ttf", b"not a font", "game.ttf: is no font that can be read: Not a TrueType or OpenType font (not "),
        ("game.ttf", b"\0\1\0\0\0\1", "game.ttf: is no font that can be read: "),
        ("game.ttf", b"", "game.ttf: is no font that can be read: "),
    ],
)
def test_font_that_cannot_be_read_is_a_problem(tmp_path: Path, name: str, data: bytes | None, said: str) -> None:
    root = tmp_path / "project"
    root.mkdir()
    if data is not None:
        (root / name).write_bytes(data)
    font, problem = font_characters(root, name)
    assert font == frozenset()
    assert str(problem).startswith(said)


def test_folder_is_no_font(tmp_path: Path) -> None:
    (tmp_path / "fonts").mkdir()
    assert font_characters(tmp_path, "fonts") == (frozenset(), Problem("fonts", "is no file"))


def test_font_without_characters_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "game.ttf").write_bytes(font_bytes(""))
    assert font_characters(tmp_path, "game.ttf")[1] == Problem(
        "game.ttf", "has no glyph of any Unicode character", "Wanted another font (release.font)."
    )


# --- a project -----------------------------------------------------------------------------------


def test_project_is_checked_from_its_lock_and_reviews_without_a_model(tmp_path: Path) -> None:
    make_project(tmp_path, settings='[tool.gonbuild.release]\nfont = "game.ttf"\nmax_openings = 0\n').build()
    ws = open_project(tmp_path).workspace()
    told = {card.id: ws.stories(card.id) for card in ws.scan.cards}
    lines = [f'- {{card: {card}, approve: "{s.text}"}}\n' for card, stories in told.items() for s in stories]
    (tmp_path / "cards/reviews.yaml").write_text("".join(lines), encoding="utf-8")
    problems, notes = check_release(open_project(tmp_path).workspace())
    assert [p.what for p in problems] == ["no such font"]
    assert notes == []
    every = "".join(sorted({c for stories in told.values() for s in stories for c in s.text}))
    (tmp_path / "game.ttf").write_bytes(font_bytes(every))
    assert check_release(open_project(tmp_path).workspace()) == ([], [])
    first = told["rung-001"][0]
    ban = f'- {{card: rung-001, ban: "{first.text}", reason: "buồn"}}\n'
    (tmp_path / "cards/reviews.yaml").write_text("".join([ban, *lines[1:]]), encoding="utf-8")
    problems, _ = check_release(open_project(tmp_path).workspace())
    assert [p.what for p in problems] == [
        "card 'rung-001': people accepted 1 of the 2 stories that a release wants",
        f"story '{first.id}' ships and is banned: buồn",
    ]


def test_stories_of_a_card_may_be_counted_by_the_card(tmp_path: Path) -> None:
    one = replace(release(), settings=Settings(selection=SelectionSettings(stories=3)))
    assert [p.what for p in release_problems(one)][:1] == ["card 'rung-001' ships 2 of 3 stories"]
    own = (replace(FOREST, stories=2), replace(VILLAGE, stories=2))
    assert release_problems(replace(one, cards=own)) == []
