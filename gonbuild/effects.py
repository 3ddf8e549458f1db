"""Owns what a card's effect says and whether a story tells it; knows no filter, setting or report."""

import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from gonbuild.language import fold, sentences
from gonbuild.quantities import CARDS, GAIN, GAIN_OR_MORE, LOSS, POINTS, TURNS, Quantity, quantities, tokens
from gonbuild.records import REGIONS


@dataclass(frozen=True)
class Points:
    """Points gained or lost: by one region, or by whoever the effect names where `region` is empty."""

    value: int
    sign: int
    """1, -1, or 0 where the effect moves points."""
    region: str = ""

    def __str__(self) -> str:
        return f"{self.region} {['', '+', '-'][self.sign]}{self.value} điểm".strip()


@dataclass(frozen=True)
class Effect:
    """What an effect text says, as far as it could be read."""

    text: str
    points: tuple[Points, ...]
    limits: tuple[tuple[str, int], ...]
    """(`trên` or `dưới`, points) of each condition."""
    counts: tuple[tuple[str, int], ...]
    """(unit, number) of cards, turns, regions to choose and effects to block."""
    regions: frozenset[str]
    """Every region that the text names."""
    says: tuple[str, ...]
    """Names of the rules that it states, such as `gấp đôi`."""
    unread: str
    """Words that no rule reads, of which a story is not checked."""


