"""Owns changes of a story's clauses: their order, and details of nature that are added; exchanges no word.

It knows no card's effect: whether a story still tells it, the caller asks.
"""

import random
import re
from collections.abc import Iterator

from gonbuild.language import sentences, words

MOST_WORDS, MOST_SENTENCES = 40, 2
"""What the filters take by default; a detail does not make a story longer."""

_GAIN, _LOSS = "tăng|được cộng|thêm", "bị trừ|mất|giảm"
_POINTS = rf"(?:Rừng|Sông|Đất|Làng) (?:{_GAIN}|{_LOSS}) \d+ điểm"
_EFFECT = rf"{_POINTS}(?:(?:, | và |, và ){_POINTS})*"
_CAUSED = re.compile(rf"({_EFFECT}) (nhờ|vì|khi) ([^.,;:!?]+)\.")
_CAUSING = re.compile(rf"(?:(Nhờ|Khi) ([^.,;:!?]+), |(Vì) ([^.,;:!?]+?),? nên )({_EFFECT})\.")
# What no cause that moves to the front may hold: another cause, a number, words that point back.
_TANGLED = re.compile(r"\b(?:nhờ|vì|khi|nên|mà|thì|điểm|\d+|vậy|thế|đó|ấy|này|kia|nó|họ|chúng|lại|nữa|cũng|vẫn)\b")
# A sentence that holds one of these leans on the one before it.
_LEANING = re.compile(
    r"\b(?:nó|họ|chúng|mình|em|cậu|đó|đấy|ấy|này|kia|vậy|thế|nay|lại|nữa|vẫn|cũng|còn|rồi|mới|hơn|cả hai|theo|khác|"
    r"xong|bèn|liền|đã|dần|hết|nhưng|từ|sau|trước|nên|nhờ|vì|khiến|điểm|lượt|lá|bạn|giờ|được|bị|kịp|bên|ai|trong|ngoài|"
    r"dưới|trên|quanh|mỗi|từng|sẽ|bà|ông|bé|cô|bác|chú|thầy|mẹ|bố|ít|nhiều|tiếp|tất cả|cùng|chỉ|đều|mất|thay|ra|về)\b"
)
_TIMES = {
    "Mùa khô": "vào mùa khô",
    "Mùa mưa": "vào mùa mưa",
    "Cuối tuần": "vào cuối tuần",
    "Chủ nhật": "vào chủ nhật",
    "Giờ ra chơi": "vào giờ ra chơi",
    "Mỗi sáng": "mỗi sáng",
    "Mỗi chiều": "mỗi chiều",
    "Mỗi tuần": "mỗi tuần",
    "Sau mưa": "sau mưa",
    "Sau bão": "sau bão",
    "Sau lũ": "sau lũ",
    "Sau mùa gặt": "sau mùa gặt",
    "Cuối năm": "vào cuối năm",
    "Đầu xuân": "vào đầu xuân",
    "Tan học": "sau giờ tan học",
}
_STARTS = re.compile(
    r"(?:Bé|Bà|Ông|Cô|Chú|Bác|Thầy|Mẹ|Bố|Anh|Chị|Dân|Học|Các|Cả|Đội|Tổ|Lớp|Nhà|Người|Trẻ|Nhiều|Mấy|Hai|Ba)\b"
)
_JOINS = re.compile(r"[,;:]|\b(?:nên|vì|nhờ|khiến|để|mà|khi|thì|điểm|lượt|lá|rồi|là|từ|sau|trước|\d+)\b")


def reorder(story: str, rng: random.Random) -> str:
    """Puts a cause, a time or a whole sentence at another place, where nothing in the story leans on the old order."""
    found = sorted({*_causes_moved(story), *_times_moved(story), *_sentences_exchanged(story)} - {story})
    return rng.choice(found) if found else story


