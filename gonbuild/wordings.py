"""Owns words that may stand for each other in a story: tables of synonyms, people, times and places, and the exchange.

It knows no card's effect: whether a story still tells it, the caller asks. Each entry was held against the stories of
`cards/examples`; a word that also means something else there has the neighbours that forbid it, or is left out.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from gonbuild.records import REGIONS

PROPER = "[A-ZĐÂĂÊÔƠƯÁÀÍÓÚÝ]"
"""Begins a name, so that "bờ sông Hương" stays where it is."""


@dataclass(frozen=True)
class Exchange:
    """Words of which one may stand for another; what forbids it are regular expressions."""

    words: tuple[str, ...]
    becomes: tuple[str, ...] = ()
    """What the words become where the way back is not safe; else one of the other words."""
    before: str = ""
    """No such word right before it."""
    after: str = ""
    """Nothing such right after it."""
    unless: str = ""
    """Nothing such in the story, in any case."""


def _both(*words: str, before: str = "", after: str = "", unless: str = "") -> Exchange:
    return Exchange(words, (), before, after, unless)


def _way(old: str, new: str, before: str = "", after: str = "", unless: str = "") -> Exchange:
    return Exchange((old,), (new,), before, after, unless)


_TOWN = "phố|đô thị|chung cư|ngõ|hẻm|khu|bản|buôn|chợ|đảo"
SYNONYMS = (
    _both("mưa to", "mưa lớn", before="che|gió|lớn|to", after="gió|hay|lên|hơn|dần|thành"),
    _both("cơn mưa", "trận mưa"),
    _both("cơn bão", "trận bão"),
    _both("suốt đêm", "cả đêm", before="sáng|ướt|Cả|nên", after="lẫn|ngày|đêm|hè|đông"),
    _both(
        "suốt ngày",
        "cả ngày",
        before="sáng|mất|hết|nửa|chơi|trong",
        after="đêm|lẫn|hội|hè|xuân|đông|nắng|mưa|thật|chủ|nghỉ|lễ|tết|tháng",
    ),
    _both("chẳng ai", "không ai"),
    _both("chẳng còn", "không còn", before="hay"),
    _way("làm ngơ", "ngó lơ", after="cho|đi|với|như"),
    _way("xả rác", "vứt rác", after="thải|nhựa"),
    _both("túi nhựa", "túi ni lông", unless="nhựa.*nhựa|giảm nhựa|đồ nhựa"),
    _way(
        "nhặt rác", "gom rác", before="biết|thi|buổi|đội|nhóm", after="bỏ|tràn|của|trả|nhựa|vứt|rơi", unless="gom|chim"
    ),
    _both("cây con", "cây non", before="rừng|đồi|mầm|giống|cành|chồi|mấy", after="giống|trẻ|cây|nào|của|con"),
    _way("cây to", "cây lớn", after="lẫn|cây|lên|nhất|dần|và|hơn|mọc|bằng|cỡ", unless="lớn"),
    _both("đem về", "mang về", after="đâu"),
    _both("đem theo", "mang theo"),
    _way("về làm tổ", "về xây tổ"),
    _way("chỗ làm tổ", "chỗ xây tổ"),
    _both("trong veo", "trong vắt", before="trời|tiếng|mắt"),
    _both("chăm chỉ", "siêng năng"),
    _both("dòng sông", "con sông", before="giữa|lòng|khúc|vai|dưới"),
    _both("dòng suối", "con suối", before="giữa|lòng|khúc|vai|dưới"),
    _both("ngôi nhà", "căn nhà"),
    _way("nhà nào cũng", "nhà nhà đều", before="không|ở|của|cho|với", unless="đều|từng nhà"),
    _way(
        "ai cũng",
        "mọi người đều",
        before="không|chẳng|gặp|hỏi|cho|với|của|là|làm",
        after="một|vậy|thế",
        unless="người|đều|mọi",
    ),
    _both("nhờ vậy", "nhờ thế", "nhờ đó", before="cũng"),
    _both("vì vậy", "vì thế"),
    _both("thế là", "vậy là", after="cùng|đủ|hết|xong"),
    _both("chạy đến", "chạy tới"),
    _both("bay đến", "bay tới"),
    _both("nhìn thấy", "trông thấy"),
    _both("trẻ em", "trẻ nhỏ", before="quyền|hội|áo|xe|chơi|đồ", unless="nhỏ.*trẻ|trẻ em.*(nhỏ|trẻ)|em bé"),
    _both("các bạn nhỏ", "các em nhỏ", unless="các bạn(?! nhỏ)|các em(?! nhỏ)|mấy bạn|em bé"),
    _both("tươi tốt", "xanh tốt", "xanh mướt", after="mắt"),
    _both("bên đường", "ven đường", after=f"sắt|ray|kia|{PROPER}"),
    _both("bìa rừng", "ven rừng", before="khắp|cả", after=f"ngập|tràm|đước|phòng|{PROPER}"),
    _both("ngoài đồng", "ngoài ruộng", after=f"cỏ|muối|bằng|hoang|{PROPER}", unless="ruộng.*đồng|đồng.*ruộng"),
    _both("quay về", "trở về", before="dùng|cũ|sẽ", after="phía|với|phục|đủ|đúng|thành|giữ|tay|như", unless="lá"),
    _way("rất nhanh", "thật nhanh", after="chóng"),
    _way("mùa hạn", "mùa khô", after="hán|mặn", unless="khô"),
    _way("hàng xóm", "láng giềng"),
    _way("kẻ xấu", "kẻ gian", after="bụng|xa|tính"),
    _way("rủ nhau", "cùng nhau", after="trốn|lười|thách", unless="cùng"),
    _both("nhắc nhau", "bảo nhau", before="dạy|khuyên"),
    _both("sạch bóng", "sạch bong", after="rác|kẻ|chai|người|túi|nhựa|cỏ"),
    _both(
        "bà con",
        "dân làng",
        after="nông|ngư|bản|trong|ngoài|xóm|làng|vùng|ven|trên|dưới|miền|ở|bà|hai|ba|nghèo",
        unless=f"{_TOWN}|xóm|thôn|con bà|dân",
    ),
    *(_way(f"mặc kệ {what}", f"bỏ mặc {what}") for what in "cây con vườn ruộng nương dòng kênh suối bãi".split()),
    *(_way(f"khiến {region}", f"làm {region}", unless="làm") for region in REGIONS),
)
"""Said in other words. A pair that stands in an effect or a card's name stays as it is."""