# What an effect may state: a name, how effects word it, and the words of which a story must hold one (all folded).
_RULES: tuple[tuple[str, str, str], ...] = (
    ("gấp đôi", r"(?:gấp|nhân) đôi", r"đôi|gấp (?:hai|2)|nhân (?:hai|2)|(?:hai|2) lần"),
    ("một nửa", r"(?:đi |mất )?một nửa(?: số)?", r"nửa|chia (?:đôi|hai)"),
    ("không bị trừ", r"(?:không|khỏi) bị (?:trừ|mất|bỏ)|không trừ|không mất|bớt",
     r"không|chẳng|khỏi|tránh|thoát|yên|nguyên|miễn|vẹn|chưa|ngoài|chắn|che|an|đỡ|bớt|nhẹ|ít|trừ (?:khi|phi)|qua"),
    ("không được", r"không (?:chơi )?được|không (?:dùng|bên nào)",
     r"không|chẳng|chưa|đừng|thiếu|khỏi|cấm|ngừng|nghỉ|quên|vắng|thôi|hết|yên|im|cất|khóa|dừng|đóng|nhịn|mới|nguyên|bỏ"),
    ("chặn", r"chặn",
     r"chặn|đỡ|cản|che|ngăn|chắn|thoát|tránh|gạt|gỡ|hóa giải|khỏi|khóa|chống|hủy|vô hiệu|không|chẳng|giữ|dừng|trượt|rẽ|"
     r"đẩy|qua|bó tay"),
    ("vô hiệu", r"vô hiệu|mất tác dụng|có tác dụng|hoãn",
     r"vô hiệu|tác dụng|hiệu lực|hủy|vô ích|vô hại|mất|tê liệt|chặn|im|nghỉ|không|chẳng|cản|hoãn|chậm|yên|tắt|ngoài"),
    ("hủy", r"hủy(?: bỏ)?|gỡ|xóa",
     r"hủy|xóa|gỡ|bỏ|loại|vô hiệu|phá|mất|dẹp|hết|tan|gạt|rời|biến|thoát|không|chặn|đẩy|cuốn|rơi"),
    ("rút", r"rút(?: lại| thêm| bài)?|nhận|lấy(?: ngẫu nhiên)?",
     r"rút|bốc|thêm|nhận|lấy|được|cho|tặng|có|cầm|hưởng|lợi|về|trao|giữ|nhặt|nhấc|đón|mời|thưởng|mở"),
    ("bỏ", r"(?<!hủy )(?<!chồng bài )(?<!lá )(?<!buộc )bỏ(?: đi| ngay| hết)?|mất \d+ lá",
     r"bỏ|mất|rơi|vứt|rời|buông|trả|xa|góp|vơi|trôi|bay|hết|cuốn|tuột|gửi|đặt|đổi|đánh|giá|xuống|nhường|rụng|thiệt|tốn|trút|đưa"),
    ("xem", r"(?:xem|nhìn|lật|biết|ngửa)(?: trước| xem)?",
     r"xem|nhìn|lật|biết|ngó|đoán|thấy|hé|liếc|soi|dò|ngắm|đọc|dòm|ngửa|lộ|hiện|mắt|báo|giấu|mở|rõ|nhòm|trước"),
    ("hồi lại", r"hồi(?: lại)?|lấy lại", r"hồi|lấy|nhặt|trở|về|lại|trả|đã|vừa|sống|cứu"),
    ("đối phương", r"đối phương|của họ", r"đối phương|đối thủ|bên|khác|phía|người ta|họ|nhau|bạn kia"),
    ("người chơi khác", r"tất cả người chơi khác", r"khác|còn lại|đối phương|người|ai|các|họ"),
    ("mọi người chơi", r"(?:mỗi|mọi|tất cả) (?:người chơi|bên)(?! khác)|cả hai(?: bên)?|đều|(?<!trên )(?<!cuối )cùng",
     r"mỗi|mọi|tất cả|ai|cả|đều|người|các|cùng|nhau|bên|và"),
    ("cao nhất", r"(?:có )?điểm (?:lớn|cao) nhất|cao (?:điểm )?nhất", r"nhất|đầu"),
    ("thấp nhất", r"thấp (?:điểm )?nhất", r"nhất|cuối|kém"),
    ("Bảo Vệ", r"(?:lá|thẻ|là|có \d+ lá) bảo vệ", r"bảo vệ"),
    ("Cộng Đồng", r"(?:lá |thẻ |là )cộng đồng", r"cộng đồng"),
    ("Thiên Tai", r"(?:lá |thẻ |là )thiên tai", r"thiên tai|sạt lở|sâu|lũ|hạn|bão"),
    ("lượt sau", r"lượt (?:sau|tới|kế tiếp|này)|kế tiếp", r"lượt|kế|tiếp|tới|sau"),
    ("mỗi lượt", r"mỗi lượt", r"mỗi|cứ|từng|lượt nào|liền|đều"),
    ("trừ điểm", r"(?:thiệt hại )?(?:bị )?trừ(?: gấp đôi| điểm)?|điểm (?:bị )?trừ", ""),
    ("cộng điểm", r"(?:các thẻ )?(?:điểm cộng|cộng điểm|được cộng|tính điểm)", ""),
    ("đổi", r"(?:hoán )?đổi(?: chỗ)?|chuyển",
     r"đổi|tráo|thay|chuyển|hoán|trao|chia|san|dời|sang|dắt|nhường|gửi|đưa|nhận|từ"),
    ("xáo", r"xáo(?: lại)?|xếp lại", r"xáo|xếp|sắp|đổi|trộn|tráo|đảo|chung|thứ tự"),
    ("giữ", r"giữ(?: lại| nguyên)?|khóa|bảo vệ(?= \d vùng)|úp|đặt",
     r"giữ|khóa|nguyên|cất|còn|để|yên|đứng|không|chọn|nắm|ở lại|canh|che|úp|đặt|lại|đóng|xuống"),
    ("đánh thêm", r"(?:đánh|chơi|đi) (?:thêm|liền)|mạnh thêm", r"đánh|chơi|đi|thêm|liền|lượt|mạnh|nữa"),
)  # fmt: skip
_WORDINGS = {name: re.compile(rf"\b(?:{wording})\b") for name, wording, _ in _RULES}
_TELLINGS = {name: re.compile(rf"\b(?:{telling})\b") for name, _, telling in _RULES if telling}

# Words of an effect that state nothing by themselves.
_PLAIN = frozenset(
    """cho của trong và cùng được bị mỗi mọi các cả điểm lượt lá thẻ vùng nếu thì họ có bạn chọn nào chỉ thêm trên dưới
    tại ở về nhắm vào bất kỳ hiệu ứng tay bàn chồng bài đã dùng vừa giảm thiệt hại sau đó trước cuối cùng này đến hết
    với chính mình ngoài bản thân đang phải lại rồi ra khi cần tùy ý thứ tự hoặc xấu tất người chơi bên đánh đi ngay
    tăng cộng từ sang giữa hai khác mạnh liền lần ngẫu nhiên kia là cũng lên mất trừ""".split()
)

