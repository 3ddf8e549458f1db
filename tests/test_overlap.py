"""Two stories beside each other: which words both have, and which tell the effect and are left out."""

from gonbuild.overlap import OWN, RULE, SAME, Part, beside

EFFECT = "+2 điểm cho Rừng"


def test_shared_words_are_marked_in_both_and_the_effects_words_are_left_out() -> None:
    found = beside(
        "Bé Na gieo hạt. Rừng tăng 2 điểm.", EFFECT, "Ông gieo hạt keo, Rừng mất 3 điểm.", "-3 điểm cho Rừng"
    )
    assert found.story == (Part("Bé Na", OWN), Part("gieo hạt.", SAME), Part("Rừng tăng 2 điểm.", RULE))
    assert found.other == (
        Part("Ông", OWN),
        Part("gieo hạt", SAME),
        Part("keo,", OWN),
        Part("Rừng mất 3 điểm.", RULE),
    )
    assert (found.shared, found.words) == (2, 4)


def test_words_are_counted_as_often_as_both_have_them() -> None:
    found = beside("mưa mưa mưa", EFFECT, "Mưa rơi, mưa tạnh", EFFECT)
    assert (found.shared, found.words) == (2, 3)
    assert found.story == (Part("mưa mưa mưa", SAME),)


def test_tone_placement_and_punctuation_do_not_matter() -> None:
    found = beside("hoà bình – thật", EFFECT, "“Hòa bình”", EFFECT)
    assert found.story == (Part("hoà bình", SAME), Part("– thật", OWN))
    assert found.other == (Part("“Hòa bình”", SAME),)


def test_stories_without_words_share_nothing() -> None:
    assert beside("", EFFECT, "…", EFFECT).words == 0
