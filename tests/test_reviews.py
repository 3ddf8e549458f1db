import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gonbuild.decisions import add_decision, checked, decision_line, remove_decisions, told
from gonbuild.errors import InputError
from gonbuild.records import Card
from gonbuild.reviews import (
    CRITERIA,
    KINDS,
    Decision,
    Reviews,
    check_reviews,
    parse_reviews,
    parse_scores,
    reviews_schema,
    stale_notes,
)

CARD = Card("a-1", "Một", "Bảo Vệ", "+2 điểm cho Rừng")
OTHER = Card("b-1", "Hai", "Thiên Tai", "-1 điểm cho Sông", stories=1)
FILE = """\
# Lan's round
- {card: a-1, pin: "Một hai ba.", slot: 1, effect: "+2 điểm cho Rừng"}
- card: a-1
  edit: Bốn năm sáu.
  slot: 2
  effect: +2 điểm cho Rừng
  replaces: Bốn năm.

# of the second deck
- {card: b-1, ban: Bảy., reason: sai}
- {card: b-1, approve: Tám., by: Lan}
- {card: b-1, rating: Tám., by: Lan, scores: {sense: 4, language: 2}}
"""


def read(text: str) -> tuple[Reviews, list[str]]:
    reviews, problems = parse_reviews(text.encode())
    return reviews, list(map(str, problems))


def check(text: str) -> list[str]:
    reviews, problems = read(text)
    assert not problems
    return list(map(str, check_reviews(reviews, [CARD, OTHER], 2, 10, 2)))


def test_every_kind_is_read_from_either_form_of_yaml() -> None:
    reviews, problems = read(FILE)
    assert problems == []
    assert [(d.kind, d.line) for d in reviews.decisions] == [
        ("pin", 2),
        ("edit", 3),
        ("ban", 10),
        ("approve", 11),
        ("rating", 12),
    ]
    pin, edit, ban, approve, rating = reviews.decisions
    assert (pin.text, pin.slot, pin.effect) == ("Một hai ba.", 1, "+2 điểm cho Rừng")
    assert edit.replaces == "Bốn năm."
    assert ban.reason == "sai"
    assert approve.by == "Lan"
    assert rating.scores == {"sense": 4, "language": 2}


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", "\ufeff"])
def test_no_decision_is_no_mistake(text: str) -> None:
    assert read(text) == (Reviews(), [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("- {card: a-1, aprove: x}",
         ":1:3: a decision says none of pin, edit, approve, ban, rating. Wanted one of them. "
         "Did you mean 'approve'?"),
        ("- {card: a-1, approve: x, ban: y, reason: z}",
         ":1:3: a decision says approve and ban at once. Wanted one of them."),
        ("- {card: a-1, ban: x}", ":1:3: ban of card 'a-1' has no 'reason'."),
        ("- {card: a-1, pin: x, slot: 1}", ":1:3: pin of card 'a-1' has no 'effect'."),
        ("- {card: a-1, pin: x, slot: 0, effect: y}", ":1:29: pin of card 'a-1': slot is '0'. "
         "Wanted a whole number from 1 to 50."),
        ("- {card: a-1, approve: x, reasn: y}",
         ":1:27: approve of card 'a-1': unknown key 'reasn'. Known: card, approve, by."),
        ("- {card: A 1, approve: x}", ":1:10: approve of card 'A 1': card is 'A 1'. "
         "Wanted a-z, 0-9 and hyphens, 64 at most, no hyphen first."),
        ("- {card: a-1, rating: x, scores: {sense: 4}}", ":1:3: rating of card 'a-1' has no 'by'."),
        ("- {card: a-1, rating: x, by: L, scores: {sense: 6}}", ":1:49: rating of card 'a-1': scores: sense is '6'. "
         "Wanted a whole number from 1 to 5."),
        ("- {card: a-1, rating: x, by: L, scores: {}}", ":1:41: rating of card 'a-1': scores is empty. "
         "Wanted one or more of sense, card, effect, language."),
        ("- {card: a-1, approve: ''}", ":1:24: approve of card 'a-1': approve is empty."),
        ("- x", ":1:3: a decision is no mapping. Wanted {card: ..., pin: ...}."),
        ("a-1: x", ":1:1: the file is no list. Wanted a list, `- {card: ..., approve: ...}` a line."),
        ("- {card: a-1, approve: !!str x}", ":1:24: a tag, '!!str'. Leave it out: every value is read as text."),
        ("- !!map {card: a-1, approve: x}", ":1:3: a tag, '!!map'. Leave it out: every value is read as text."),
        ("- !!str x", ":1:3: a tag, '!!str'. Leave it out: every value is read as text."),
        ("- {card: a-1, approve: \"x\\u202e\"}", ":1:24: the text has an invisible character, U+202E."),
        ("- {card: a-1, approve: \"<|end|>\"}", ":1:24: the text has '<|', which belongs to the chat template."),
        ("- {card: a-1, edit: Ca\u0309y., slot: 1, effect: e, replaces: r}", ":1:21: the text is not in NFC: 'Cảy.'. "
         "Type it again, or save the file in NFC."),
        ("- {card: a-1, approve: \"x \u0323y\"}", ":1:3: approve of card 'a-1': a loose mark, U+0323, stands in 'x '. "
         "Type the letter again."),
        (f"- {{card: a-1, approve: x, by: {'L' * 65}}}", ":1:31: approve of card 'a-1': by has 65 characters. "
         "Wanted at most 64."),
        (f"- {{card: a-1, approve: {'x' * 2001}}}", ":1:24: approve of card 'a-1': approve has 2001 characters. "
         "Wanted at most 2000."),
        (f"- {{card: a-1, ban: x, reason: {'x' * 501}}}", ":1:31: ban of card 'a-1': reason has 501 characters. "
         "Wanted at most 500."),
        ("<<<<<<< HEAD", ":1: a conflict marker of git, '<<<<<<< HEAD'. "
         "Keep the lines that you want of both sides, and delete the marker."),
    ],
)  # fmt: skip
def test_mistake_is_named_with_its_place(line: str, said: str) -> None:
    _, problems = read(line + "\n")
    assert problems == [f"cards/reviews.yaml{said}"]


