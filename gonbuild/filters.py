"""Owns the filters: small functions of a candidate, its card and its context; chooses no story."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gonbuild.bleu import BleuIndex, sentence_bleu
from gonbuild.effects import read_effect, tell
from gonbuild.language import fold, sentences, unknown_words, words
from gonbuild.records import Candidate, Card, Judged, Verdict
from gonbuild.settings import FilterSettings

_END = re.compile(r"[.!?…][\"'”’»)\]]*\Z")
_MARKS = frozenset(".,;:!?…\"'“”‘’«»()-–—+−%/")


@dataclass(frozen=True)
class Context:
    """What the filters compare with; `pack` grows as the caller adds the stories it ships."""

    settings: FilterSettings
    training: BleuIndex
    """All training stories."""
    pack: BleuIndex
    """Stories already chosen, over all cards."""


Filter = Callable[[Candidate, Card, Context], Verdict]


def judge(candidate: Candidate, card: Card, context: Context) -> Judged:
    """Passes a candidate through every filter but diversity, the cheap ones first, and stops at the first drop."""
    verdicts: list[Verdict] = []
    for check in FILTERS:
        verdicts.append(check(candidate, card, context))
        if not verdicts[-1].kept:
            break
    return Judged(candidate, tuple(verdicts))


def ending(candidate: Candidate, _card: Card, _context: Context) -> Verdict:
    """Drops what the token limit cut, what ends without a mark, and what holds a tag of the template."""
    text = candidate.text.strip()
    if not candidate.ended:
        return _drop("ending", "cut at the token limit", f"{candidate.tokens} tokens", "an end")
    if "<|" in text or "|>" in text:
        return _drop("ending", "holds a tag of the chat template", text[text.find("|") - 1 :][:16], "no tag")
    if not _END.search(text):
        return _drop("ending", "the last sentence has no end", repr(text[-12:]), "one of . ! ? …")
    return Verdict("ending", kept=True)


def length(candidate: Candidate, _card: Card, context: Context) -> Verdict:
    """Drops what has too few or too many words, or too many sentences."""
    s, n, m = context.settings, len(words(candidate.text)), len(sentences(candidate.text))
    measured, wanted = f"words {n}, sentences {m}", f"words {s.min_words}-{s.max_words}, sentences 1-{s.max_sentences}"
    if n < s.min_words:
        return _drop("length", f"{n} words are too few, wanted {s.min_words} or more", measured, wanted)
    if n > s.max_words:
        return _drop("length", f"{n} words are too many, wanted {s.max_words} or fewer", measured, wanted)
    if m > s.max_sentences:
        return _drop("length", f"{m} sentences are too many, wanted {s.max_sentences} or fewer", measured, wanted)
    return Verdict("length", kept=True, measured=measured, wanted=wanted)


def language(candidate: Candidate, _card: Card, context: Context) -> Verdict:
    """Drops stray symbols, control characters, other scripts, and too many words that are no Vietnamese syllable."""
    text = unicodedata.normalize("NFC", candidate.text)
    stray = sorted({c for c in text if not _is_ordinary(c)})
    if stray:
        names = ", ".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in stray)
        return _drop("language", f"holds characters that no story needs: {names}", names, "letters, digits, marks")
    unknown = unknown_words(text)
    share = len(unknown) / max(len(words(text)), 1)
    measured, wanted = f"{share:.2f}", f"at most {context.settings.max_foreign:.2f}"
    if share > context.settings.max_foreign:
        listed = ", ".join(unknown[:5])
        return _drop("language", f"{share:.0%} of the words are no Vietnamese syllables: {listed}", measured, wanted)
    return Verdict("language", kept=True, measured=measured, wanted=wanted)


def repetition(candidate: Candidate, _card: Card, context: Context) -> Verdict:
    """Drops one word three times in a row, a clause said twice, and too many repeated word 3-grams."""
    folded = [fold(word) for word in words(candidate.text)]
    for first, second, third in zip(folded, folded[1:], folded[2:], strict=False):
        if first == second == third:
            return _drop("repetition", f"'{first}' stands three times in a row", first, "no such run")
    clauses = Counter(" ".join(words(clause)) for clause in re.split(r"[.!?…;:,]\s", fold(candidate.text) + " "))
    twice = next((clause for clause, n in clauses.items() if n > 1 and len(clause.split()) > 3), "")
    if twice:
        return _drop("repetition", f"says '{twice}' twice", twice, "each clause once")
    grams = Counter(zip(folded, folded[1:], folded[2:], strict=False))
    share = 1 - len(grams) / grams.total() if grams else 0.0
    measured, wanted = f"{share:.2f}", f"at most {context.settings.max_repetition:.2f}"
    if share > context.settings.max_repetition:
        most = " ".join(grams.most_common(1)[0][0])
        return _drop("repetition", f"{share:.0%} of the word 3-grams repeat, most often '{most}'", measured, wanted)
    return Verdict("repetition", kept=True, measured=measured, wanted=wanted)


def banned(candidate: Candidate, _card: Card, context: Context) -> Verdict:
    """Drops what holds a banned word or phrase, as whole words in any case."""
    folded = fold(candidate.text)
    for word in context.settings.banned_words:
        if re.search(rf"(?<!\w){re.escape(fold(word))}(?!\w)", folded):
            return _drop("banned", f"holds the banned word '{word}'", word, "none of the banned words")
    return Verdict("banned", kept=True)


def effect(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops what does not tell the card's effect, or tells another one."""
    reasons = tell(candidate.text, read_effect(card.effect)) if context.settings.effect else ()
    if reasons:
        return _drop("effect", reasons[0], "; ".join(reasons), card.effect)
    return Verdict("effect", kept=True, wanted=card.effect)