# What a story may state only where the effect does: the rule, and words that plainly state it.
_STATED = tuple(
    (name, re.compile(rf"\b(?:{wording})\b"))
    for name, wording in (
        ("gấp đôi", r"gấp đôi (?:số )?điểm|điểm (?:\w+ ){0,4}gấp đôi"),
        ("một nửa", r"nửa (?:số )?điểm|(?:điểm|thiệt hại) (?:\w+ ){0,5}một nửa"),
        ("đối phương", r"đối phương|đối thủ"),
        ("Bảo Vệ", r"(?:lá|thẻ) bảo vệ"),
        ("Cộng Đồng", r"(?:lá|thẻ) cộng đồng"),
        ("Thiên Tai", r"(?:lá|thẻ) thiên tai"),
    )
)
_CARD_VERBS = {"rút": "rút", "bốc": "rút", "bỏ": "bỏ", "vứt": "bỏ", "xem": "xem"}
_TURN_LOST = re.compile(r"\bmất (?:một |1 )?lượt\b")
_GAME_WORD = re.compile(r"\b(?:điểm|lá|thẻ|bài|lượt|vùng|hiệu ứng)\b")


@lru_cache(maxsize=4096)
def read_effect(text: str) -> Effect:
    """Reads an effect text into facts; case, spaces after a sign and tone placement do not matter."""
    joined = re.sub(r"([+\-−–])\s+(?=\d)", r"\1", text)
    found = quantities(joined)
    points = [q for q in found if q.unit == POINTS]
    flat = " ".join(tokens(joined)).lower()
    return Effect(
        text,
        tuple(Points(q.value, q.sign, r) for q in points if not q.limit for r in (sorted(q.regions) or [""])),
        tuple((q.limit, q.value) for q in points if q.limit),
        tuple((q.unit, q.value) for q in found if q.unit != POINTS),
        frozenset(t for t in tokens(joined) if t in REGIONS),
        tuple(name for name, wording in _WORDINGS.items() if wording.search(flat)),
        _unread(flat, found),
    )


@lru_cache(maxsize=4096)
def form_of(text: str) -> str:
    """Returns an effect text without its numbers and regions, in one spelling: `+n điểm vùng, +n điểm vùng`."""
    form = re.sub(rf"\b(?:{'|'.join(REGIONS)})\b", "vùng", unicodedata.normalize("NFC", text)).lower().rstrip(". ")
    form = re.sub(r"\d+", "n", re.sub(r"([+-])\s+(?=\d)", r"\1", form))
    return re.sub(r"[.,] (?=[+-])", ", ", form.replace("điểm cho vùng", "điểm vùng"))


def tell(story: str, effect: Effect) -> tuple[str, ...]:
    """Returns the reasons why a story does not tell an effect, none where it does.

    Numbers may be words and a 1 may go unsaid; what is gained or lost, and by which region, must not differ.
    """
    found = quantities(story)
    return (*dict.fromkeys((*_foreign(story, found, effect), *_missing(story, found, effect))),)


def _unread(flat: str, found: list[Quantity]) -> str:
    words = flat.split(" ")
    read = {i for q in found for i in range(q.start, q.end)}
    spaces = [i for i, char in enumerate(flat) if char == " "]
    for wording in _WORDINGS.values():
        for match in wording.finditer(flat):
            first = bisect_left(spaces, match.start())
            read.update(range(first, first + match[0].count(" ") + 1))
    known = _PLAIN | {r.lower() for r in REGIONS}
    return " ".join(w for i, w in enumerate(words) if i not in read and w[:1].isalnum() and w not in known)


