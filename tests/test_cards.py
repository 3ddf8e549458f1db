import json
import os
import re
import time
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gonbuild.cards import (
    DECK_BYTES,
    EXAMPLES_BYTES,
    card_schema,
    examples_jsonl,
    parse_deck,
    parse_examples,
    read_library,
)
from gonbuild.chat import import_chat
from gonbuild.errors import InputError
from gonbuild.nodes import read_yaml
from gonbuild.records import TYPES, Card

ROOT = Path(__file__).parents[1]
CASES = sorted((Path(__file__).parent / "data" / "cards").glob("*.case"))
DECK = """\
deck: Bảo Vệ
cards:
  - id: a
    name: Trồng Rừng
    type: Bảo Vệ
    effect: +2 điểm cho Rừng
    examples:
      - Cây lớn lên,
        Rừng tăng 2 điểm.
    stories: 3
"""
TREES = Card(
    "a", "Trồng Rừng", "Bảo Vệ", "+2 điểm cho Rừng", "x", examples=("Cây lớn lên, Rừng tăng 2 điểm.",), stories=3
)


def cards_of(text: str) -> tuple[Card, ...]:
    _, cards, problems = parse_deck(text.encode(), "cards/x.yaml")
    assert problems == []
    return cards


def problems_of(data: bytes) -> list[str]:
    return [str(p) for p in parse_deck(data, "cards/x.yaml")[2]]


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def read_case(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """Splits a case at its `==> name <==` lines; `<U+200B>` and `<0xFF>` stand for a character and a byte."""
    parts = re.split(r"^==> (.*) <==\n", path.read_text(encoding="utf-8"), flags=re.M)
    files = dict(zip(parts[1::2], parts[2::2], strict=True))
    expected = files.pop("expected").splitlines()
    special = re.compile(rb"<U\+([0-9A-F]{4,6})>|<0x([0-9A-F]{2})>")

    def meant(match: re.Match[bytes]) -> bytes:
        return chr(int(match[1], 16)).encode() if match[1] else bytes([int(match[2], 16)])

    return {name: special.sub(meant, text.encode()) for name, text in files.items()}, expected


def test_there_are_cases_of_bad_input():
    assert len(CASES) >= 20


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_bad_input_gets_these_messages(path, tmp_path):
    files, expected = read_case(path)
    with pytest.raises(InputError, match=r"cards") as caught:
        read_library(write(tmp_path, files))
    assert str(caught.value).splitlines() == expected
    assert expected


# Decks


def test_deck_gives_cards_in_file_order():
    deck, cards, problems = parse_deck(
        (DECK + DECK[DECK.index("  - id") :].replace("a\n", "b\n", 1)).encode(), "cards/x.yaml"
    )
    assert problems == []
    assert (deck.stem, deck.title, deck.cards) == ("x", "Bảo Vệ", ("a", "b"))
    assert cards[0] == TREES
    assert [card.where for card in cards] == ["cards/x.yaml:3", "cards/x.yaml:11"]


@pytest.mark.parametrize("written", ["+2", "no", "007", "~", "1e3", "2026-01-01", "null", "0x1F", "1_000", "a: b"])
def test_scalar_is_read_as_written(written):
    quoted = f"'{written}'" if ":" in written else written
    assert cards_of(DECK.replace("+2 điểm cho Rừng", quoted))[0].effect == written


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n" + DECK.replace("  - id", "\n  # another\n  - id"),
        DECK.replace("effect: +2 điểm cho Rừng", 'effect: "+2 điểm cho Rừng"'),
        DECK.replace("effect: +2 điểm cho Rừng", "effect: >-\n      +2 điểm\n\n      cho   Rừng"),
        DECK.replace("    type: Bảo Vệ\n", "").replace("    stories: 3\n", "    stories: 3\n    type: Bảo Vệ\n"),
        DECK.replace("\n", "\r\n"),
        "\ufeff" + DECK,
        "---\n" + DECK + "...\n",
        unicodedata.normalize("NFD", DECK),
    ],
    ids=["comment", "quotes", "folded", "order", "crlf", "bom", "markers", "nfd"],
)
def test_comment_order_and_quotes_in_yaml_change_no_card(same):
    assert cards_of(same) == (TREES,)


def test_text_is_made_nfc():
    card = cards_of(unicodedata.normalize("NFD", DECK))[0]
    assert unicodedata.is_normalized("NFC", card.name + card.effect + card.examples[0])


def test_flow_style_is_read_too():
    text = 'deck: D\ncards: [{id: a, name: N, type: Bảo Vệ, effect: "+1"}]'
    assert cards_of(text) == (Card("a", "N", "Bảo Vệ", "+1", "x"),)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
