import json
import re
import time
import unicodedata
from pathlib import Path

import pytest

from gonbuild.cards import read_library
from gonbuild.chat import import_chat, parse_card_text
from gonbuild.dataset import chat_jsonl
from gonbuild.errors import InputError
from gonbuild.records import Card

ROOT = Path(__file__).parents[1]
TREES = Card("", "Trồng Rừng", "Bảo Vệ", "+2 điểm cho Rừng", examples=("Cây lớn lên, Rừng tăng 2 điểm.",))


@pytest.mark.parametrize(
    "text",
    [
        "Tên thẻ: Trồng Rừng\nLoại: Bảo Vệ\nHiệu ứng: +2 điểm cho Rừng",
        "Tên thẻ: Trồng Rừng. Loại: Bảo Vệ. Hiệu ứng: +2 điểm cho Rừng.",
        "tên thẻ: Trồng Rừng, loại thẻ: bảo vệ, hiệu ứng: +2 điểm cho Rừng",
        "THẺ: Trồng Rừng; LOẠI: BẢO VỆ; HIỆU ỨNG: +2 điểm cho Rừng;",
        "ten the: Trồng Rừng\r\nloai the : bao ve\r\nhieu ung= +2 điểm cho Rừng\r\n",
        "- **Tên thẻ:** Trồng Rừng\n- **Loại:** Bảo Vệ\n- **Hiệu ứng:** +2 điểm cho Rừng\n",
        "Hãy viết truyện cho thẻ:\nTên: “Trồng Rừng”\nLoại: thẻ Bảo Vệ\nHiệu ứng: +2 điểm cho Rừng\nNgắn thôi nhé.",
        "Hiệu ứng của thẻ: +2 điểm cho Rừng. Tên lá bài: Trồng Rừng | Loại lá: Bảo Vệ. Hãy viết 1-2 câu.",
        "Tên thẻ： Trồng Rừng Loại： Bảo Vệ Hiệu ứng： +2 điểm cho Rừng",
        unicodedata.normalize("NFD", "Tên thẻ: Trồng Rừng. Loại: Bảo Vệ. Hiệu ứng: +2 điểm cho Rừng"),
    ],
)
def test_card_is_read_out_of_words(text):
    assert parse_card_text(text) == Card("try", "Trồng Rừng", "Bảo Vệ", "+2 điểm cho Rừng")


@pytest.mark.parametrize(
    "effect",
    [
        "+2 Điểm cho Rừng. +1 điểm Đất",
        "-2 điểm cho Sông",
        "Chặn 1 hiệu ứng trừ điểm bất kỳ trong lượt kế tiếp",
        "Chọn 1 thẻ: hủy bỏ, rút 2 lá: giữ 1",
        "Mỗi người chơi chọn 1 vùng của chính mình (ngoài bản thân): vùng đó -2 điểm",
    ],
)
def test_effect_keeps_its_own_stops_signs_and_colons(effect):
    assert parse_card_text(f"Tên thẻ: X. Loại: Thiên Tai. Hiệu ứng: {effect}.").effect == effect


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Loại: Bảo Vệ. Hiệu ứng: +1", "no 'Tên thẻ: ...'"),
        ("Tên thẻ: X. Hiệu ứng: +1", "no 'Loại: ...'"),
        ("Tên thẻ: X. Loại: Bảo Vệ", "no 'Hiệu ứng: ...'"),
        ("Tên thẻ: X. Loại: Rừng Xanh. Hiệu ứng: +1", "unknown type 'Rừng Xanh'"),
        ("Tên thẻ: <|end|>. Loại: Bảo Vệ. Hiệu ứng: +1", "belongs to the chat template"),
    ],
)
def test_card_text_that_lacks_a_part_is_told_which(text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parse_card_text(text)


def test_chat_rows_of_one_card_become_one_card():
    lines = chat_jsonl([TREES, Card("", "Y", "Thiên Tai", "-1", examples=("s",)), TREES], system="Kể chuyện.")
    found = import_chat(lines.encode(), "chat.jsonl")
    assert [(c.name, c.examples, c.where) for c in found.cards] == [
        ("Trồng Rừng", TREES.examples, "chat.jsonl:1"),
        ("Y", ("s",), "chat.jsonl:2"),
    ]
    assert found.unplaced == ()


def test_dialogue_of_several_turns_tells_several_cards():
    turns = [json.loads(line)["messages"] for line in chat_jsonl([TREES, TREES]).splitlines()]
    turns[1][1]["content"] = "Khác."
    found = import_chat(json.dumps({"messages": turns[0] + turns[1]}).encode(), "x")
    assert [card.examples for card in found.cards] == [(*TREES.examples, "Khác.")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "x:2: is no valid JSON"),
        ("[]", "x:2: has no list of messages"),
        ('{"messages": [1]}', "x:2: has no list of messages"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "x:2: has no user turn with an assistant turn after it"),
        ('{"messages": [{"role": "assistant", "content": "hi"}]}', "x:2: has no user turn"),
        (
            '{"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "s"}]}',
            "x:2: the text has no",
        ),
        (
            '{"messages": [{"role": "user"}, {"role": "assistant", "content": " "}]}',
            "x:2: the assistant's turn has no text",
        ),
        (
            '{"messages": [{"role": "user"}, {"role": "assistant", "content": "\\u202e"}]}',
            "x:2: the assistant's turn has an",
        ),
    ],
)
def test_line_that_fits_no_card_is_named_and_the_rest_is_read(line, said):
    good = chat_jsonl([TREES])
    found = import_chat(f"{good}{line}\n{good}".encode(), "x")
    assert str(found.unplaced[0]).startswith(said)
    assert len(found.cards) == 1


def test_every_example_survives_the_chat_format():
    cards = read_library(ROOT).examples[::8]
    found = import_chat(chat_jsonl(cards).encode(), "x")
    assert found.unplaced == ()
    told = {(c.name, c.type, c.effect, s) for c in cards for s in c.examples}
    assert {(c.name, c.type, c.effect, s) for c in found.cards for s in c.examples} == told


def test_labels_without_end_take_no_time():
    began = time.thread_time()
    with pytest.raises(InputError, match="the text has no 'Hiệu ứng: ...'"):
        parse_card_text("Tên thẻ: A. Loại: Bảo Vệ. " + "Tên thẻ: " * 60_000)
    assert time.thread_time() - began < 8  # 1 s alone on a machine; each label's text copied anew: minutes
