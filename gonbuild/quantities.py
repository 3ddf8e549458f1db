"""Owns how numbers are read in Vietnamese game text: how many of what, gained or lost, by whom; judges nothing."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from gonbuild.language import place_tones
from gonbuild.records import REGIONS

POINTS, CARDS, TURNS, ZONES, EFFECTS = "điểm", "lá", "lượt", "vùng", "hiệu ứng"

_UNITS = {"điểm": POINTS, "lá": CARDS, "thẻ": CARDS, "lượt": TURNS, "vùng": ZONES, "hiệu": EFFECTS}


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBERS = dict(zip("không một hai ba bốn năm sáu bảy tám chín mười".split(), range(11), strict=True))
_TENS = {"mươi": 0, "lăm": 5, "mốt": 1, "trăm": 100}
_FILLERS = _set("tấm số quân hẳn luôn trọn")
_NO_POINTS = _set("trường hẹn đến dừng nóng tựa mười du bán thu cầu tập đen gom đỗ")

GAIN = _set("tăng cộng thưởng tặng biếu hồi lời lãi hơn")
GAIN_OR_MORE = _set("thêm được lên nhận có cho góp về")
LOSS = _set("mất trừ giảm hao hụt tụt sụt bớt rơi rớt rụng thiệt lùi vơi khuyết thua phạt thiếu kém xuống nộp nghèo")
_NOT = _set("không chẳng chả khỏi chưa đừng đâu")

_OVER = _set("trên hơn quá vượt")
_UNDER = _set("dưới")
_TO = _set("cho của ở tại vào về tới đến lên với sang trên phía vùng cả nơi bên tặng")
_AND = _set("và với cùng lẫn cả hay hoặc , hai vùng cũng như")
_BREAK = _set("và còn rồi nhưng mà thì nên vì khi nhờ do bởi nếu để chứ")
_OTHERS = _set("vùng phương thủ chơi họ bạn bên ai kẻ nhà người mình")
_ENDS = _set(". ! ? … ;")

MOST_DIGITS = 18
"""Of a number that is read; Python refuses to read one of some thousand."""
_TOKEN = re.compile(r"(?:(?<![\w)])(?:\+\s?|[-−–]))?\d+(?:[.,]\d+)?|[^\W\d_]+|[.!?…;:,\"“”()]")


@dataclass(frozen=True)
class Quantity:
    """A number of something in a text."""

    unit: str
    value: int
    """Without sign; -1 for a number that is not whole, or too long to be one of a game."""
    sign: int = 0
    """Of points: 1 gained, -1 lost, 0 where no word says it."""
    regions: frozenset[str] = frozenset()
    """Of points: whose they are."""
    aimed: bool = False
    """Whether the sentence, from this clause on, names another target than a region, such as a player."""
    limit: str = ""
    """`trên` or `dưới` where the number is a condition."""
    digits: bool = True
    """False for number words, which also count other things."""
    start: int = 0
    """Index of its first token, `end` that after its last."""
    end: int = 0

    def __str__(self) -> str:
        if self.unit != POINTS or self.limit:
            return f"{self.limit} {self.value} {self.unit}".strip()
        value = "?" if self.value < 0 else self.value
        return f"{' và '.join(r for r in REGIONS if r in self.regions)} {['', '+', '-'][self.sign]}{value} điểm".strip()


def tokens(text: str) -> list[str]:
    """Splits NFC text into words, numbers (with a sign that stands at them) and marks; tone placement is unified."""
    return _TOKEN.findall(place_tones(text))


def quantities(text: str) -> list[Quantity]:
    """Reads every number of points, cards, turns, regions and effects, in order."""
    toks = tokens(text)
    low = [t.lower() for t in toks]
    marks = _Marks.of(low)
    found: list[Quantity] = []
    free = 0  # what stands before it is bound to an earlier number of points
    for q in _numbers(low):
        if q.unit == POINTS:
            q = replace(q, sign=q.sign or _sign(low, marks, q, found), limit=_limit(low, q))
            q, free = _aim(toks, low, marks, q, free)
        found.append(q)
    return found


@dataclass(frozen=True)
class _Marks:
    """Where sentences and clauses start and end, read once: a text may hold numbers without end."""

    sentence: list[int]
    """For each token: the first one of its sentence."""
    clause: list[int]
    """For each token: the first one after the last mark before it that parts clauses, `:` too."""
    comma: list[int]
    """For each token: the one after the last comma before it, 0 where there is none."""
    end: list[int]
    """For each token: the next mark at or after it that ends a sentence."""
    others: list[int]
    """For each token: how many before it name a target that is no region."""
    mourns: int
    """The first `giá`."""

    @classmethod
    def of(cls, low: list[str]) -> "_Marks":
        """Reads the marks of a text's tokens; each list has one place more, for what stands after the last."""

        def after(marks: Collection[str]) -> list[int]:
            return [*accumulate((i if w in marks else 0 for i, w in enumerate(low, 1)), max, initial=0)]

        back = accumulate(
            (i if low[i] in _ENDS else len(low) for i in reversed(range(len(low)))), min, initial=len(low)
        )
        return cls(
            sentence=after(_ENDS),
            clause=after({*_ENDS, ",", ":"}),
            comma=after(","),
            end=[*back][::-1],
            others=[*accumulate((w in _OTHERS for w in low), initial=0)],
            mourns=low.index("giá") if "giá" in low else len(low),
        )