def test_all_mistakes_are_named_and_sound_decisions_stay() -> None:
    reviews, problems = read(FILE + "- {card: a-1}\n- {card: b-1, ban: x}\n")
    assert len(problems) == 2
    assert len(reviews.decisions) == 5


def test_what_git_left_of_a_merge_is_named_marker_by_marker() -> None:
    _, problems = read(f"{FILE}<<<<<<< HEAD\n- {{card: a-1, approve: x}}\n=======\n>>>>>>> lan\n")
    assert [p.split(":")[1] for p in problems] == ["13", "15", "16"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {card: a-2, approve: x}",
         "1: approve of card 'a-2', which no deck has. Did you mean 'a-1'? Bring the card back, or "
         "`gonbuild review --forget a-2` takes its decisions out."),
        ("- {card: b-1, pin: x, slot: 2, effect: -1 điểm cho Sông}", "1: pin of card 'b-1' wants slot 2. "
         "Wanted a slot from 1 to 1, or a higher `stories:` of the card."),
        ("- {card: a-1, pin: x, slot: 1, effect: +2 điểm cho Rừng}\n- {card: a-1, edit: y, slot: 1, "
         "effect: +2 điểm cho Rừng, replaces: z}",
         "2: two pins for slot 1 of card 'a-1'. Line 1 has it already: keep one of the two."),
        ("- {card: a-1, pin: x, slot: 1, effect: +2 điểm cho Rừng}\n- {card: a-1, pin: X, slot: 2, "
         "effect: +2 điểm cho Rừng}",
         "2: card 'a-1': one text is pinned to slots 1 and 2. See line 1: keep one of the two."),
        ("- {card: a-1, ban: Hoà., reason: sai}\n- {card: a-1, pin: hòa., slot: 1, effect: +2 điểm cho Rừng}",
         "2: card 'a-1': a banned story is also pinned. Line 1 bans it (sai): keep one of the two."),
        ("- {card: a-1, pin: a b c d e f g h i j k, slot: 1, effect: +2 điểm cho Rừng}",
         "1: pin of card 'a-1' has 11 words in 1 sentence. Wanted at most 10 in 2 sentences "
         "(filters.max_words, max_sentences)."),
        ("- {card: a-1, edit: A b. C d. E f., slot: 1, effect: e, replaces: r}",
         "1: edit of card 'a-1' has 6 words in 3 sentences. Wanted at most 10 in 2 sentences "
         "(filters.max_words, max_sentences)."),
        ("- {card: a-1, rating: x, by: L, scores: {sense: 1}}\n- {card: a-1, rating: x, by: L, scores: {sense: 2}}",
         "2: card 'a-1': two ratings of one story by L. See line 1: keep one of the two."),
    ],
)  # fmt: skip
def test_decision_that_cannot_be_honoured_is_named_with_its_line(text: str, said: str) -> None:
    assert check(text + "\n") == [f"cards/reviews.yaml:{said}"]


def test_twice_the_same_decision_is_no_mistake() -> None:
    line = "- {card: a-1, pin: x, slot: 1, effect: +2 điểm cho Rừng}\n"
    assert check(line + line) == []


