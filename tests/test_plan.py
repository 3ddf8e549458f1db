from typing import Any

from gonbuild.packs import Line, Lock
from gonbuild.plan import Pinned, Situation, diff, make_plan
from gonbuild.records import Story

STAGES = {"sampling": {"seed": 0, "temperature": 0.8}, "filters": {"min_words": 12}}
INPUTS = {"name": "Một", "effect": "+2 điểm cho Rừng", "prompt": "p1", "stories": 2, "settings": "k1"}


def situation(**changes: Any) -> Situation:
    """One card that is up to date with everything in the store, but for the changes."""
    line = Line("a-1", dict(INPUTS), "old0adapter", (), "signature")
    values: dict[str, Any] = {
        "wanted": {"a-1": INPUTS},
        "settings": {"k1": STAGES},
        "rounds": 4,
        "candidates": 16,
        "lock": Lock({"a-1": line}, {"k1": STAGES}),
        "adapter": "old0adapter",
        "adapter_reasons": ("never built here",),
        "has_adapter": lambda key: True,
        "has_candidates": lambda key, card, round_: False,
        "still_passes": lambda card: True,
        "pack_reasons": lambda: (),
        **changes,
    }
    return Situation(**values)


def wanted(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"a-1": {**INPUTS, **changes}}


def step(**changes: Any) -> tuple[str, tuple[str, ...]]:
    card = make_plan(situation(**changes)).cards[0]
    return card.action, card.reasons


def test_nothing_changed_keeps_everything() -> None:
    plan = make_plan(situation())
    assert not plan.changes
    assert [s.action for s in plan.steps] == ["reuse", "keep", "keep"]
    assert plan.notes == ()


def test_changed_effect_generates_and_says_both_values() -> None:
    assert step(wanted=wanted(effect="+3 điểm cho Rừng", prompt="p2")) == (
        "generate",
        ('effect: "+2 điểm cho Rừng" -> "+3 điểm cho Rừng"',),
    )


def test_stale_card_with_candidates_in_the_store_is_selected_from_them() -> None:
    assert step(wanted=wanted(stories=3), has_candidates=lambda key, card, round_: True) == (
        "select",
        ("stories: 2 -> 3",),
    )


def test_candidates_of_the_lines_own_adapter_come_first() -> None:
    plan = make_plan(situation(wanted=wanted(stories=3), adapter="new", has_candidates=lambda key, card, round_: True))
    assert plan.cards[0].adapter == "old0adapter"


def test_refresh_takes_the_current_adapter() -> None:
    plan = make_plan(
        situation(refresh=frozenset({"a-1"}), adapter="new", has_candidates=lambda key, card, round_: True)
    )
    assert plan.cards[0].reasons == ("refresh asked for",)
    assert plan.cards[0].adapter == "new"


def test_refresh_with_the_same_adapter_passes_over_the_candidates_that_the_card_had() -> None:
    shipped = tuple(Story(f"a-1.{n}", "x", candidate, 0.0, 0.0) for n, candidate in ((1, 3), (2, 17)))
    lock = Lock({"a-1": Line("a-1", dict(INPUTS), "old0adapter", shipped, "signature")}, {"k1": STAGES})
    assert make_plan(situation(refresh=frozenset({"a-1"}), lock=lock)).cards[0].first_round == 2


def test_template_change_is_named_when_no_field_changed() -> None:
    assert step(wanted=wanted(prompt="p2")) == ("generate", ("prompt: changed by a template",))


def test_changed_sampling_generates() -> None:
    changed = {**STAGES, "sampling": {"seed": 1, "temperature": 0.8}}
    assert step(wanted=wanted(settings="k2"), settings={"k2": changed}) == ("generate", ("sampling.seed: 0 -> 1",))