def _numbers(low: list[str]) -> Iterator[Quantity]:
    i = 0
    while i < len(low):
        value, sign, after = _number(low, i)
        if after == i:
            i += 1
            continue
        digits = low[i][-1].isdigit()
        if i and low[i - 1] in ("gấp", "nhân"):
            i = after
            continue
        unit_at = after
        while unit_at < min(after + 2, len(low)) and low[unit_at] in _FILLERS:
            unit_at += 1
        unit = _UNITS.get(low[unit_at], "") if unit_at < len(low) else ""
        end = unit_at + (2 if unit == EFFECTS else 1)
        if not unit and digits and (sign or _bare_points(low, i, after)):
            unit, end = POINTS, after
        following = low[unit_at + 1] if unit_at + 1 < len(low) else ""
        if unit and not (unit == POINTS and not digits and following in _NO_POINTS):
            yield Quantity(unit, value, sign, digits=digits, start=i, end=end)
        i = max(after, i + 1)


def _number(low: list[str], i: int) -> tuple[int, int, int]:
    """Returns (value, sign, index after it) of the number at token i; the index is i where there is none."""
    token = low[i]
    if token[-1].isdigit():
        sign = 1 if token[0] == "+" else -1 if token[0] in "-−–" else 0
        bare = token.lstrip("+-−– ")
        whole = bare.isdecimal() and len(bare) <= MOST_DIGITS
        return (int(bare) if whole else -1), sign, i + 1
    words: list[str] = []
    while i + len(words) < len(low) and low[i + len(words)] in (_NUMBERS.keys() | _TENS.keys()):
        words.append(low[i + len(words)])
    if not words or words[0] not in _NUMBERS:
        return 0, 0, i
    if len(words) == 1:
        return _NUMBERS[words[0]], 0, i + 1
    tens = 10 if words[0] == "mười" else 10 * _NUMBERS[words[0]]
    return tens + (_TENS | _NUMBERS)[words[-1]], 0, i + len(words)


def _bare_points(low: list[str], i: int, after: int) -> bool:
    """Says whether a number without a noun counts points: `bị trừ 2.`, `cộng 1 cho Rừng`."""
    follows = low[after] if after < len(low) else "."
    return (follows in _ENDS | _BREAK | {",", "cho", ":"}) and any(w in GAIN | LOSS for w in low[max(i - 2, 0) : i])