def test_pin_for_another_effect_is_stale_and_takes_no_slot() -> None:
    stale = "- {card: a-1, pin: x, slot: 1, effect: +1 điểm cho Rừng}\n"
    assert check(stale + "- {card: a-1, pin: y, slot: 1, effect: +2 Điểm  cho Rừng}\n") == []
    reviews, _ = read(stale)
    assert reviews.pins(CARD) == {}
    assert stale_notes(reviews, [CARD]) == [
        "cards/reviews.yaml:1: pin of a-1.1 is stale and does not ship: it was made for '+1 điểm cho Rừng', "
        "and the card says '+2 điểm cho Rừng'; pin another text, or take it back"
    ]


def test_state_is_the_gravest_decision() -> None:
    reviews, _ = read(
        "- {card: a-1, approve: X hoà.}\n- {card: a-1, ban: x hòa., reason: r}\n- {card: a-1, approve: y}\n"
        "- {card: a-1, rating: z, by: L, scores: {sense: 1}}\n"
    )
    assert [reviews.state("a-1", t) for t in ("X HÒA.", "y", "z", "q")] == ["ban", "approve", "", ""]
    assert not reviews.accepts("a-1", "x hòa.")
    assert reviews.marks() == ({"a-1": ("y",)}, {"a-1": ("x hòa.",)})


def test_marks_are_read_with_their_names() -> None:
    assert parse_scores(["sense=4", "card=5"]) == ({"sense": 4, "card": 5}, [])
    _, problems = parse_scores(["sens=4", "card=6"])
    assert [str(p) for p in problems] == [
        "--rate: 'sens=4' is no mark. Wanted sense, card, effect or language, as sense=4.",
        "--rate: 'card=6' is no mark. Wanted 1 to 5, as sense=4.",
    ]


# Writing


def pin(text: str = "Chín.", slot: int = 1, card: str = "a-1") -> Decision:
    return Decision(card, "pin", text, slot=slot, effect="+2 điểm cho Rừng")


def lines_of(data: bytes) -> list[str]:
    return data.decode().splitlines()


def test_new_file_says_what_it_is() -> None:
    data, gone = add_decision(b"", Decision("a-1", "ban", "Sai.", reason="r", by="Lan"))
    assert lines_of(data)[1:] == ['- {card: a-1, ban: "Sai.", reason: "r", by: "Lan"}']
    assert data.startswith(b"# What people decided")
    assert gone == []


def test_decision_changes_its_own_lines_alone() -> None:
    before = lines_of(FILE.encode())
    data, gone = add_decision(FILE.encode(), pin())
    after = lines_of(data)
    assert [d.line for d in gone] == [2]
    assert after == [before[0], '- {card: a-1, pin: "Chín.", slot: 1, effect: "+2 điểm cho Rừng"}', *before[2:]]


def test_removal_of_a_block_keeps_comments_and_the_rest() -> None:
    data, gone = remove_decisions(FILE.encode(), lambda d: d.kind == "edit")
    before = lines_of(FILE.encode())
    assert lines_of(data) == before[:2] + before[7:]
    assert len(gone) == 1


def test_decision_whose_dash_stands_on_a_line_of_its_own_goes_with_it() -> None:
    data, gone = remove_decisions(
        b"-\n  card: a-1\n  approve: x\n- {card: b-1, approve: y}\n", lambda d: d.card == "a-1"
    )
    assert [d.line for d in gone] == [2]
    assert data == b"- {card: b-1, approve: y}\n"


def test_same_decision_again_changes_no_byte() -> None:
    data, _ = add_decision(FILE.encode(), pin())
    assert add_decision(data, pin()) == (data, [])
    assert remove_decisions(data, lambda d: False) == (data, [])


@pytest.mark.parametrize(
    ("first", "then", "left"),
    [
        (pin("A."), Decision("a-1", "ban", "a.", reason="r"), ["ban"]),
        (Decision("a-1", "ban", "a.", reason="r"), pin("A."), ["pin"]),
        (Decision("a-1", "approve", "a.", by="L"), Decision("a-1", "ban", "a.", reason="r", by="M"), ["ban"]),
        (Decision("a-1", "ban", "a.", reason="r"), Decision("a-1", "approve", "a."), ["approve"]),
        (Decision("a-1", "approve", "a.", by="L"), Decision("a-1", "approve", "a.", by="M"), ["approve", "approve"]),
        (Decision("a-1", "rating", "a.", by="L", scores={"sense": 1}),
         Decision("a-1", "rating", "a.", by="L", scores={"sense": 2}), ["rating"]),
        (Decision("a-1", "rating", "a.", by="L", scores={"sense": 1}),
         Decision("a-1", "ban", "a.", reason="r"), ["ban", "rating"]),
        (pin("A.", 1), pin("A.", 2), ["pin"]),
        (pin("A.", 1), pin("A.", 1, card="b-1"), ["pin", "pin"]),
    ],
)  # fmt: skip
def test_what_a_decision_contradicts_gives_way(first: Decision, then: Decision, left: list[str]) -> None:
    data, _ = add_decision(add_decision(b"", first)[0], then)
    reviews, problems = parse_reviews(data)
    assert problems == []
    assert [d.kind for d in reviews.decisions] == left
    assert then in reviews.decisions


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_file_without_its_last_line_end_takes_one_more(eol: str) -> None:
    text = FILE.rstrip().replace("\n", eol)
    data, _ = add_decision(text.encode(), Decision("c-1", "approve", "Mười."))
    reviews, problems = parse_reviews(data)
    assert problems == []
    assert [d.card for d in reviews.decisions] == ["a-1", "a-1", "b-1", "b-1", "b-1", "c-1"]


