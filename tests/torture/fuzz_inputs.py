"""Owns the inputs of the fuzzer: what is made by each file's grammar, and how valid bytes are damaged; runs nothing.

All of it is drawn from a `random.Random`, so that a seed and a case's number give the same bytes anywhere.
"""

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from gonbuild.records import canonical, digest
from gonbuild.reviews import CRITERIA, KINDS
from gonbuild.settings import Settings

LONGEST = 1 << 16
"""Bytes of an input at most, but for a long run."""
LONG_RUNS = (300, 5_000, 60_000)

CARDS = ("rung-001", "lang-001", "song-001")
WORDS = """
deck cards id name type effect examples stories card slot by reason replaces scores sense language pin edit approve ban
rating messages role content user assistant system inputs adapter settings digest values text before candidate novelty
score others rounds short signature Bảo\u00a0Vệ Cộng\u00a0Đồng Thiên\u00a0Tai Rừng Sông Đất Làng điểm +2 -1 điểm\u00a0cho Tên\u00a0thẻ: Loại: Hiệu\u00a0ứng:
rung-001 lang-001 song-001 rung-001.1 rung-001.c3 null true false nan inf none
""".split()
ODD = (
    "", " ", "\t", "\n", "\r", "\r\n", "\0", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\u00a0", "\u00ad", "\u200b",
    "\u202e", "\ufeff", "\ufffe", "\uffff", "\U0001f9d2\u200d\U0001f33e", "\U000e0041", "e\u0301\u0323", "\u0301", "ế",
    "Đ", "ı", "İ", "ß", "ﬁ", "ſ", "ǆ", "가", "\u1100\u1161", "中", "א", "٣", "²", "½", "Ⅷ", "𝟗", "⁹⁹", "<|end|>", "<s>", "|>",
    "{{", "}}", "{%", "%}", "{#", "#}", "&amp;", "&#0;", "&#x110000;", "&#" + "9" * 5_000 + ";", "-->", "<!--", "<script>", "`", "\\", "'", '"', "[", "]",
    "- ", ": ", " #", "|", ">", "&a", "*a", "!!python/object:os.system", "<<", "---", "...", "%YAML 1.1", "?", "@", "~",
    "<<<<<<< HEAD", "=======", ">>>>>>> x", "../../x", "/etc/passwd", "file:///x", "CON", "nul", "%s%n", "{0}", "$(id)",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "1", "-1", "2", "50", "51", "99", "1e3", "1e308", "1e309", "-1e309", "1e-400", "NaN", "Infinity", "0x10", "0o7",
    "1_000", "007", "2147483647", "2147483648", "4294967296", "9007199254740993", "18446744073709551616", "9" * 400,
    "9" * 5_000, "1." + "3" * 400, "+5", "1.0", ".5", "5.", "١", "²", "1979-05-27T07:32:00Z", "25:00:00",
)  # fmt: skip
UNITS = (
    "a", "ă ", "!", "!a", "\"", "(", "-", " ", "\n", "\n\n", "- ", "[", "{", "[[", "{\"a\":", "\\", "\\\"", "é", "e\u0301", "\u0301", "1",
    "1,", "1 ", "+1 ", ".", ". A", "?!", "_", "`", "*", "#", "<", "&", "&a ", "*a ", "!!a ", "điểm ", "Rừng ", "Rừng và ", "và ", "tăng 2 điểm ",
    "a: ", "x\n", "=", "Loại: ", "loai ", "hãy ", ". hãy", "{{", "{%", "{#", "{{(", "x.y", "|md", "~1", "\"\"\"", "'''", "~~", "[x] ", "\t",
    "%", "a-", "-a", "•", ",", ";", "\u00a0", "\ud7a3", "<!-- a 00000000", "https://", "|", ">", "? ", "k=", "a.", "“", "/",
)  # fmt: skip


def fuzzed(kind: str, valid: bytes, rng: Random) -> bytes:
    """Returns one input of a kind: made by its grammar, damaged, or both."""
    data = MADE[kind](valid.decode(), rng).encode("utf-8", "surrogatepass") if rng.random() < 0.6 else valid
    if data == valid or rng.random() < 0.3:
        for _ in range(1 + int(rng.expovariate(0.5))):
            data = rng.choice(_DAMAGE)(data, rng)
    return data if len(data) <= max(LONGEST, len(valid)) * 4 else data[:LONGEST]


def dictionary() -> list[str]:
    """Returns the tokens that are worth trying anywhere."""
    return [*WORDS, *ODD, *NUMBERS[:20], *UNITS]