def test_changed_filter_keeps_stories_that_still_pass() -> None:
    changed = {"wanted": wanted(settings="k2"), "settings": {"k2": {**STAGES, "filters": {"min_words": 14}}}}
    assert step(**changed) == ("relock", ("filters.min_words: 12 -> 14", "its stories still pass"))
    assert step(**changed, still_passes=lambda card: False) == ("generate", ("filters.min_words: 12 -> 14",))


def test_filters_are_not_asked_when_the_prompt_changed_too() -> None:
    def fail(card: str) -> bool:
        raise AssertionError(card)

    changed = {"wanted": wanted(settings="k2", prompt="p2"), "settings": {"k2": {**STAGES, "filters": {}}}}
    assert step(**changed, still_passes=fail)[0] == "generate"


def test_settings_that_the_lock_lost_make_the_card_anew() -> None:
    assert step(wanted=wanted(settings="k2"), settings={"k2": STAGES}, lock=situation_lock({})) == (
        "generate",
        ("settings: the lock does not hold the earlier ones",),
    )


def situation_lock(settings: dict[str, Any]) -> Lock:
    return Lock(situation().lock.lines, settings)


def test_new_adapter_keeps_cards_and_says_so() -> None:
    plan = make_plan(situation(adapter="1ab3ffff", has_adapter=lambda key: False))
    assert not plan.changes
    assert plan.notes == ("1 card kept, made with adapter old0, current 1ab3",)
    assert plan.adapter.action == "not needed"


def test_new_card_trains_when_the_adapter_is_missing() -> None:
    plan = make_plan(situation(lock=Lock(), has_adapter=lambda key: False))
    assert [(s.what, s.action, s.reasons) for s in plan.steps] == [
        ("adapter", "train", ("never built here",)),
        ("a-1", "generate", ("new card",)),
        ("packs", "write", ("1 card changed",)),
    ]


def test_card_without_a_deck_is_removed() -> None:
    plan = make_plan(situation(wanted={}))
    assert [(s.what, s.action) for s in plan.cards] == [("a-1", "remove")]
    assert plan.changes


def test_edited_pack_is_rebuilt() -> None:
    plan = make_plan(situation(pack_reasons=lambda: ("stories.md: edited by hand",)))
    assert plan.cards[0].action == "keep"
    assert (plan.packs.action, plan.packs.reasons) == ("write", ("stories.md: edited by hand",))


PINS = {"a-1": {1: Pinned("Ghim.", "pinned")}}


def lock_of(*texts: str, **changes: Any) -> Lock:
    stories = tuple(Story(f"a-1.{n}", text, n, 0.0, 0.0) for n, text in enumerate(texts, 1))
    values = {"card": "a-1", "inputs": dict(INPUTS), "adapter": "old0adapter", "stories": stories, "signature": "s"}
    return Lock(
        {"a-1": Line(**values | changes)}, {"k1": STAGES, "k0": {**STAGES, "sampling": {"seed": 9, "temperature": 0.8}}}
    )


def test_pin_is_placed_without_a_candidate() -> None:
    lock = lock_of("Một.", "Hai.")
    assert step(lock=lock, pins=PINS) == ("place", ("a-1.1 pinned",))
    assert step(lock=lock_of("Ghim.", "Hai."), pins=PINS) == ("keep", ())


def test_card_whose_every_slot_is_pinned_needs_no_candidate() -> None:
    pins = {"a-1": {1: Pinned("Ghim.", "pinned"), 2: Pinned("Sửa.", "edited")}}
    assert step(lock=Lock(), pins=pins) == ("place", ("new card",))
    assert step(lock=Lock(), pins=PINS) == ("generate", ("new card",))


def test_ban_makes_its_slot_anew_and_holds_the_others() -> None:
    plan = make_plan(situation(lock=lock_of("Một.", "Hai."), refused=lambda line: {2: "is banned: sai"}))
    assert plan.cards[0].action == "generate"
    assert plan.cards[0].reasons == ("a-1.2 is banned: sai",)
    assert plan.cards[0].held == (1,)