def _causes_moved(story: str) -> Iterator[str]:
    """Yields "Sông tăng 2 điểm nhờ X." as "Nhờ X, Sông tăng 2 điểm." and back."""
    for told in sentences(story):
        if (m := _CAUSED.fullmatch(told)) and not _TANGLED.search(m[3]):
            join = " nên" if m[2] == "vì" else ","
            yield story.replace(told, f"{m[2].capitalize()} {_inside(m[3])}{join} {m[1]}.")
        if m := _CAUSING.fullmatch(told):
            word, cause = m[1] or m[3], m[2] or m[4]
            if not _TANGLED.search(cause):
                yield story.replace(told, f"{m[5]} {word.lower()} {cause}.")


def _times_moved(story: str) -> Iterator[str]:
    """Yields "Mỗi sáng, chú Tư vớt rác." as "Chú Tư vớt rác mỗi sáng." and back, in sentences of one clause."""
    for told in sentences(story):
        for front, end in _TIMES.items():
            if told.startswith(f"{front}, ") and not _JOINS.search(rest := told[len(front) + 2 : -1]):
                if " vào " in rest:  # "vào tận sân vào mùa khô"
                    continue
                yield story.replace(told, f"{rest[0].upper()}{rest[1:]} {end}.")
            if told.endswith(f" {end}.") and _STARTS.match(told) and not _JOINS.search(rest := told[: -len(end) - 2]):
                yield story.replace(told, f"{front}, {_inside(rest)}.")


def _sentences_exchanged(story: str) -> Iterator[str]:
    """Yields the two sentences of a story in the other order: one tells effect and cause, one a scene of its own."""
    told = sentences(story)
    if len(told) != MOST_SENTENCES or story != " ".join(told):
        return
    for effect, scene in (told, told[::-1]):
        m = _CAUSED.fullmatch(effect)
        if m and not _TANGLED.search(m[3]) and not _LEANING.search(scene.lower()):
            yield " ".join(told[::-1])


def _inside(text: str) -> str:
    """Returns a clause as it stands inside a sentence: a capital stays where it is no sentence's."""
    return text[0].lower() + text[1:] if _STARTS.match(text) else text