_ORDINALS = ("Hai", "Ba", "Tư", "Năm", "Sáu", "Bảy", "Tám", "Chín")
_GIRL_OR_BOY = "cô bé|cậu|con gái|con trai|bé gái|bé trai|chị em|anh em|váy|tóc|nàng|cu "
_LIGHT = (
    "trưa|tối|đêm|hôm|sương|bình minh|hoàng hôn|mặt trời|tan|sớm|muộn|nắng|gà|học|trường|chợ|ngày|lửa|trăng|biển|triều"
)
ACTORS = (
    _both("bé Na", "bé Tí", "bé An", "bé Bông", unless=_GIRL_OR_BOY),
    _both("bà nội", "bà ngoại"),
    _both("ông nội", "ông ngoại"),
    _both("cô giáo", "thầy giáo", after="làng|hưu|cũ", unless="mầm non|áo dài|tóc|con gái|chồng|vợ"),
    _both("chú kiểm lâm", "bác kiểm lâm", "anh kiểm lâm"),
    _both("bác nông dân", "chú nông dân", "cô nông dân"),
    _both("bác ngư dân", "chú ngư dân"),
    _both("chú thợ", "bác thợ"),
    _both("cô bán", "bác bán"),
    _both("bác bảo vệ", "chú bảo vệ"),
    _both("bác trưởng thôn", "chú trưởng thôn", "cô trưởng thôn"),
    _both("cô lao công", "bác lao công", "chú lao công"),
    _both("bác lái đò", "chú lái đò", "ông lái đò"),
    *(
        _both(*(f"{head} {name}" for name in _ORDINALS), before="mẹ con|vợ chồng", after=PROPER)
        for head in ("bác", "chú", "cô", "bà", "ông")
    ),
)
"""People: what differs between the two stands nowhere else in the story, so that pronouns agree."""

