"""Edits one card of a dozen at random, again and again; exactly that card's record may change, to the byte."""

import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fakes import FakeModels, clause, make_project, open_project

from gonbuild import packs
from gonbuild.records import REGIONS, TYPES, Candidate, Request
from torture.outcome import Note, Outcome, outcome, spread

TITLE = "random edits of one card: text, place, id, count, examples; a card more or less"
FULL = 200
CHAIN = 20
"""Edits that go on from each other's result."""
SETTINGS = "[tool.gonbuild.filters]\nmax_diversity_bleu = 60.0\nmax_novelty_bleu = 80.0\n"

WHO = (
    "Bé Na", "Ông nội", "Cô giáo", "Bác thợ mộc", "Đội tình nguyện", "Chị Hoa", "Lũ trẻ xóm chài", "Thầy hiệu trưởng",
    "Bà ngoại", "Người thợ gốm", "Chú kiểm lâm", "Mấy anh thợ xây",
)  # fmt: skip
DOES = (
    "xách bình tưới mấy luống cải mới lên", "đan rổ tre đựng lá khô", "nhặt vỏ ốc xếp thành hàng",
    "quét lối đi sạch bóng",
    "treo chuông gió bằng vỏ hộp cũ", "đắp lại bờ đất bị lở", "gom túi nhựa trôi dạt", "vẽ tranh cổ động thật to",
    "ươm từng bầu cây con", "khơi dòng nước bị tắc", "dựng hàng rào bằng nứa", "kể chuyện ngày xưa cho cả nhóm",
)  # fmt: skip
WHERE = (
    "bên chiếc cầu gỗ", "trước sân đình", "dưới gốc đa già", "ngoài bãi cát trắng", "trên sườn núi đá",
    "cạnh giếng làng",
    "sau buổi chợ phiên", "lúc trăng vừa lên", "giữa cánh đồng mới gặt", "khi cơn mưa vừa dứt", "quanh hồ sen",
    "ở cuối vườn",
)  # fmt: skip
AND = (
    "cùng mấy đứa em họ", "với chiếc nón rách", "mà miệng vẫn hát", "theo tiếng trống ếch", "chẳng quản nắng gắt",
    "từ lúc gà gáy", "đến khi đèn lên", "như đã hứa hôm qua", "trong tiếng cười giòn", "bằng đôi tay khéo",
    "thật nhẹ nhàng", "rồi nghỉ uống chè xanh",
)  # fmt: skip

Card = dict[str, Any]
Decks = list[list[Card]]


class Writer(FakeModels):
    """A fake with some ten thousand scenes, so that a dozen cards get different stories."""

    def _candidate(self, request: Request, index: int, seed: bytes) -> Candidate:
        draw = random.Random(f"{seed.hex()} {request.card} {request.prompt.text} {index}")
        scene = " ".join(draw.choice(part) for part in (WHO, DOES, WHERE, AND))
        text = f"{scene}. {clause(request.prompt.text)}."
        return Candidate(request.card, index, text, 20, -40.0, -60.0 - draw.random(), ended=True)


def run(count: int, seed: int, jobs: int, models: type[FakeModels] = Writer) -> Outcome:
    """Makes chains of edits, each on a project of its own."""
    starts = range(0, count, CHAIN)
    lines = spread(partial(work, seed, count, models), starts, jobs)
    return outcome(count, lines)


def work(seed: int, count: int, models: type[FakeModels], start: int) -> list[str]:
    """Runs one chain; returns what did not hold, and a note for each edit."""
    rng = random.Random(f"{seed} {start}")
    decks: Decks = [[_card(rng, f"{stem}-{n:03}") for n in range(4)] for stem in ("rung", "song", "lang")]
    found = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "game"
        make_project(root, settings=SETTINGS)
        (root / "cards" / "thu.yaml").unlink()
        _write(root, decks)
        open_project(root, models()).build()
        for number in range(start, min(start + CHAIN, count)):
            edit = rng.choice([*EDITS])
            before = records(root)
            touched = EDITS[edit](rng, decks)
            _write(root, decks)
            if fresh := rng.random() < 0.15:
                shutil.rmtree(root / "build" / "cache")
            open_project(root, models()).build()
            after = records(root)
            changed = {card for card in {*before, *after} if before.get(card) != after.get(card)}
            found.append(Note(edit))
            if changed != touched:
                how = f"edit {number}, {edit}{', without a cache' if fresh else ''}"
                found.append(f"{how}: {sorted(changed)} changed, {sorted(touched)} wanted")
            found += _order(root, decks)
            if open_project(root, models()).plan().changes:
                found.append(f"edit {number}, {edit}: the next build would change something")
    return found