def _sign(low: list[str], marks: _Marks, q: Quantity, earlier: list[Quantity]) -> int:
    """Reads gain or loss from the words before the number, those after it, or the number that it is joined to."""
    first = max(marks.clause[q.start], earlier[-1].end if earlier else 0)
    more = 0  # the place of a word like `thêm`, which tells a gain unless a loss stands right before it
    for i in range(q.start - 1, first - 1, -1):
        if more and more - i > 3:
            break
        if sign := _turn(low, i, q, first):
            return -sign if _denied(low, marks, i, first) else sign
        if low[i] in GAIN_OR_MORE and q.start - i <= 5:
            more = i
    if more:
        return -1 if _denied(low, marks, more, first) else 1
    for i in range(q.end, min(q.end + 4, len(low))):
        if low[i] in _ENDS or low[i] in _BREAK or low[i] in (",", "vừa", "đã") or low[i][-1].isdigit():
            break
        if sign := _turn(low, i, q, first):
            return sign
    joined = low[earlier[-1].end : q.start] if earlier and earlier[-1].unit == POINTS else ["."]
    regions = {r.lower() for r in REGIONS}
    return earlier[-1].sign if all(w in _AND or w in _TO or w in regions for w in joined) else 0


def _turn(low: list[str], i: int, q: Quantity, first: int) -> int:
    """Returns 1 for a word of gain, -1 for one of loss, 0 in `trừ điểm` and `bớt khói`, which are about no number."""
    general = i < q.start and (low[i + 1] == "điểm" or (i > first and low[i - 1] == "điểm"))
    if general or (low[i] == "bớt" and abs(q.start - i) > 2):
        return 0
    return (low[i] in GAIN) - (low[i] in LOSS)


def _denied(low: list[str], marks: _Marks, i: int, first: int) -> bool:
    """Says whether a gain or loss is denied; `giá ... thì đã không mất` mourns a loss that happened."""
    before = low[max(first, i - 2) : i]
    if before and before[-1] in ("bị", "còn", "hề", "phải", "được", "có"):
        before.pop()
    return bool(before) and before[-1] in _NOT and marks.mourns >= i


def _limit(low: list[str], q: Quantity) -> str:
    before = low[max(q.start - 2, 0) : q.start]
    if any(w in _OVER for w in before):
        return "trên"
    under = any(w in _UNDER for w in before) or before in (["chưa", "đầy"], ["chưa", "tới"], ["chưa", "đến"])
    return "dưới" if under else ""


def _aim(toks: list[str], low: list[str], marks: _Marks, q: Quantity, free: int) -> tuple[Quantity, int]:
    """Binds a number of points to its regions; returns it with the index up to which words are now spoken for."""
    first = max(free, marks.sentence[q.start])
    last = marks.end[q.end]
    aimed = marks.others[last] > marks.others[max(first, marks.comma[q.start])]
    regions, end = _after(toks, low, q, last)
    regions = regions or _close(toks, q.start, first) or _before(toks, q.start, first)
    return replace(q, regions=frozenset(regions), aimed=aimed), max(q.end, end)


def _after(toks: list[str], low: list[str], q: Quantity, last: int) -> tuple[list[str], int]:
    """Finds `2 điểm Rừng`, `2 điểm cho Rừng`, `1 điểm cho cả Rừng và Sông`."""
    for i in range(q.end, min(q.end + 6, last)):
        if toks[i] in REGIONS and (i == q.end or low[i - 1] in _TO):
            regions, end = [toks[i]], i + 1
            more = i + 1
            while more < last and (low[more] in _AND or toks[more] in REGIONS):
                if toks[more] in REGIONS:
                    if any(t[-1].isdigit() for t in low[more + 1 : min(more + 8, last)]):
                        break
                    regions, end = [*regions, toks[more]], more + 1
                more += 1
            return regions, end
        if low[i] in _BREAK or not toks[i][0].isalpha():
            break
    return [], 0


def _before(toks: list[str], start: int, first: int) -> list[str]:
    """Finds the nearest run of regions before a number: `Rừng và Sông mỗi nơi tăng 1 điểm`."""
    regions: list[str] = []
    for i in range(start - 1, first - 1, -1):
        if toks[i] in REGIONS:
            regions.append(toks[i])
        elif regions and toks[i].lower() not in _AND:
            break
    return regions


def _close(toks: list[str], start: int, first: int) -> list[str]:
    """Finds a lower-case region that only gain and loss words part from the number: `sông tăng 2 điểm`."""
    for token in reversed(toks[max(first, start - 5) : start]):
        if token.islower() and token.capitalize() in REGIONS:
            return [token.capitalize()]
        if token not in GAIN | GAIN_OR_MORE | LOSS | {"bị", "cũng", "liền"}:
            break
    return []