def test_both_parsers_of_pyyaml_read_the_same(loader):
    bad = DECK.replace("name:", "name: &x").replace("stories: 3", "<<: *y") + "  - [\n"
    node, problems = read_yaml(bad.encode(), "x", DECK_BYTES, loader)
    assert [p.where for p in problems] == ["x:4:11", "x:10:5", "x:10:9", "x:12:1"]
    assert node.value["cards"][1].value[0].value["name"][1].value == "Trồng Rừng"


def test_what_stands_before_a_syntax_error_is_checked():
    said = problems_of((DECK.replace("name:", "nmae:") + "  - id: 'b\n  - id: c\n").encode())
    assert said[0] == "cards/x.yaml:4:5: card 'a': unknown key 'nmae'. Did you mean 'name'?"
    assert "is no valid YAML" in said[1]
    assert len(said) == 2


@pytest.mark.parametrize("size", [DECK_BYTES, DECK_BYTES + 1])
def test_deck_of_one_mib_is_read_and_a_larger_one_refused(size):
    data = DECK.encode()
    data += b"#" * (size - len(data))
    large = ["cards/x.yaml: is larger than 1 MiB. Split it."]
    assert problems_of(data) == ([] if size == DECK_BYTES else large)


def test_anchor_bomb_is_refused_at_once():
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    began = time.perf_counter()
    said = problems_of("\n".join(lines).encode())
    assert "an anchor, '&a0'" in "".join(said)
    assert len(said) == 51
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("deep", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_deep_nesting_is_one_problem(deep):
    assert [said for said in problems_of(deep.encode()) if "nested more than 8 deep" in said]


def test_problems_of_one_file_are_counted_after_fifty():
    said = problems_of(DECK.encode() + b"    x: y\n" * 200)
    assert said[-1] == "cards/x.yaml: has 150 more problems."
    _, problems = parse_examples(b"[]\n" * 200, "x.jsonl")
    assert [len(said), len(problems), problems[-1].what] == [51, 51, "has 150 more problems"]


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))))
@settings(max_examples=100)
def test_any_bytes_give_cards_or_problems(data):
    for parsed in (parse_deck(data, "cards/x.yaml")[1:], parse_examples(data, "cards/examples/x.jsonl")):
        cards, problems = parsed
        assert problems or cards
    try:
        imported = import_chat(data, "chat.jsonl")
    except InputError:
        pass
    else:
        assert imported.cards or imported.unplaced


_BITS = st.sampled_from(
    ["deck: ", "cards:", "\n", "  ", "- ", "id: a", "name: ", "*a", "&a ", "!t ", "<<: ", '"', "'", "{", "}", "[",
     "]", ": ", "? ", "|", ">", "#", "\t", "---\n", "%YAML 1.1\n", "\\u202e", "\\x00", "<|user|>", "ệ",
     "\ufeff", "effect: x"]
)  # fmt: skip


@given(st.lists(_BITS, max_size=30).map("".join))
@settings(max_examples=200)
def test_any_mixture_of_yaml_gives_cards_or_problems(text):
    _, cards, problems = parse_deck(text.encode(), "cards/x.yaml")
    assert problems or cards
    assert all(str(p).startswith("cards/x.yaml") and "\n" not in str(p) for p in problems)


# The library


def test_the_games_own_cards_and_examples_are_sound():
    library = read_library(ROOT)
    assert len(library.cards) == 24
    assert {card.type for card in library.cards} == set(TYPES)
    assert all(len(card.examples) >= 3 for card in library.cards)
    assert len(library.examples) > 4000
    assert all(card.id == "" and card.examples for card in library.examples)


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    files = {f"cards/{n}.yaml": DECK.replace("a\n", f"{n}\n", 1).replace("Trồng", n).encode() for n in "cab"}
    library = read_library(write(tmp_path, {**files, "cards/reviews.yaml": b"bans: []", "cards/.x.yaml": b"["}))
    assert [deck.stem for deck in library.decks] == ["a", "b", "c"]
    assert [card.id for card in library.cards] == ["a", "b", "c"]


def test_mistakes_of_all_files_come_at_once(tmp_path):
    files = {
        "cards/a.yaml": DECK.replace("type: Bảo Vệ", "type: Bao Ve").encode(),
        "cards/b.yaml": b"deck: x\ndeck: y\n",
        "cards/examples/e.jsonl": b"{}\n[",
    }
    with pytest.raises(InputError, match="Did you mean 'Bảo Vệ'") as caught:
        read_library(write(tmp_path, files))
    assert {p.where.split(":")[0] for p in caught.value.problems} == set(files)


