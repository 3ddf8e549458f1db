import json
from pathlib import Path

import pytest

from gonbuild.errors import InputError
from gonbuild.form import form_card
from gonbuild.packs import Line, Lock, Other, form_entries, lock_bytes, pack_files, read_lock
from gonbuild.prompts import load_templates
from gonbuild.records import Card, Deck, Story, digest
from gonbuild.reviews import Reviews

REPOSITORY = Path(__file__).parent.parent
VALUES = {"sampling": {"seed": 0}, "filters": {"min_words": 12}}
CARDS = (
    Card("b-1", "Hai", "Thiên Tai", "-1 điểm cho Sông", deck="thu"),
    Card("a-1", "Một", "Bảo Vệ", "+2 điểm cho Rừng", deck="thu"),
)
DECKS = (Deck("thu", "Thử", ("b-1", "a-1")),)
STORIES = {
    "a-1": (
        Story("a-1.1", "Cây *xanh* <b>mọc</b> lên, Rừng tăng 2 điểm.", 3, 1.25, 20.5),
        Story("a-1.2", "Hai.", 4, -0.04, 0.0),
    ),
    "b-1": (Story("b-1.1", 'Nước nói "mặn", Sông mất 1 điểm.', 0, -0.1, 9.0),),
}


def line(card: str, **changes: object) -> Line:
    values = {
        "card": card,
        "inputs": {"name": card, "settings": digest(VALUES)},
        "adapter": "9f2c" * 16,
        "stories": STORIES.get(card, ()),
        "signature": "sacrebleu",
        **changes,
    }
    return Line(**values)  # type: ignore[arg-type]


def forged(**changes: object) -> bytes:
    """A lock line as no build writes it; whoever forges one can give it its digest, too."""

    def written(row: object) -> bytes:
        return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    row = {"card": "a", "inputs": {"settings": "0" * 64}, "adapter": "0" * 64, "stories": [], "signature": "s"}
    assert read_lock(written({**row, "digest": digest(row)}) + b"\n").lines
    row |= changes
    return written({**row, "digest": digest(written(row))})


def render() -> dict[str, bytes]:
    templates = load_templates(REPOSITORY)
    return pack_files(
        "GON",
        DECKS,
        CARDS,
        STORIES,
        lambda card: form_card(card, STORIES[card.id], (), Reviews()),
        lambda **v: templates.render("pack.md.jinja", **v),
    )


def test_lock_reads_back_what_it_wrote() -> None:
    lock = Lock({"b-1": line("b-1"), "a-1": line("a-1", short="1 of 2 stories", rounds=4)}, {digest(VALUES): VALUES})
    data = lock_bytes(lock)
    assert read_lock(data) == lock
    assert lock_bytes(read_lock(data)) == data


def test_lock_holds_a_line_a_card_sorted_by_id_after_the_settings_in_use() -> None:
    lock = Lock({"b-1": line("b-1"), "a-1": line("a-1")}, {digest(VALUES): VALUES, "unused": {}})
    rows = [json.loads(row) for row in lock_bytes(lock).splitlines()]
    assert rows[0] == {"settings": digest(VALUES), "values": VALUES}
    assert [row["card"] for row in rows[1:]] == ["a-1", "b-1"]
    assert rows[1]["stories"][1] == {"id": "a-1.2", "text": "Hai.", "candidate": 4, "score": -0.04, "novelty": 0.0}


@pytest.mark.parametrize(
    "raw",
    [
        b"<<<<<<< HEAD",
        b"{}",
        b"[1]",
        b"null",
        b'{"card": "a-1"}',
        b'{"card":1,"inputs":{},"adapter":"x","stories":[],"signature":"s"}',
        b'{"card":"a","inputs":[],"adapter":"x","stories":[],"signature":"s"}',
        b'{"card":"a","inputs":{},"adapter":"x","stories":[{"id":"a.1"}],"signature":"s"}',
        b'{"card":"a","inputs":{},"adapter":"x","stories":[],"signature":"s","more":1}',
        b'{"settings":"0000","values":{"sampling":{}}}',
        forged(adapter="../../../cards"),
        forged(card="../a"),
        forged(inputs={"settings": [1]}),
        forged(inputs={}),
        forged(short=3),
        forged(rounds=1.5),
        forged(stories=[{"id": "a.1 --><script>", "text": "x"}]),
        forged(stories=[{"id": "b.1", "text": "x"}]),
        forged(stories=[{"id": "a.2", "text": "x"}, {"id": "a.1", "text": "y"}]),
        forged(stories=[{"id": "a.1", "text": 7}]),
        forged(stories=[{"id": "a.1", "text": "x\u202ey"}]),
        forged(stories=[{"id": "a.1", "text": "x", "before": ["\u200b"]}]),
        forged(stories=[{"id": "a.1", "text": "x", "candidate": True}]),
        forged(stories=[{"id": "a.1", "text": "x", "score": float("inf")}]),
        forged(others=[{"candidate": -1, "text": "x"}]),
        forged(others=[{"candidate": 1, "text": "<|end|>"}]),
        forged(stories=[{"id": "a.1", "text": "x", "score": 10**400}]),
        b"\xff\xfe\x00",
        b"[" * 50_000,
    ],
)
def test_line_that_is_none_is_named(raw: bytes) -> None:
    data = lock_bytes(Lock({"a-1": line("a-1")}, {digest(VALUES): VALUES})) + raw + b"\n"
    with pytest.raises(InputError, match=r"build/stories.lock.jsonl:3: is no line of a lock: .*Resolve the merge"):
        read_lock(data)