def _foreign(story: str, found: list[Quantity], effect: Effect) -> Iterator[str]:
    """Yields what the story says and the effect does not."""
    words = [t.lower() for t in tokens(story)]
    for q in found:
        if q.unit == POINTS:
            if not _stated(q, effect):
                yield f"says {q}, wanted {', '.join(map(str, effect.points)) or 'no points'}"
        elif q.digits and (q.unit, q.value) not in effect.counts and (q.value != 1 or q.unit == CARDS):
            yield f"says {q}, which the effect does not"
        if q.unit == CARDS:
            verb = next((w for w in reversed(words[max(q.start - 2, 0) : q.start]) if w in _CARD_VERBS or w == ","), "")
            if _CARD_VERBS.get(verb, verb) in ("rút", "bỏ", "xem") and not _may(verb, q, effect):
                yield f"says '{verb} {q}', which the effect does not"
    told = Counter(q.value for q in found if q.unit == POINTS and q.digits)
    wanted = Counter([*(fact.value for fact in effect.points), *(value for _, value in effect.limits)])
    yield from (f"says {value} điểm {n} times" for value, n in told.items() if n > max(wanted[value], 1))
    folded = fold(story)
    for name, wording in _STATED:
        if name not in effect.says and (stated := wording.search(folded)):
            yield f"says '{stated[0]}', which the effect does not"
    if TURNS not in dict(effect.counts) and (lost := _TURN_LOST.search(folded)):
        yield f"says '{lost[0]}', which the effect does not"


def _missing(story: str, found: list[Quantity], effect: Effect) -> Iterator[str]:
    """Yields what the effect says and the story does not."""
    as_written = tokens(story)
    words = [t.lower() for t in as_written]
    scored = {fact.region for fact in effect.points}
    # A lower-case `rừng` may have points bound to it; without points it is nature.
    named = {r for r in REGIONS if r in as_written or (r in scored and r.lower() in words)}
    unnamed = [r for r in REGIONS if r in effect.regions - named]
    yield from (f"does not name {region}" for region in unnamed)
    for fact in effect.points:
        told = any(q.unit == POINTS and _fits(q, fact, effect) for q in found) or _implied(fact, words)
        if not told and fact.region not in unnamed:
            yield f"does not say {fact}"
    for kind, value in effect.limits:
        if not any(q.limit == kind and q.value == value for q in found):
            yield f"does not say {kind} {value} điểm"
    counted = {i for q in found for i in range(q.start, q.end)}
    for unit, value in effect.counts:
        alone = any(w == str(value) and i not in counted for i, w in enumerate(words))
        implied = value == 1 and (unit.split()[0] in words or (unit == CARDS and {"thẻ", "bài"} & set(words)))
        if not (alone or implied or any((q.unit, q.value) == (unit, value) for q in found)):
            yield f"does not say {value} {unit}"
    played = " ".join(s for s in map(fold, sentences(story)) if _GAME_WORD.search(s))
    for name in effect.says:
        if name in _TELLINGS and not _TELLINGS[name].search(played):
            yield f"does not say '{name}'"


def _may(verb: str, q: Quantity, effect: Effect) -> bool:
    """Says whether an effect allows `rút 2 lá` and the like; number words also count other things."""
    rule = _CARD_VERBS[verb]
    if not q.digits and CARDS not in dict(effect.counts):
        return True
    return rule in effect.says or (rule == "bỏ" and "hủy" in effect.says)


def _fits(q: Quantity, fact: Points, effect: Effect) -> bool:
    """Says whether a number of points in a story may be this fact of the effect."""
    if q.value != fact.value or q.sign * fact.sign < 0:
        return False
    if fact.region:
        return not q.regions or fact.region in q.regions
    return not q.regions or q.aimed or q.regions <= effect.regions or len(q.regions) == len(REGIONS)


def _stated(q: Quantity, effect: Effect) -> bool:
    """Says whether a number of points is the effect's, for each region that the story gives it to."""
    if (q.limit, q.value) in effect.limits:
        return True
    alike = {fact.region for fact in effect.points if fact.value == q.value and q.sign * fact.sign >= 0}
    return ("" in alike or q.regions <= alike) and any(_fits(q, fact, effect) for fact in effect.points)


def _implied(fact: Points, words: list[str]) -> bool:
    """Says whether a single point is told without its number: `Rừng được thêm điểm`."""
    verbs = GAIN | GAIN_OR_MORE if fact.sign > 0 else LOSS
    return fact.value == 1 and any(a in verbs and b == "điểm" for a, b in pairwise(words))