PLACES = (
    *(_both(f"đầu {place}", f"cuối {place}", after=PROPER) for place in ("làng", "xóm", "ngõ", "bản", "thôn")),
    *(
        _both(f"{where} đồi", f"{where} núi", after=f"(?!không|bị|để|được|vào|và|cùng|mà|từ|xuống|thì)\\w|{PROPER}")
        for where in ("trên", "lên", "chân", "sườn", "đỉnh", "ngọn")
    ),
    *(
        _both(
            f"{where} sông",
            f"{where} kênh",
            after=PROPER,
            unless="núi|đồi|rừng|bản|nương|thác|biển|bến|đò|phà|tàu|thuyền|bè|lũ|đê|bồi|cửa|suối",
        )
        for where in ("bờ", "ven")
    ),
    _both(
        "sau nhà",
        "trước nhà",
        after=f"văn|máy|bếp|kho|sàn|hàng|thờ|dân|trường|trẻ|vệ|ga|hát|mình|{PROPER}",
    ),
    _both("góc sân", "góc vườn", after=f"trường|trũng|đình|chơi|trồng|cam|ẩm|đồi|bỏ|{PROPER}"),
    _both("ngoài ngõ", "ngoài sân", after=f"trường|đình|bóng|ga|{PROPER}", unless="xe|đường|đình|trường|phơi"),
    _both("trong xóm", "trong làng", after=f"chài|núi|trọ|{PROPER}", unless=_TOWN),
    _both("cả xóm", "cả làng", after=f"trên|dưới|chài|núi|đạo|trọ|nghề|{PROPER}", unless=_TOWN),
    _both("sân đình", "sân nhà văn hóa", after=f"làng|{PROPER}", unless="hội|cây đa|chuông|trống|tế"),
    _both("buổi sáng", "buổi chiều", before="nửa|xe|tới|bàn", after="sớm|muộn|chủ|thứ", unless=_LIGHT),
    _both("mỗi sáng", "mỗi chiều", after="sớm|muộn|chủ|thứ|hai|thu", unless=_LIGHT),
    _both("chủ nhật", "thứ bảy", unless="trường|lớp|học|tuần|đình"),
)
"""Where and when: the region that scores stays, since its own name is written with a capital."""


def exchange(name: str, story: str, table: Iterable[Exchange], rng: random.Random, *, alone: bool = False) -> str:
    """Exchanges the words of one entry of a table, throughout the story; without any that fits, it stays as it is.

    Words of the card's name stay. With `alone`, syllables in which the two differ must stand nowhere else in the story.
    """
    found = [(old, new) for entry in table for old, new in _fitting(entry, name, story, alone=alone)]
    if not found:
        return story
    old, new = rng.choice(found)
    return _pattern(old).sub(lambda m: (new[0].upper() if m[0][0].isupper() else new[0]) + new[1:], story)


def _fitting(entry: Exchange, name: str, story: str, *, alone: bool) -> Iterable[tuple[str, str]]:
    lower = story.lower()
    if not any(word.lower() in lower for word in entry.words):
        return
    if entry.unless and re.search(rf"\b(?:{entry.unless})", lower):
        return
    guarded = rf"(?<!\w)(?:{entry.before}) \Z" if entry.before else r"(?!)"
    for old in entry.words:
        uses = list(_pattern(old).finditer(story))
        if not uses or old.lower() in name.lower():
            continue
        if any(re.search(guarded, story[: m.start()], re.IGNORECASE) for m in uses):
            continue
        if entry.after and any(re.match(rf" (?:{entry.after})", story[m.end() :]) for m in uses):
            continue
        for new in entry.becomes or [word for word in entry.words if word != old]:
            if new.lower() not in lower and (not alone or _differ_here_alone(old, new, story, len(uses))):
                yield old, new


def _differ_here_alone(old: str, new: str, story: str, uses: int) -> bool:
    """Tells whether what differs stands nowhere but in the old words; a region's name counts as no such word."""
    mine, other = old.split(), new.split()

    def count(syllable: str) -> int:
        forms = {syllable, syllable.capitalize(), syllable.lower()} - {*REGIONS}
        return sum(len(re.findall(rf"\b{form}\b", story)) for form in forms)

    return all(count(s) == uses for s in mine if s not in other) and not any(count(s) for s in other if s not in mine)


def _pattern(words: str) -> re.Pattern[str]:
    """Finds words in a sentence or at its start, names with their capital."""
    return re.compile(rf"\b[{words[0].upper()}{words[0]}]{words[1:]}\b")


_FIRST = {
    word.lower(): min(e.words + e.becomes).lower()
    for e in (*ACTORS, *PLACES, *SYNONYMS)
    for word in e.words + e.becomes
}
_ANY = re.compile(r"(?=(\b(?:" + "|".join(sorted(_FIRST, key=lambda w: (-len(w), w))) + r")\b|\d+))")
"""Finds the words of every entry and numbers; in `cơn mưa lớn` two entries share a word, and both are found."""


def trace(story: str) -> str:
    """Returns what a story and its copies with other numbers and words have in common, to compare them by."""
    lower, parts, end = story.lower(), [], 0
    for m in _ANY.finditer(lower):
        if m.end(1) > end:
            parts += [lower[end : m.start()], _FIRST.get(m[1], "0")]
            end = m.end(1)
    return "".join([*parts, lower[end:]])
