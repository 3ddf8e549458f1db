"""Owns what a Vietnamese word and sentence are, by the syllable's structure; holds no word list, judges no story."""

import re
import unicodedata
from functools import lru_cache

_TONES = "\u0300\u0301\u0303\u0309\u0323"
_STOPS = ("c", "ch", "p", "t")


def _table(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ONSETS = _table("b c ch d đ g gh gi h k kh l m n ng ngh nh p ph qu r s t th tr v x") | {""}
_RHYMES = _table(
    """
    a ac ach ai am an ang anh ao ap at au ay ăc ăm ăn ăng ăp ăt âc âm ân âng âp ât âu ây
    e ec em en eng eo ep et ê êch êm ên ênh êp êt êu i ia ich iêc iêm iên iêng iêp iêt iêu im in inh ip it iu
    o oa oac oach oai oam oan oang oanh oao oap oat oay oăc oăm oăn oăng oăt oc oe oem oen oeo oet oi om on ong ooc
    oong op ot ô ôc ôi ôm ôn ông ôp ôt ơ ơi ơm ơn ơp ơt u ua uân uâng uât uây uc uê uêch uên uênh uêu ui um un ung
    uơ up ut uôc uôi uôm uôn uông uôt uy uya uych uyên uyêt uynh uyp uyt uyu
    ư ưa ưc ưi ưm ưn ưng ưt ưu ươc ươi ươm ươn ương ươp ươt ươu
    """
)
_AFTER_QU = (_table("y yt yp ych ynh yên yêt yu ôc ơ") | {r for r in _RHYMES if r[0] in "aăâeêi"}) - {"ia", "iu"}
_AFTER_GI = frozenset(r for r in _RHYMES if r[0] != "i") | {"êng"}
_ALONE_WITH_Y = _table("y yêm yên yêng yêt yêu")
_Y_FOR_I = _table("h k l m n s t th v") | {""}

_TONE_AT_END = re.compile(r"(o[àáảãạèéẻẽẹ]|(?<!q)u[ỳýỷỹỵ])(?!\w)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+(?=[\"'“‘«(\[]?[^\W_])")
_PUNCTUATION_BEFORE = re.compile(r"^[^\w+\-−]+")
_NUMBER = re.compile(r"[+\-−–]?\d+(?:[.,:/]\d+)*%?")


def place_tones(text: str) -> str:
    """Returns NFC text with the tone of open oa, oe and uy on its first vowel (hoà becomes hòa); case stays."""
    return _TONE_AT_END.sub(_move_tone, unicodedata.normalize("NFC", text))


def fold(text: str) -> str:
    """Returns the form in which texts are compared: NFC, tone placement unified, lower case, single spaces."""
    return " ".join(place_tones(text).lower().split())


def words(text: str) -> list[str]:
    """Splits text at spaces and strips the punctuation around each word; what is punctuation alone is no word."""
    return [word for piece in text.split() if (word := _bare(piece))]


@lru_cache(maxsize=1 << 15)  # tens of thousands of stories are split, out of a few thousand words
def _bare(piece: str) -> str:
    word = _PUNCTUATION_BEFORE.sub("", piece)
    end = len(word)  # no pattern with `$`: it would be tried from each mark of a long run again
    while end and not (word[end - 1].isalnum() or word[end - 1] in "_%"):
        end -= 1
    return word[:end] if any(c.isalnum() for c in word[:end]) else ""


@lru_cache(maxsize=1 << 15)
def fold_word(word: str) -> str:
    """Returns a single word as `fold` does, remembered."""
    return fold(word)


def sentences(text: str) -> list[str]:
    """Splits text after . ! ? and … where a space and another word follow, and strips each sentence."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def is_syllable(word: str) -> bool:
    """Says whether a word is built as a Vietnamese syllable: a known onset and rhyme, the tone where it may stand."""
    word = unicodedata.normalize("NFC", word).lower()
    bare, tone, place = _without_tone(word)
    if tone is None:
        return False
    return any(_fits(onset, rhyme, tone, place - len(onset)) for onset, rhyme in _splits(bare))


def unknown_words(text: str) -> list[str]:
    """Returns the words that are no syllable, no number and no name; a capitalised Latin word counts as a name."""
    return [word for word in words(text) if not (_is_name(word) or _NUMBER.fullmatch(word) or _is_compound(word))]


def _move_tone(match: re.Match[str]) -> str:
    second = unicodedata.normalize("NFD", match[0][1])
    return unicodedata.normalize("NFC", match[0][0] + second[1]) + second[0]


def _without_tone(word: str) -> tuple[str, str | None, int]:
    """Returns the word without its tone, the tone mark ('' for none, None for two) and the marked letter's index."""
    letters, tone, place = [], "", -1
    for i, letter in enumerate(word):
        parts = unicodedata.normalize("NFD", letter)
        marks = [p for p in parts if p in _TONES]
        if marks:
            if tone or len(marks) > 1:
                return word, None, -1
            tone, place = marks[0], i
        letters.append(unicodedata.normalize("NFC", "".join(p for p in parts if p not in _TONES)))
    return "".join(letters), tone, place


def _splits(bare: str) -> list[tuple[str, str]]:
    return [(bare[:n], bare[n:]) for n in range(min(4, len(bare))) if bare[:n] in _ONSETS]


def _fits(onset: str, rhyme: str, tone: str, place: int) -> bool:
    if not _spelt(onset, rhyme):
        return False
    vowels = len(rhyme.rstrip("cghmnpt"))
    final = rhyme[vowels:]
    if final in _STOPS and tone not in ("\u0301", "\u0323"):
        return False
    return not tone or place in _tone_places(rhyme[:vowels], final)


def _spelt(onset: str, rhyme: str) -> bool:
    """Says whether this rhyme may be written after this onset: k, gh and ngh before i, e and ê alone, and so on."""
    if onset == "qu":
        return rhyme in _AFTER_QU
    if onset == "gi":
        return rhyme in _AFTER_GI
    if onset == "" and rhyme in _ALONE_WITH_Y:
        return True
    if rhyme == "y":
        return onset in _Y_FOR_I
    if rhyme not in _RHYMES or (onset == "" and rhyme[:2] == "iê"):
        return False
    front = rhyme[0] in "ieê"
    if onset in ("k", "gh", "ngh"):
        return front or (onset == "k" and rhyme[:2] == "uy")
    # gì, gìn and giêng keep a bare g before i; everywhere else c, g and ng stand before the other vowels.
    return not (front and onset in ("c", "ng")) and not (onset == "g" and rhyme[0] in "eê")


def _tone_places(nucleus: str, final: str) -> tuple[int, ...]:
    marked = [i for i, letter in enumerate(nucleus) if letter in "ăâêôơư"]
    if marked:
        # ươ carries its tone on the ơ; every other rhyme has one marked letter.
        return (marked[-1],)
    if len(nucleus) == 3:
        return (1,)
    if len(nucleus) == 2 and nucleus != "oo":
        if final:
            return (1,)
        return (0, 1) if nucleus in ("oa", "oe", "uy") else (0,)
    return (len(nucleus) - 1,)


def _is_name(word: str) -> bool:
    return word[0].isupper() and all(c in "-'’." or "LATIN" in unicodedata.name(c, "") for c in word)


def _is_compound(word: str) -> bool:
    """Says whether each part of a hyphened word is a syllable or a number."""
    return all(is_syllable(part) or part.isdecimal() for part in re.split(r"[-–/]", word) if part)