def test_project_without_decks_is_told_so(tmp_path):
    with pytest.raises(InputError, match=r"cards: has no deck\. Wanted a file such as"):
        read_library(tmp_path)


def test_link_that_leaves_the_project_is_refused(tmp_path):
    outside = write(tmp_path, {"outside.yaml": DECK.encode()}) / "outside.yaml"
    root = write(tmp_path / "game", {"cards/examples/e.jsonl": b""})
    (root / "cards/x.yaml").symlink_to(outside)
    (root / "cards/examples/f.jsonl").symlink_to(outside)
    (root / "cards/loop.yaml").symlink_to(root / "cards/loop.yaml")
    with pytest.raises(InputError, match=r"cards/x.yaml: is a link that leaves the project") as caught:
        read_library(root)
    assert [p.where for p in caught.value.problems] == [
        "cards/loop.yaml", "cards/x.yaml", "cards/examples/e.jsonl", "cards/examples/f.jsonl",
    ]  # fmt: skip


def test_link_within_the_project_is_followed(tmp_path):
    root = write(tmp_path, {"shared/x.yaml": DECK.encode(), "cards/examples/e.jsonl": examples_jsonl([TREES]).encode()})
    (root / "cards/x.yaml").symlink_to(root / "shared/x.yaml")
    assert read_library(root).cards == (TREES,)


def test_folder_and_pipe_are_no_decks(tmp_path):
    (tmp_path / "cards/x.yaml").mkdir(parents=True)
    os.mkfifo(tmp_path / "cards/y.yaml")
    with pytest.raises(InputError, match=r"cards/x.yaml: is no file\.\ncards/y.yaml: is no file"):
        read_library(tmp_path)


def test_five_thousand_cards_are_read_fast(tmp_path):
    story = "Bà con trồng cây ở đầu nguồn, rễ cây giữ nước mưa lại cho con suối, Rừng được cộng 2 điểm."
    for file in range(10):
        body = "".join(
            f"  - id: c{file}-{n}\n    name: Thẻ {file} {n}\n    type: Bảo Vệ\n    effect: +2 điểm cho Rừng\n"
            f"    examples:\n" + f"      - {story}\n" * 3
            for n in range(500)
        )
        write(tmp_path, {f"cards/d{file}.yaml": f"deck: D\ncards:\n{body}".encode()})
    began = time.thread_time()
    assert len(read_library(tmp_path).cards) == 5000
    assert time.thread_time() - began < 8  # 0.6 s where nothing else runs


# Examples


def test_examples_written_are_read_back():
    cards = read_library(ROOT).examples[:200]
    assert parse_examples(examples_jsonl(cards).encode(), "x.jsonl") == (cards, [])


@pytest.mark.parametrize("size", [EXAMPLES_BYTES, EXAMPLES_BYTES + 1])
def test_examples_over_eight_mib_are_refused(size):
    data = examples_jsonl([TREES]).encode()
    _, problems = parse_examples(data + b" " * (size - len(data)), "x.jsonl")
    assert [p.what for p in problems] == ([] if size == EXAMPLES_BYTES else ["is larger than 8 MiB"])


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"name": NaN}'])
def test_json_that_strains_the_parser_is_a_problem(line):
    cards, problems = parse_examples(line.encode(), "x.jsonl")
    assert cards == ()
    assert problems[0].where.startswith("x.jsonl:1")


# Schema


def test_schema_names_every_field_with_a_description():
    schema = card_schema()
    card = schema["properties"]["cards"]["items"]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert card["required"] == ["id", "name", "type", "effect"]
    assert card["properties"]["type"]["enum"] == list(TYPES)
    assert card["additionalProperties"] is False
    assert all(field["description"] for field in (*card["properties"].values(), *schema["properties"].values()))
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: x\ty\n" + b"\n" * 300_000 + b"- [", "a tab"),
        (b"=======\n" * 100_000, "a conflict marker of git, '======='"),
        (b"<<<<<<< " + b"x" * 60_000, "a conflict marker of git, '<<<<<<< xxx"),
        (b"a: b\n" + "\u200b".encode() * 300_000, "more tabs or invisible characters than are listed"),
    ],
)
def test_file_of_odd_lines_takes_no_time_and_few_words(data: bytes, said: str) -> None:
    began = time.thread_time()
    problems = parse_deck(data, "cards/x.yaml")[2]
    assert time.thread_time() - began < 2
    assert any(said in problem.what for problem in problems)
    assert max(len(str(problem)) for problem in problems) < 300