# --- damage --------------------------------------------------------------------------------------


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + int(rng.expovariate(1 / rng.choice((2, 20, 200)))) + 1)


def _flip(data: bytes, rng: Random) -> bytes:
    if not data:
        return b"\x00"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _delete(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _duplicate(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 10, 100)) + data[end:]


def _splice(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at:]


def _insert(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return (
        data[:start]
        + rng.choice((_token, odd_text))(rng).encode("utf-8", "surrogatepass")
        + data[rng.choice((start, end)) :]
    )


def _lines(data: bytes, rng: Random) -> bytes:
    lines = data.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    act = rng.randrange(4)
    if act == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif act == 1:
        lines.insert(a, lines[b])
    elif act == 2:
        del lines[a]
    else:
        lines[a] = b" " * rng.randrange(9) + lines[a].lstrip()
    return b"\n".join(lines)


def _encode(data: bytes, rng: Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32-le", "cp1258")), "replace")


def _cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _line_ends(data: bytes, rng: Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\xe2\x80\xa8", b"\x0b", b"")))


_DAMAGE: Sequence[Callable[[bytes, Random], bytes]] = (
    _flip, _flip, _delete, _delete, _duplicate, _splice, _insert, _insert, _insert, _lines, _lines, _cut, _encode, _line_ends,
)  # fmt: skip


# --- values --------------------------------------------------------------------------------------


def _token(rng: Random) -> str:
    return rng.choice(rng.choice((WORDS, ODD, NUMBERS, UNITS)))


def odd_text(rng: Random) -> str:
    """Returns a text that may be empty, odd, a number at a limit, a chain of tokens, or very long."""
    act = rng.random()
    if act < 0.45:
        return _token(rng)
    if act < 0.8:
        return rng.choice(("", " ")).join(_token(rng) for _ in range(rng.randrange(1, 12)))
    return _long(rng)


def _long(rng: Random) -> str:
    """Returns a run of a unit, as regular expressions, parsers and whoever recurses dislike them."""
    unit = rng.choice(UNITS) if rng.random() < 0.7 else _token(rng) or "a"
    run = unit * max(1, rng.choice(LONG_RUNS) // len(unit))
    return rng.choice(("", "a", "Rừng ", "Tên thẻ: ")) + run + rng.choice(("", "a", "!", ".", "]", "Rừng tăng 2 điểm."))


def _story(rng: Random) -> str:
    effect = rng.choice(
        ("Rừng tăng 2 điểm", "Làng được 1 điểm", "Sông mất 1 điểm", "mọi vùng giảm 3 điểm", odd_text(rng))
    )
    return f"{rng.choice(('Bé Na xách bình ra vườn tưới cây', 'Cả xóm ra quét ngõ', odd_text(rng)))}. {effect}."


def _effect(rng: Random) -> str:
    parts = ("+2 điểm cho Rừng", "-1 điểm cho Sông", "nhân đôi điểm", "mỗi Làng +1", "nếu", "và", "hoặc", "không", "mọi vùng",
             "bỏ qua thẻ Thiên Tai", "rút 2 thẻ", "trong 3 lượt", _token(rng), odd_text(rng))  # fmt: skip
    return rng.choice((" ", ", ", "; ", ". ")).join(rng.choice(parts) for _ in range(rng.choice((1, 1, 2, 3, 12, 200))))


def _json(rng: Random, depth: int = 0) -> Any:
    """Returns any JSON value; numbers that JSON has no name for come as text to be put in later."""
    act = rng.randrange(8 if depth < 4 else 6)
    if act < 3:
        return odd_text(rng)
    if act == 3:
        return rng.choice((0, 1, -1, 2, 50, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")))
    if act == 4:
        return rng.choice((None, True, False))
    if act == 5:
        return rng.choice(([], {}, "", [[]], {"": {}}))
    if act == 6:
        return [_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): _json(rng, depth + 1) for _ in range(rng.randrange(4))}


def _nested(rng: Random) -> str:
    """Returns deep nesting as text, closed or not."""
    depth = rng.choice((9, 500, 5_000, 30_000))
    start, end = rng.choice((("[", "]"), ('{"a":', "}"), ("{a: ", "}"), ("(", ")")))
    return start * depth + rng.choice(("", "1")) + end * rng.choice((0, depth))


def _warped(value: Any, rng: Random) -> Any:
    """Returns a JSON value with one of its nodes changed, gone or doubled."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        at = rng.choice([*value] if isinstance(value, dict) else range(len(value)))
        act = rng.random()
        if act < 0.75:
            value[at] = _warped(value[at], rng)
        elif act < 0.85:
            del value[at]
        elif isinstance(value, dict):
            value[rng.choice((rng.choice(WORDS), _token(rng)))] = rng.choice((value[at], _json(rng)))
        else:
            value += [copy.deepcopy(value[at]) for _ in range(rng.choice((1, 3, 60)))]
        return value
    if isinstance(value, str) and rng.random() < 0.5:
        at = rng.randrange(len(value) + 1)
        return value[:at] + odd_text(rng) + value[at:]
    return _json(rng)


def _dumped(value: Any, rng: Random) -> str:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.2)
    if rng.random() < 0.1:
        text = text.replace(rng.choice(("1", '"', "0", "null", "2")), rng.choice((*NUMBERS, _nested(rng))), 1)
    return text


# --- grammars ------------------------------------------------------------------------------------


def _scalar(rng: Random, text: str) -> str:
    """Writes a text as YAML would have it, or as a person would."""
    style = rng.randrange(6)
    if style < 3:
        return json.dumps(text, ensure_ascii=False)
    if style == 3:
        return text
    if style == 4:
        return "'" + text.replace("'", "''") + "'"
    return "|\n" + "".join(f"        {line}\n" for line in text.split("\n"))


def _deck(valid: str, rng: Random) -> str:
    lines = [f"deck: {_scalar(rng, rng.choice(('Thử', 'Rừng', odd_text(rng))))}", "cards:"]
    for n in range(rng.choice((1, 3, 3, 5, 60))):
        card = {
            "id": CARDS[n] if n < 3 and rng.random() < 0.8 else f"the-{n}",
            "name": f"Thẻ số {n}" if rng.random() < 0.8 else odd_text(rng),
            "type": rng.choice(("Bảo Vệ", "Cộng Đồng", "Thiên Tai", "Bảo Vệ", "Thiên Tai", odd_text(rng))),
            "effect": _effect(rng),
        }
        if rng.random() < 0.1:
            card[rng.choice(WORDS)] = odd_text(rng)
        if rng.random() < 0.1:
            del card[rng.choice(list(card))]
        pairs = [f"{key}: {_scalar(rng, text)}" for key, text in card.items()]
        if rng.random() < 0.3:
            pairs.append(f"stories: {rng.choice(('1', '3', '50', *NUMBERS))}")
        if rng.random() < 0.6:
            told = "".join(f"\n      - {_scalar(rng, _story(rng))}" for _ in range(rng.choice((1, 1, 2, 20))))
            pairs.append(f"examples:{told}")
        lines.append("  - " + "\n    ".join(pairs))
    return "\n".join(lines) + "\n"


def _settings(valid: str, rng: Random) -> str:
    lines = []
    if rng.random() < 0.7:
        lines += ["[tool.gonbuild]", f"profile = {json.dumps(rng.choice(('nano', 'nano', 'mistral-7b', _token(rng))))}"]
    stages = {name: field.default for name, field in Settings.model_fields.items() if name != "profile"}
    for stage in rng.sample(list(stages), rng.randrange(1, 5)):
        lines.append(f"[tool.gonbuild.{stage if rng.random() < 0.95 else _token(rng)}]")
        names = list(type(stages[stage]).model_fields)
        for name in rng.sample(names, rng.randrange(min(5, len(names)) + 1)):
            lines.append(f"{name if rng.random() < 0.9 else _token(rng)} = {_toml(stages[stage], name, rng)}")
    if rng.random() < 0.1:
        lines.insert(rng.randrange(len(lines) + 1), odd_text(rng))
    return "\n".join(lines) + "\n"


def _toml(stage: Any, name: str, rng: Random) -> str:
    value = getattr(stage, name)
    if rng.random() < 0.3:
        texts = (odd_text(rng), _token(rng))
        return rng.choice((
            *NUMBERS, "true", "[]", "{}", "[[1], {a = 1}]", _nested(rng), *(json.dumps(text) for text in texts),
            json.dumps([*texts]), f"'''{texts[0]}'''",
        ))  # fmt: skip
    if isinstance(value, bool):
        return rng.choice(("true", "false"))
    if name == "candidates":  # up to 1,024 are allowed, which is 4 s of work for three cards
        return str(rng.choice((1, 3, value, 10 * value)))
    if isinstance(value, int):
        return str(rng.choice((value, value + 1, value // 2, 1, 0, 3, 10 * value, 1024)))
    if isinstance(value, float):
        return repr(rng.choice((value, value / 2, value * 2, 0.0, 1.0, 1e-300, 1e300)))
    if isinstance(value, tuple):
        return json.dumps([*value[:3], *(rng.choice((_token(rng), odd_text(rng))) for _ in range(rng.randrange(4)))])
    if name in ("font", "base"):
        return json.dumps(
            rng.choice(("cards/thu.yaml", "a" * 300, "\0", "../x", "/dev/zero", "é/" * 9_000, odd_text(rng)))
        )
    if name == "remote":  # none that is an address: no case asks a network
        return json.dumps(rng.choice(("", "s3:", "file:x", "://", "http://u:p@h/x", "x y", "\n")))
    return json.dumps(rng.choice((value or "", _token(rng), odd_text(rng))))


def _reviews(valid: str, rng: Random) -> str:
    known = [line.split('"')[1] for line in valid.splitlines() if '"' in line]
    lines = [line for line in valid.splitlines() if rng.random() < 0.5]
    for _ in range(rng.choice((1, 2, 5, 80))):
        kind = rng.choice(KINDS) if rng.random() < 0.95 else rng.choice(WORDS)
        text = rng.choice((*known, _story(rng), odd_text(rng)))
        own: dict[str, Any] = {
            "pin": {"slot": rng.choice((1, 2, 2, 3, 50)), "effect": rng.choice(("+2 điểm cho Rừng", "-1 điểm cho Sông"))},
            "edit": {"slot": rng.choice((1, 2)), "effect": "+1 điểm cho Làng", "replaces": rng.choice((*known, _token(rng)))},
            "ban": {"reason": rng.choice(("không rõ", odd_text(rng)))},
            "rating": {"by": "Lan", "scores": {rng.choice(CRITERIA): rng.randrange(1, 6) for _ in range(2)}},
        }.get(kind, {})  # fmt: skip
        row = {"card": rng.choice((*CARDS, *CARDS, _token(rng))), kind: text, **own}
        if rng.random() < 0.2:
            row = _warped(row, rng)
        told = json.dumps(row, ensure_ascii=False)
        lines.append(f"- {told if rng.random() < 0.9 else told.replace(chr(34), '')}")
    rng.shuffle(lines)
    return "\n".join(lines) + "\n"


def _lock(valid: str, rng: Random) -> str:
    rows = [json.loads(line) for line in valid.splitlines()]
    at = rng.randrange(len(rows))
    for _ in range(rng.choice((1, 1, 2))):
        rows[at] = _warped(rows[at], rng)
    lines = []
    for row in rows:
        if isinstance(row, dict) and "digest" in row and rng.random() < 0.9:  # as a build would sign it
            del row["digest"]
            row["digest"] = _digest(row)
        elif isinstance(row, dict) and "values" in row and rng.random() < 0.9:
            row["settings"] = _digest(row["values"])
        lines.append(_canonical(row) if rng.random() < 0.95 else _dumped(row, rng))
    return "\n".join(lines) + "\n"


def _canonical(row: Any) -> str:
    try:
        return canonical(row)
    except (ValueError, TypeError):
        return json.dumps(row)


def _digest(value: Any) -> str:
    try:
        return digest(value)
    except (ValueError, TypeError):
        return "0" * 64


def _rows(valid: str, rng: Random) -> str:
    """Changes lines of JSON: of example cards, dialogues and candidates."""
    rows = [json.loads(line) for line in valid.splitlines()] * rng.choice((1, 1, 1, 20))
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(rows))
        rows[at] = _warped(copy.deepcopy(rows[at]), rng)
    return "\n".join(_dumped(row, rng) for row in rows) + "\n"


def _dialogues(valid: str, rng: Random) -> str:
    if rng.random() < 0.3:
        return _rows(valid, rng)
    lines = []
    for _ in range(rng.choice((1, 2, 10))):
        labels = [f"{rng.choice(('Tên thẻ', 'Loại', 'Hiệu ứng', 'LOAI THE', 'card name', 'effect', _token(rng)))}"
                  f"{rng.choice((':', ': ', ' =', '：'))}{rng.choice(('Bảo Vệ', 'Thiên Tai', _effect(rng), odd_text(rng)))}"
                  for _ in range(rng.randrange(6))]  # fmt: skip
        asked = rng.choice(("\n", ". ", ", ", "")).join(labels) + rng.choice(("", ". Hãy viết truyện.", odd_text(rng)))
        turns: list[Any] = [{"role": "user", "content": asked}, {"role": "assistant", "content": _story(rng)}]
        turns *= rng.choice((1, 1, 1, 2, 30))
        lines.append(_dumped({"messages": turns if rng.random() < 0.8 else _warped(turns, rng)}, rng))
    return "\n".join(lines) + "\n"


def _form(valid: str, rng: Random) -> str:
    lines = valid.split("\n")
    places = [n for n, line in enumerate(lines) if line.startswith("- [")]
    for at in rng.sample(places, rng.randrange(1, len(places) + 1)):
        box, _, rest = lines[at][3:].partition("]")
        name, _, text = rest.partition("` ")
        box = rng.choice((box, "x", "X", "- dở", "-", "1", "2", NUMBERS[rng.randrange(len(NUMBERS))], odd_text(rng)))
        if rng.random() < 0.3:
            text = rng.choice((_story(rng), odd_text(rng), text + odd_text(rng)))
        if rng.random() < 0.1:
            name = f" `{rng.choice(CARDS)}.{rng.choice(('1', '2', '3', 'c0', 'c5', '9999999999', _token(rng)))}"
        lines[at] = f"- [{box}]{name}` {text}"
    for _ in range(rng.choice((0, 0, 1, 5))):
        lines.insert(rng.randrange(len(lines)), rng.choice((rng.choice(lines), odd_text(rng))))
    return "\n".join(lines)


_EXPRESSIONS = (
    "card.name", "card", "card.id * 9", "card.name ~ card.name", "messages", "messages[0].content", "1 // 0", "2 ** 99", "range(5) | list",
    "range(99999999) | list | length", "'a' * 999999999", "(1, 2) | sum", "x.__class__.__mro__", "self", "self._TemplateReference__context",
    "namespace(a=1)", "dict(a=1)", "title | md", "groups | map(attribute='type') | list", "'%1000000000d' % 1", "'{:>999999999}'.format(1)",
    "card.name | replace('', 'xxxx')", "card.name | wordwrap(1)", "card.effect | indent", "[1] | batch(99999999, 0) | list", "none.x", "loop.index",
    "caller()", "super()", "9" * 5_000, "1" + "+1" * 3_000, "-" * 3_000 + "1", "(" * 200 + "1" + ")" * 200, "card.name[::-1]", "'a' | urlize",
    "groups | tojson", "card | pprint", "card | xmlattr", "'x' | filesizeformat", "card.name.encode('utf-16')", "true and false or not none",
    "1 if card else 2", "card.name | upper | lower | title | trim | e | safe", "[[1]] | sum(start=[])", "1 / 3 | round(400)", "card.x.y",
)  # fmt: skip
_STATEMENTS = (
    "{% for a in range(3) %}x{% endfor %}", "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "{% set x = 1 %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% include 'card.txt' %}", "{% include '../pyproject.toml' %}", "{% extends 'card.txt' %}",
    "{% import 'x' as y %}", "{% block b %}{% endblock %}", "{% raw %}{{{% endraw %}", "{# a", "{% if %}", "{% endfor %}", "{% filter upper %}a{% endfilter %}",
    "{% for a in [1,2] recursive %}{{ loop([a]) }}{% endfor %}", "{% call m() %}{% endcall %}", "{% autoescape true %}<{% endautoescape %}", "{%- -%}",
    "{% set ns = namespace(x='a') %}{% for i in range(30) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}", "{% do x %}", "{% break %}",
    "{% with a = 1 %}{{ a }}{% endwith %}", "{% for a in card %}{{ a }}{% else %}n{% endfor %}", "{% set x %}{{ card }}{% endset %}", "<|end|>",
)  # fmt: skip


def _template(valid: str, rng: Random) -> str:
    pieces = [valid] if rng.random() < 0.8 else []
    for _ in range(rng.choice((1, 1, 2, 4))):
        piece = rng.choice((f"{{{{ {rng.choice(_EXPRESSIONS)} }}}}", rng.choice(_STATEMENTS), odd_text(rng)))
        if rng.random() < 0.15:
            piece = f"{{{{ {odd_text(rng)} }}}}"
        if pieces and pieces[0] and rng.random() < 0.6:
            at = rng.randrange(len(pieces[0]))
            pieces[0] = pieces[0][:at] + piece + pieces[0][at:]
        else:
            pieces.append(piece)
    return "".join(pieces)


MADE: dict[str, Callable[[str, Random], str]] = {
    "deck": _deck, "settings": _settings, "reviews": _reviews, "lock": _lock, "examples": _rows, "chat": _dialogues,
    "candidates": _rows, "form": _form,
    **dict.fromkeys(("system.txt", "card.txt", "chat.jinja", "pack.md.jinja", "report.html.jinja"), _template),
}  # fmt: skip
