from gonbuild.placing import REMEMBERED, fixed_stories, in_slots, pinned_stories, placed, with_before
from gonbuild.records import Story
from gonbuild.reviews import Decision

EARLIER = (Story("a.1", "Một.", 1, -1.0, 5.0), Story("a.2", "Hai.", 2, -2.0, 6.0))


def pins(**texts: str) -> dict[int, Decision]:
    return {int(slot[1:]): Decision("a", "pin", text, int(slot[1:]), "e") for slot, text in texts.items()}


def shown(stories: tuple[Story, ...]) -> list[tuple[str, str]]:
    return [(story.id, story.text) for story in stories]


def place(count: int = 2, **texts: str) -> tuple[Story, ...]:
    return placed("a", pinned_stories("a", pins(**texts), EARLIER), EARLIER, count)


def test_pin_takes_its_slot_and_leaves_the_other() -> None:
    stories = place(_1="Ghim.")
    assert shown(stories) == [("a.1", "Ghim."), ("a.2", "Hai.")]
    assert (stories[0].candidate, stories[0].score, stories[0].before) == (None, None, ("Một.",))
    assert stories[1] == EARLIER[1]


def test_pinned_story_that_ships_elsewhere_changes_places_and_keeps_its_figures() -> None:
    stories = place(_1="Hai.")
    assert shown(stories) == [("a.1", "Hai."), ("a.2", "Một.")]
    assert [s.candidate for s in stories] == [2, 1]


def test_pin_of_what_stands_there_changes_nothing() -> None:
    assert place(_2="Hai.") == EARLIER


def test_story_beyond_the_count_goes() -> None:
    assert shown(place(count=1, _1="Ghim.")) == [("a.1", "Ghim.")]


def test_new_stories_take_the_slots_that_nothing_holds() -> None:
    fixed = fixed_stories(pinned_stories("a", pins(_2="Ghim."), EARLIER), EARLIER, [1])
    assert shown(in_slots("a", [Story("a.1", "Mới.")], fixed, EARLIER)) == [
        ("a.1", "Một."),
        ("a.2", "Ghim."),
        ("a.3", "Mới."),
    ]


def test_chosen_story_that_shipped_before_keeps_its_slot() -> None:
    stories = in_slots("a", [Story("a.1", "Hai."), Story("a.2", "Mới.")], {}, EARLIER)
    assert shown(stories) == [("a.1", "Mới."), ("a.2", "Hai.")]


def test_held_story_that_a_pin_moves_is_there_once() -> None:
    fixed = fixed_stories(pinned_stories("a", pins(_1="Hai."), EARLIER), EARLIER, [2])
    assert shown(tuple(fixed.values())) == [("a.1", "Hai.")]


def test_slot_remembers_what_it_shipped_and_forgets_it_on_the_way_back() -> None:
    first = (Story("a.1", "A", before=("Z",)),)
    second = with_before([Story("a.1", "B")], first)
    assert second[0].before == ("A", "Z")
    assert with_before([Story("a.1", "A")], second) == first
    many = first
    for text in "BCDEF":
        many = with_before([Story("a.1", text)], many)
    assert many[0].before == ("E", "D", "C")
    assert len(many[0].before) == REMEMBERED