def novelty(candidate: Candidate, _card: Card, context: Context) -> Verdict:
    """Drops what is too near to a story that the model was trained on."""
    score, index = context.training.nearest(candidate.text)
    measured, wanted = f"{score:.1f}", f"at most {context.settings.max_novelty_bleu:.1f}"
    if score > context.settings.max_novelty_bleu:
        near = context.training.texts[index]
        return _drop("novelty", f"too near to a training story (BLEU {score:.1f}): {near}", measured, wanted)
    return Verdict("novelty", kept=True, measured=measured, wanted=wanted)


def reference(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops what is too far from all of the card's own examples; without a limit or examples everything is kept."""
    limit = context.settings.min_reference_bleu
    if limit is None or not card.examples:
        return Verdict("reference", kept=True)
    score = max(sentence_bleu(candidate.text, example) for example in card.examples)
    measured, wanted = f"{score:.1f}", f"at least {limit:.1f}"
    if score < limit:
        return _drop("reference", f"too far from the card's examples (BLEU {score:.1f})", measured, wanted)
    return Verdict("reference", kept=True, measured=measured, wanted=wanted)


def diversity(candidate: Candidate, _card: Card, context: Context) -> Verdict:
    """Drops what is too near to a story already chosen, for this card or another."""
    same = context.pack.find(candidate.text)
    score, index = (100.0, same) if same is not None else context.pack.nearest(candidate.text)
    measured, wanted = f"{score:.1f}", f"at most {context.settings.max_diversity_bleu:.1f}"
    if same is not None or score > context.settings.max_diversity_bleu:
        near = context.pack.texts[index]
        return _drop("diversity", f"too near to a chosen story (BLEU {score:.1f}): {near}", measured, wanted)
    return Verdict("diversity", kept=True, measured=measured, wanted=wanted)


FILTERS: tuple[Filter, ...] = (ending, length, language, repetition, banned, effect, novelty, reference)
"""The order in which `judge` asks; `diversity` depends on what was chosen before, so selection asks it."""


def _drop(name: str, reason: str, measured: str, wanted: str) -> Verdict:
    return Verdict(name, False, reason, measured, wanted)


def _is_ordinary(char: str) -> bool:
    if char.isalpha():
        return "LATIN" in unicodedata.name(char, "")
    return char == " " or char in _MARKS or char in "0123456789"