def test_card_with_two_lines_of_which_neither_follows_the_other_is_named() -> None:
    settings = {digest(VALUES): VALUES}
    one = lock_bytes(Lock({"a-1": line("a-1")}, settings))
    other = lock_bytes(Lock({"a-1": line("a-1", stories=(Story("a-1.1", "Khác."),))}, settings)).splitlines()[1]
    with pytest.raises(InputError, match="lock.jsonl:3: card 'a-1' stands in a line above already"):
        read_lock(one + other + b"\n")


def test_line_that_a_merge_repeats_counts_once() -> None:
    lock = Lock({"a-1": line("a-1")}, {digest(VALUES): VALUES})
    data = lock_bytes(lock)
    assert read_lock(data + data.splitlines()[1] + b"\n") == lock


@pytest.mark.parametrize("first", ["old", "new"])
def test_of_two_lines_that_a_merge_kept_the_later_one_counts(first: str) -> None:
    settings = {digest(VALUES): VALUES}
    made = (Story("a-1.1", "Mới.", before=("Cũ.",)), Story("a-1.2", "Hai."))
    new = Lock({"a-1": line("a-1", stories=made)}, settings)
    old = Lock({"a-1": line("a-1", stories=(Story("a-1.1", "Cũ."), Story("a-1.2", "Hai.")))}, settings)
    head, newer = lock_bytes(new).splitlines()
    rows = [newer, lock_bytes(old).splitlines()[1]]
    data = b"\n".join([head, *(rows if first == "new" else rows[::-1]), b""])
    assert read_lock(data) == new


def test_lock_that_breaks_off_is_named() -> None:
    data = lock_bytes(Lock({"a-1": line("a-1")}, {digest(VALUES): VALUES}))
    with pytest.raises(InputError, match=r"build/stories.lock.jsonl: breaks off: its last line has no end[.] Resolve"):
        read_lock(data[:-1])


def test_all_bad_lines_are_named_at_once() -> None:
    with pytest.raises(InputError, match="lock.jsonl:1") as e:
        read_lock(b"x\ny\nz\n")
    assert len(e.value.problems) == 3


def test_bad_lines_without_end_are_counted() -> None:
    with pytest.raises(InputError, match="has 950 more problems") as e:
        read_lock(b"\n" * 1000)
    assert len(e.value.problems) == 51


def test_json_pack_has_the_documented_form() -> None:
    pack = json.loads(render()["stories.json"])
    assert pack["schema"] == 1
    assert pack["deck"] == "GON"
    assert pack["cards"]["a-1"] == {
        "name": "Một",
        "type": "Bảo Vệ",
        "effect": "+2 điểm cho Rừng",
        "stories": [
            {"id": "a-1.1", "text": "Cây *xanh* <b>mọc</b> lên, Rừng tăng 2 điểm."},
            {"id": "a-1.2", "text": "Hai."},
        ],
    }
    assert json.loads(render()["thu.json"])["deck"] == "Thử"
    assert list(pack["cards"]) == ["b-1", "a-1"]


def test_markdown_pack_groups_by_type_and_escapes_generated_text() -> None:
    text = render()["stories.md"].decode()
    headings = [line for line in text.splitlines() if line.startswith("##")]
    assert headings == ["## Bảo Vệ", "### Một", "## Thiên Tai", "### Hai"]
    assert "<b>" not in text
    assert "*xanh*" not in text
    assert "a-1.2: score 0.0, novelty 0" in text


def test_lock_keeps_what_people_put_there_and_what_is_offered() -> None:
    pinned = Story("a-1.2", "Của người.", before=("Một.", "Hai."))
    lock = Lock({"a-1": line("a-1", stories=(pinned,), others=(Other(17, "Khác."),))}, {digest(VALUES): VALUES})
    assert read_lock(lock_bytes(lock)) == lock


def test_every_flipped_bit_of_a_lock_is_noticed() -> None:
    data = lock_bytes(Lock({"a-1": line("a-1"), "b-1": line("b-1")}, {digest(VALUES): VALUES}))
    for at in range(len(data)):
        for bit in range(8):
            flipped = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                assert read_lock(flipped) == read_lock(data), (at, bit)  # white space between lines, say
            except InputError:
                continue


def test_line_changed_by_hand_is_named() -> None:
    data = lock_bytes(Lock({"a-1": line("a-1")}, {digest(VALUES): VALUES}))
    with pytest.raises(InputError, match="lock.jsonl:2: the line of card 'a-1' is not as a build wrote it"):
        read_lock(data.replace(b"Hai.", b"Ba."))


def test_stories_of_the_reading_pack_are_read_back_with_their_boxes() -> None:
    entries = form_entries(render()["stories.md"].decode())
    assert [(e.id, e.box) for e in entries] == [("a-1.1", ""), ("a-1.2", ""), ("b-1.1", "")]
    assert [e.text for e in entries] == [s.text for card in ("a-1", "b-1") for s in STORIES[card]]