def test_ban_of_a_slot_that_is_pinned_over_needs_no_candidate() -> None:
    assert step(lock=lock_of("Một.", "Hai."), pins=PINS, refused=lambda line: {1: "is banned: sai"}) == (
        "place",
        ("a-1.1 pinned",),
    )


def test_approved_stories_outlive_settings_but_no_other_effect() -> None:
    lock = lock_of("Một.", "Hai.", inputs={**INPUTS, "settings": "k0"})
    both = lambda line: (1, 2)  # noqa: E731
    assert step(lock=lock, accepted=both) == ("relock", ("sampling.seed: 9 -> 0", "its stories are approved"))
    half = make_plan(situation(lock=lock, accepted=lambda line: (2,))).cards[0]
    assert (half.action, half.held) == ("generate", (2,))
    other = make_plan(situation(lock=lock, accepted=both, wanted=wanted(effect="+3 điểm cho Rừng"))).cards[0]
    assert (other.action, other.held) == ("generate", ())


def test_approved_stories_stay_when_the_card_wants_more() -> None:
    step_ = make_plan(situation(lock=lock_of("Một.", "Hai."), accepted=lambda line: (1, 2), wanted=wanted(stories=3)))
    assert (step_.cards[0].action, step_.cards[0].held) == ("generate", (1, 2))


def test_refresh_keeps_pins_alone() -> None:
    lock = lock_of("Ghim.", "Hai.")
    refreshed = make_plan(situation(lock=lock, pins=PINS, accepted=lambda line: (2,), refresh=frozenset(["a-1"])))
    assert (refreshed.cards[0].action, refreshed.cards[0].held) == ("generate", ())
    assert step(lock=lock, pins={"a-1": {1: Pinned("a", "pinned"), 2: Pinned("b", "pinned")}}, refresh={"a-1"}) == (
        "place",
        ("refresh asked for",),
    )


def test_card_that_fell_short_is_kept_until_something_changes() -> None:
    line = Line("a-1", dict(INPUTS), "old0adapter", (), "s", short="1 of 2 stories; dropped by effect 9", rounds=4)
    lock = Lock({"a-1": line}, {"k1": STAGES})
    plan = make_plan(situation(lock=lock))
    assert not plan.changes
    assert plan.short == {"a-1": "1 of 2 stories; dropped by effect 9"}
    assert step(lock=lock, rounds=6) == ("generate", ("selection.rounds: 4 -> 6",))


def test_diff_names_nested_values_and_shortens_digests() -> None:
    old = {"base": "a" * 64, "adapter": {"epochs": 3, "targets": ["q"]}, "gone": 1}
    new = {"base": "b" * 64, "adapter": {"epochs": 5, "targets": ["q"]}}
    assert diff(old, new) == ["adapter.epochs: 3 -> 5", "base: aaaaaaaa -> bbbbbbbb", "gone: 1 -> nothing"]


def test_diff_of_training_rows_names_three_cards_at_most() -> None:
    old = {"rows": {"a": "1", "b": "1", "gone": "1"}}
    new = {"rows": {"a": "2", "b": "1", **{f"n{i}": "1" for i in range(5)}}}
    assert diff(old, new) == [
        "training stories changed: a",
        "training stories added: n0, n1, n2 and 2 more",
        "training stories removed: gone",
    ]


def test_lists_are_compared_item_by_item() -> None:
    many = [f"từ {n}" for n in range(9)]
    assert diff({"w": ["a", "b"]}, {"w": ["b", "c"]}) == ['w: +"c" -"a"']
    assert diff({"w": []}, {"w": many}) == ['w: +"từ 0" +"từ 1" +"từ 2" +6 more']
    assert diff({"w": ["a", "b"]}, {"w": ["b", "a"]}) == ["w: another order"]


def test_long_values_are_cut() -> None:
    (reason,) = diff({"w": "a" * 9999}, {"w": "b"})
    assert reason == 'w: "' + "a" * 116 + '... -> "b"'