# (region, gain or loss, what the story must all speak of, what it must not, the detail): true wherever the story is.
_DETAILS = (
    ("Rừng", _GAIN, ("cháy|lửa", "dập|tắt|canh|chòi|băng|ngăn"), "chim|thú|sóc|khỉ|ong", "chim thú vẫn yên ổn"),
    ("Rừng", _GAIN, ("bẫy|săn|cưa|trộm|tuần tra",), "chim|thú|sóc|khỉ|nai|voi|yên", "muông thú được sống yên"),
    ("Rừng", _GAIN, ("trồng rừng|rừng non|phủ xanh",), "chim|ươm|hạt|mầm|chết|khát", "chim chóc bay về"),
    ("Sông", _GAIN, ("rác|chai|túi", "vớt|nhặt|gom|dọn"), "mặt nước|sạch|trong|đáy", "mặt nước sạch bóng"),
    ("Sông", _GAIN, ("rác|chai|túi", "sông|kênh|suối|ao|hồ|biển|bến|sóng"), "cá|tôm|cua", "cá tôm bơi lội tung tăng"),
    (
        "Sông",
        _GAIN,
        ("thuốc|hóa chất|xà phòng|nước thải|bọt|dầu",),
        "cá|tôm|cua|vịt|tốn|khóa",
        "cá tôm bơi lội tung tăng",
    ),
    ("Sông", _GAIN, ("tiết kiệm|vòi|hứng", "nước"), "sông|suối|cạn|hồ|giếng", "sông suối đỡ cạn"),
    (
        "Đất",
        _GAIN,
        ("phân", "bón|ủ|mục", "ruộng|vườn|luống|gốc|rau|lúa|cam|cà"),
        "xanh|tốt|cây|lớn",
        "cây cối tốt tươi",
    ),
    ("Đất", _GAIN, ("rễ|cỏ|bậc thang|trồng", "dốc|đồi|núi|nương"), "đất|trôi|màu|lở", "đất màu không bị trôi"),
    ("Đất", _GAIN, ("thuốc|hóa học|hóa chất", "không|thôi|thay|bớt"), "giun|dế|độc|đốt", "giun dế lại về"),
    (
        "Làng",
        _GAIN,
        ("rác", "hôi|cống|chợ|ngõ|bãi|đống|rãnh"),
        "ruồi|muỗi|ít|pin|chai|nhựa|thủy tinh|lon|xe",
        "ruồi muỗi ít hẳn đi",
    ),
    ("Làng", _GAIN, ("nhặt|quét|dọn|gom", "rác|lá"), "đường|sạch|đẹp|ngõ|nhà|bếp|pin|chợ|hội|lớp", "đường sá sạch đẹp"),
    (
        "Làng",
        _GAIN,
        ("khói|xe đạp|xe buýt|đi bộ|bụi đường",),
        "thở|trong lành|không khí|gió|rừng",
        "không khí dễ thở hơn",
    ),
    (
        "Rừng",
        _LOSS,
        ("cháy rừng|đám cháy|lửa",),
        "chim|thú|chạy|sóc|khỉ|nai|ong|voi|tắt|mưa",
        "chim thú hoảng sợ bỏ chạy",
    ),
    ("Rừng", _LOSS, ("cháy rừng|lửa",), "khói|trời|mù|nước|mưa|tắt|dập|đêm", "khói bay mù trời"),
    ("Rừng", _LOSS, ("chặt|cưa|đốn|phá rừng|trụi",), "chim|tổ|thú|khỉ|ong", "chim không còn chỗ làm tổ"),
    ("Rừng", _LOSS, ("bão|lốc",), "cây|đổ|gãy|cháy", "cây cối đổ ngổn ngang"),
    ("Rừng", _LOSS, ("hạn|nắng nóng|nắng gắt",), "lá|héo|cháy|rụng|lửa|cưa", "lá cây héo rũ"),
    (
        "Sông",
        _LOSS,
        ("đổ|vứt|xả|ném|trút", "(?:xuống|ra|vào) (?:sông|kênh|mương|suối|hồ|ao|biển|rạch)"),
        "cá|tôm|cua|vịt|đất|cát",
        "cá tôm phải bỏ đi",
    ),
    ("Sông", _LOSS, ("dầu|hóa chất|nước thải|bột giặt",), "cá|tôm|cua|vịt|bờ", "cá tôm ngoi lên thở"),
    ("Sông", _LOSS, ("sạt|lũ|xói|lở",), "đục|ngầu|trong|mặn|nước|cạn", "nước đục ngầu"),
    ("Sông", _LOSS, ("nước mặn|nhiễm mặn",), "cá|tôm|rừng|bãi", "cá nước ngọt bỏ đi"),
    (
        "Đất",
        _LOSS,
        ("lũ|mưa lớn|mưa to|sạt|xói|đồi trọc", "dốc|đồi|núi|nương|ruộng|vườn|sườn"),
        "đất|màu|trôi|cuốn|vùi|khô|đường|nhà|người|chạy|cát|sét|vỡ",
        "lớp đất màu trôi mất",
    ),
    ("Đất", _LOSS, ("hạn|nắng nóng|nắng gắt|không mưa",), "nứt|ruộng|khô|lũ|nương|rẫy|rừng|cháy", "mặt ruộng nứt nẻ"),
    ("Đất", _LOSS, ("thuốc|hóa chất|hóa học",), "giun|dế|chết|rừng|cá", "giun dế không còn"),
    ("Đất", _LOSS, ("mặn|biển dâng|phèn",), "rau|héo|lúa|chết|vàng|cây|nhà", "rau màu héo vàng"),
    ("Đất", _LOSS, ("rác|pin|túi nhựa|chai nhựa",), "cây|cỏ|mọc|rau|lúa", "cỏ cây khó mọc"),
    ("Làng", _LOSS, ("lũ|ngập|triều",), "đường|lầy|bùn|ngõ|gió|đá|nóng|phòng|muối", "đường sá lầy lội"),
    (
        "Làng",
        _LOSS,
        ("khói|bụi (?:bay|mù|xe|đường|trắng|mịn|xi măng)|khí thải",),
        "ho|mắt|thở|ai|khẩu trang",
        "ai cũng ho và cay mắt",
    ),
    (
        "Làng",
        _LOSS,
        ("rác|cống|nước thải", "hôi|đống|đầy|bãi|tràn|vứt|đổ"),
        "ruồi|muỗi|bay|khói",
        "ruồi muỗi bay khắp nơi",
    ),
    ("Làng", _LOSS, ("nắng nóng|oi|nóng bức",), "ngủ|mệt|ai|bão|lũ", "ai cũng mệt lả"),
)
# The scene of a person's deed, said before it.
_OPENINGS = (
    "Một buổi sáng đẹp trời",
    "Một chiều lộng gió",
    "Dưới bầu trời trong xanh",
    "Giữa tiếng chim hót",
    "Trong nắng ấm",
)
_DEED = re.compile(
    r"(?:Bé [A-ZT]\w+|Bà (?:nội|ngoại|con)|Ông (?:nội|ngoại)|Cô giáo|Thầy giáo|Học sinh|Dân làng|Các bạn nhỏ|"
    r"Bác nông dân|Chú kiểm lâm|Đội tình nguyện) "
    r"(?:trồng|nhặt|gom|vớt|tưới|dọn|quét|gieo|đào|bón|ủ|xếp|vun|phủ|đắp|rải|buộc|treo|chèo|cắm|dựng|lấp|cùng|cấy)\b"
)
_ATMOSPHERE = re.compile(
    r"\b(?:sáng|trưa|chiều|tối|đêm|hôm|ngày|mùa|năm|tháng|tuần|nắng|mưa|gió|bão|lũ|hạn|nóng|rét|trời|chim|mỗi|hằng|"
    r"thường|hay|nay|không|chẳng|khi|lúc|trước|sau|từ|nhà|lớp|bếp|giấy|hộp|lọ|bàn|cháy|khói|lửa|sương|trăng|tết|đông|hè|xuân)\b"
)