def test_file_with_a_mistake_is_not_written() -> None:
    with pytest.raises(InputError, match=r"reviews.yaml:13:3: a decision says none"):
        add_decision(f"{FILE}- {{card: a-1}}\n".encode(), pin())


def test_decisions_on_one_line_are_not_torn_apart() -> None:
    with pytest.raises(InputError, match=r"Put each decision on a line of its own"):
        add_decision(b"[{card: a-1, approve: x}, {card: b-1, approve: y}]\n", pin())


def test_ban_without_a_reason_and_text_that_nobody_sees_are_refused() -> None:
    with pytest.raises(InputError, match="a ban has no reason"):
        checked(Decision("a-1", "ban", "x", reason="  "))
    with pytest.raises(InputError, match="the text has an invisible character"):
        checked(Decision("a-1", "approve", "x\u200b"))
    with pytest.raises(InputError, match="the name has 65 characters. Wanted at most 64"):
        checked(Decision("a-1", "approve", "x", by="L" * 65))
    with pytest.raises(InputError, match="the text has 2001 characters. Wanted at most 2000"):
        checked(Decision("a-1", "approve", "x" * 2001))
    with pytest.raises(InputError, match="no slot 51. Wanted one from 1 to 50"):
        checked(pin(slot=51))
    with pytest.raises(InputError, match="a pin has no text"):
        checked(Decision("a-1", "pin", "", slot=1, effect="e"))


def test_texts_are_written_in_nfc_on_one_line() -> None:
    data, _ = add_decision(b"", Decision("a-1", "approve", "Ca\u0309i\n  tạo."))
    assert lines_of(data)[1] == '- {card: a-1, approve: "Cải tạo."}'


_TEXT = st.text(st.sampled_from("abcđ ê\"'\\{}[]:,#&*!|>%@`-?.\n"), min_size=1, max_size=30).filter(
    lambda t: t.strip() and "<|" not in t
)


@given(_TEXT, _TEXT, st.sampled_from(KINDS))
def test_whatever_is_written_reads_back(text: str, more: str, kind: str) -> None:
    decision = checked(
        Decision(
            "a-1",
            kind,
            text,
            slot=2 if kind in ("pin", "edit") else 0,
            effect=more if kind in ("pin", "edit") else "",
            replaces=more if kind == "edit" else "",
            reason=more if kind == "ban" else "",
            by="Lan" if kind == "rating" else "",
            scores={"sense": 3} if kind == "rating" else {},
        )
    )
    data, _ = add_decision(FILE.encode(), decision)
    reviews, problems = parse_reviews(data)
    assert problems == []
    assert decision in reviews.decisions
    assert yaml.safe_load(decision_line(decision))[0][kind] == decision.text


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=12))
def test_decisions_stand_in_order_however_they_came(pairs: list[tuple[str, str]]) -> None:
    data = b""
    for card, text in pairs:
        data, _ = add_decision(data, Decision(f"{card}-1", "approve", text))
    reviews, _ = parse_reviews(data)
    assert [d.key for d in reviews.decisions] == sorted({(f"{c}-1", t, "approve", "") for c, t in pairs})


def test_decision_is_told_in_a_line() -> None:
    assert told(pin()) == "pin a-1.1: Chín."
    assert told(Decision("a-1", "ban", "X.", reason="sai", by="Lan")) == "ban a-1 by Lan: X. (sai)"
    assert told(Decision("a-1", "rating", "X.", by="L", scores={"sense": 4})) == "rating a-1 sense=4 by L: X."


def test_schema_has_every_kind_and_criterion() -> None:
    schema = reviews_schema()
    assert len(schema["items"]["oneOf"]) == len(KINDS)
    assert all(name in json.dumps(schema) for name in (*KINDS, *CRITERIA))


def test_attributes_merge_decisions_of_two_branches() -> None:
    attributes = (Path(__file__).parent.parent / ".gitattributes").read_text()
    assert "cards/reviews.yaml merge=union" in attributes