def records(root: Path) -> dict[str, list[object]]:
    """Returns all that a project's packs and lock hold of each card, by id; their order aside."""
    found: dict[str, list[object]] = {}
    for path in sorted((root / packs.PACKS).glob("*.json")):
        for card, told in json.loads(path.read_bytes())["cards"].items():
            # which deck a card stands in is the deck's, and no part of its record
            found.setdefault(card, []).append(["deck" if path.name != "stories.json" else path.name, told])
    for row in map(json.loads, (root / packs.LOCK).read_bytes().splitlines()):
        if "card" in row:
            found.setdefault(row["card"], []).append(row)
    form = (root / packs.FORM).read_text("utf-8")
    for block in re.split(r"^(?=###? )", form, flags=re.M):
        if card := re.search(r" · `([^`]+)`$", block, flags=re.M):
            found.setdefault(card[1], []).append(block.strip())
    return {card: sorted(told, key=str) for card, told in found.items()}


def _order(root: Path, decks: Decks) -> Iterator[str]:
    wanted = [card["id"] for deck in sorted(decks, key=_stem) for card in deck]
    found = [*json.loads((root / packs.PACKS / "stories.json").read_bytes())["cards"]]
    if found != wanted:
        yield f"stories.json has the order {found}, wanted {wanted}"


def _stem(deck: list[Card]) -> str:
    return str(deck[0]["stem"])


def _write(root: Path, decks: Decks) -> None:
    for deck in decks:
        rows = [{key: value for key, value in card.items() if key != "stem"} for card in deck]
        text = "".join(f"  - {json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        path = root / "cards" / f"{_stem(deck)}.yaml"
        path.write_text(f"deck: Bộ {_stem(deck)}\ncards:\n{text}", encoding="utf-8")


def _card(rng: random.Random, id_: str) -> Card:
    card = {"id": id_, "name": _name(rng), "type": rng.choice(TYPES), "effect": _effect(rng), "stem": id_.split("-")[0]}
    return {**card, "examples": [_example(rng, card)]}


def _name(rng: random.Random) -> str:
    return f"Thẻ Số {rng.randrange(10**6)}"


def _effect(rng: random.Random, other: str = "") -> str:
    effects = [f"{sign}{n} điểm cho {region}" for sign in "+-" for n in (1, 2, 3) for region in REGIONS]
    return rng.choice([effect for effect in effects if effect != other])


def _example(rng: random.Random, card: Card) -> str:
    told = clause(f"Hiệu ứng: {card['effect']}<|end|>")
    return f"{rng.choice(WHO)} dậy sớm cùng cả xóm, việc thứ {rng.randrange(1000)} trong mùa này đã xong. {told}."


def _any(rng: random.Random, decks: Decks) -> Card:
    return rng.choice([card for deck in decks for card in deck])


def _rename(rng: random.Random, decks: Decks) -> set[str]:
    card = _any(rng, decks)
    card["name"] = _name(rng)
    return {card["id"]}


def _other_type(rng: random.Random, decks: Decks) -> set[str]:
    card = _any(rng, decks)
    card["type"] = rng.choice([kind for kind in TYPES if kind != card["type"]])
    return {card["id"]}


def _other_effect(rng: random.Random, decks: Decks) -> set[str]:
    card = _any(rng, decks)
    card["effect"] = _effect(rng, card["effect"])
    card["examples"] = [_example(rng, card)]
    return {card["id"]}


def _examples(rng: random.Random, decks: Decks) -> set[str]:
    card = _any(rng, decks)
    card["examples"] = [_example(rng, card) for _ in range(rng.randint(1, 3))]
    return set()


def _count(rng: random.Random, decks: Decks) -> set[str]:
    card = _any(rng, decks)
    card["stories"] = rng.choice([n for n in (1, 2, 3) if n != card.get("stories", 2)])
    return {card["id"]}


def _shuffle(rng: random.Random, decks: Decks) -> set[str]:
    rng.shuffle(rng.choice(decks))
    return set()


def _move(rng: random.Random, decks: Decks) -> set[str]:
    source, target = rng.sample(decks, 2)
    if len(source) > 1:
        card = source.pop(rng.randrange(len(source)))
        target.insert(rng.randint(0, len(target)), {**card, "stem": _stem(target)})
    return set()


def _new_id(rng: random.Random, decks: Decks) -> set[str]:
    card = _any(rng, decks)
    old, card["id"] = card["id"], f"moi-{rng.randrange(10**6)}"
    return {old, card["id"]}


def _delete(rng: random.Random, decks: Decks) -> set[str]:
    deck = max(decks, key=len)
    return {deck.pop(rng.randrange(len(deck)))["id"]}


def _add(rng: random.Random, decks: Decks) -> set[str]:
    deck = min(decks, key=len)
    card = {**_card(rng, f"them-{rng.randrange(10**6)}"), "stem": _stem(deck)}
    deck.insert(rng.randint(0, len(deck)), card)
    return {card["id"]}


EDITS: dict[str, Callable[[random.Random, Decks], set[str]]] = {
    "name": _rename,
    "type": _other_type,
    "effect": _other_effect,
    "examples": _examples,
    "count": _count,
    "order": _shuffle,
    "deck": _move,
    "id": _new_id,
    "deleted": _delete,
    "added": _add,
}
"""What an edit is -> what makes it, and returns the ids of the cards whose records it changes."""