def add_detail(story: str, rng: random.Random) -> str:
    """Adds one detail of nature that fits what the story speaks of, and the region that gains or loses.

    The story stays as it is where none fits, or where it would grow over the filters' limits.
    """
    found = sorted({*_with_outcome(story), *_with_opening(story)})
    found = [s for s in found if len(words(s)) <= MOST_WORDS and len(sentences(s)) <= MOST_SENTENCES]
    return rng.choice(found) if found else story


def _with_outcome(story: str) -> Iterator[str]:
    """Yields the story with a detail before its last words, which tell the effect, a clause at most between them."""
    m = re.fullmatch(rf"((?:.*\. )?)((?:[^.,;:!?]+, )?)({_EFFECT}\.)", story)
    if not m or not m[1] + m[2] or " điểm" in m[2]:
        return
    scene = (m[1] + m[2]).lower()
    for region, verbs, about, not_about, detail in _DETAILS:
        if not re.match(rf"{region} (?:{verbs})\b", m[3]) or re.search(rf"\b(?:{not_about})\b", scene):
            continue
        if all(re.search(rf"\b(?:{part})\b", scene) for part in about):
            yield f"{m[1]}{m[2]}{detail if m[2] else detail[0].upper() + detail[1:]}, {m[3]}"


def _with_opening(story: str) -> Iterator[str]:
    gains = re.search(rf"\b(?:{_GAIN}) \d+ điểm", story) and not re.search(rf"\b(?:{_LOSS})\b", story)
    if gains and _DEED.match(story) and not _ATMOSPHERE.search(story.lower()):
        yield from (f"{opening}, {_inside(story)}" for opening in _OPENINGS)
