"""Owns the filters: small functions of a candidate, its card and its context; chooses no story."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from gonbuild.bleu import BleuIndex, sentence_bleu
from gonbuild.effects import form_of, read_effect, tell
from gonbuild.language import fold, fold_word, sentences, unknown_words, words
from gonbuild.records import Candidate, Card, Judged, Story, Verdict
from gonbuild.settings import FilterSettings

RUN = 5
"""Words in a row that a story says once: people say five in a row again in 2 of 10,000 stories."""
NEAR = 6
"""Words within which no word stands three times, names and rules aside: people do in 4 of 1,000 stories."""

JOINS = frozenset("và với trong lẫn hoặc cùng".split())
"""A word does not stand on both sides of one of these ("rác và rác"): it does in 1 of 2,000 stories of people."""

CAUSES = ("vì", "nhờ", "khiến")
"""Each stands once in a sentence; people write one twice in 2 of 1,000 stories."""

_ADDRESS = re.compile(r"://|\bwww\.|[^\W\d_]\.[^\W\d_]")
"""What a web address has and no story: two slashes, or a dot between letters."""
_END = re.compile(r"[.!?…][\"'”’»)\]]*\Z")
_GAME_WORDS = ("điểm", "lượt", "lá", "vùng", "tăng", "cộng", "thêm", "được", "giảm", "mất", "bị", "trừ")
_MARKS = frozenset(".,;:!?…\"'“”‘’«»()-–—+−%/")


class StoryIndex:
    """Stories to compare with by BLEU, each without the words of its effect.

    Two stories that tell one long rule rightly share most of their words; what is compared is the rest.
    """

    def __init__(self, stories: Iterable[tuple[str, str]] = ()) -> None:
        told = list(stories)
        self.texts = [story for story, _ in told]
        self._effects = [effect for _, effect in told]
        self._whole: dict[str, BleuIndex] = {}
        self._index = BleuIndex(without_effect(story, effect) for story, effect in told)

    def add(self, story: str, effect: str) -> None:
        """Adds a story that tells an effect."""
        self.texts.append(story)
        self._effects.append(effect)
        self._whole.pop(form_of(effect), None)
        self._index.add(without_effect(story, effect))

    def nearest(self, story: str, effect: str) -> tuple[float, str]:
        """Returns the highest BLEU (0-100) and the story that has it, the first of equals; (0.0, "") where none is."""
        score, index = self._index.nearest(without_effect(story, effect))
        # A text against itself is 100 and some 1e-14 over, which a limit of 100 must let pass.
        return min(score, 100.0), self.texts[index] if index >= 0 else ""

    def over(self, story: str, effect: str, limit: float) -> list[tuple[float, int]]:
        """Returns the BLEU (0-100) and the index of every story that is nearer than a limit, in the order added."""
        found = self._index.over(without_effect(story, effect), limit)
        capped = [(min(score, 100.0), index) for score, index in found]
        return [(score, index) for score, index in capped if score > limit]

    def nearest_whole(self, story: str, effect: str) -> float:
        """Returns the highest BLEU (0-100) to a whole story, its effect's words counted in.

        Only stories whose effects have the same form are compared: others share no rule, and what else they share
        `nearest` finds.
        """
        form = form_of(effect)
        if form not in self._whole:
            alike = (text for text, told in zip(self.texts, self._effects, strict=True) if form_of(told) == form)
            self._whole[form] = BleuIndex(alike)
        return min(self._whole[form].nearest(story)[0], 100.0)


def without_effect(story: str, effect: str) -> str:
    """Returns a story's words that are no numbers, no words of the effect and none of the rules' own."""
    ignored = _game_words(effect)
    return " ".join(word for word in words(story) if not _is_game(fold_word(word), ignored))


@dataclass(frozen=True)
class Context:
    """What the filters compare with; `pack` grows as the caller adds the stories it ships."""

    settings: FilterSettings
    training: StoryIndex
    """All training stories."""
    pack: StoryIndex
    """Stories already chosen, over all cards."""
    bans: StoryIndex = field(default_factory=StoryIndex)
    """Stories that people banned."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Banned story, folded -> why."""


Filter = Callable[[Candidate, Card, Context], Verdict]


def judge(candidate: Candidate, card: Card, context: Context) -> Judged:
    """Passes a candidate through every filter but diversity, the cheap ones first, and stops at the first drop."""
    verdicts: list[Verdict] = []
    for check in FILTERS:
        verdicts.append(check(candidate, card, context))
        if not verdicts[-1].kept:
            break
    return Judged(candidate, tuple(verdicts))


def shipped(card: Card, story: Story) -> Candidate:
    """Returns a story that ships as the candidate that filters ask about; its end was seen when it was chosen."""
    return Candidate(card.id, story.candidate or 0, story.text, 1, 0.0, 0.0, ended=True)


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


def language(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops stray symbols, scripts, addresses, a name half in capitals, and too many words that are no syllables."""
    text = unicodedata.normalize("NFC", candidate.text)
    stray = sorted({c for c in text if not _is_ordinary(c)})
    if stray:
        names = ", ".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in stray)
        return _drop("language", f"holds characters that no story needs: {names}", names, "letters, digits, marks")
    if address := _ADDRESS.search(text):
        return _drop("language", f"holds a web address: '{_around(text, address.start())}'", address[0], "no address")
    for first, second in pairwise(words(card.name)):
        if second.istitle() and re.search(rf"\b{re.escape(first.lower())} {re.escape(second)}\b", text):
            return _drop("language", f"writes '{first.lower()} {second}' for '{first} {second}'", second, "one case")
    unknown = unknown_words(text)
    share = len(unknown) / max(len(words(text)), 1)
    measured, wanted = f"{share:.2f}", f"at most {context.settings.max_foreign:.2f}"
    if share > context.settings.max_foreign:
        listed = ", ".join(unknown[:5])
        return _drop("language", f"{share:.0%} of the words are no Vietnamese syllables: {listed}", measured, wanted)
    return Verdict("language", kept=True, measured=measured, wanted=wanted)


def repetition(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops a word thrice within a few or joined with itself, a run of words said twice, too many pairs said again.

    A cause given twice in a sentence is one, too. Otherwise numbers and words of the effect do not count: an effect
    with two regions says its verb twice.
    """
    folded = [fold(word) for word in words(candidate.text)]
    ignored = _game_words(card.effect)
    own = ignored | _game_words(card.name)
    for at in range(len(folded)):
        word = folded[at]
        if word not in own and folded[at : at + NEAR].count(word) > 2:
            return _drop("repetition", f"'{word}' stands three times in {NEAR} words", word, "twice at most")
    for before, join, after in zip(folded, folded[1:], folded[2:], strict=False):
        if join in JOINS and before == after and before not in own:
            said = f"{before} {join} {after}"
            return _drop("repetition", f"says '{said}'", said, "two different things")
    for sentence in sentences(candidate.text):
        counts = Counter(fold(word) for word in words(sentence))
        if cause := next((word for word in CAUSES if counts[word] > 1), ""):
            return _drop("repetition", f"says '{cause}' twice in a sentence", cause, "one cause a sentence")
    runs = Counter(" ".join(folded[at : at + RUN]) for at in range(len(folded) - RUN + 1))
    twice = next((run for run, n in runs.items() if n > 1), "")
    if twice:
        return _drop("repetition", f"says '{twice}' twice", twice, f"each run of {RUN} words once")
    telling = [pair for pair in pairwise(folded) if not any(_is_game(w, ignored) for w in pair)]
    again = [" ".join(pair) for pair, n in Counter(telling).items() for _ in range(n - 1)]
    limit = context.settings.max_repeated_pairs
    measured, wanted = f"{len(again)} pairs", f"at most {limit}"
    if len(again) > limit:
        listed = ", ".join(f"'{pair}'" for pair in sorted(set(again))[:3])
        return _drop("repetition", f"says {listed} again", measured, wanted)
    return Verdict("repetition", kept=True, measured=measured, wanted=wanted)


def banned(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops what holds a banned word or phrase, as whole words in any case, or is too near to a banned story."""
    folded = fold(candidate.text)
    for word in context.settings.banned_words:
        if re.search(rf"(?<!\w){re.escape(fold(word))}(?!\w)", folded):
            return _drop("banned", f"holds the banned word '{word}'", word, "none of the banned words")
    if folded in context.reasons:  # whatever the limit of BLEU is
        return _drop("banned", f"is banned ({context.reasons[folded]})", "the banned text", "another text")
    score, near = context.bans.nearest(candidate.text, card.effect)
    if score > context.settings.max_novelty_bleu:
        reason = f"too near to a story that is banned ({context.reasons[fold(near)]}; BLEU {score:.1f}): {near}"
        return _drop("banned", reason, f"{score:.1f}", f"at most {context.settings.max_novelty_bleu:.1f}")
    return Verdict("banned", kept=True)


def effect(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops what does not tell the card's effect, or tells another one."""
    reasons = tell(candidate.text, read_effect(card.effect)) if context.settings.effect else ()
    if reasons:
        return _drop("effect", reasons[0], "; ".join(reasons), card.effect)
    return Verdict("effect", kept=True, wanted=card.effect)


def novelty(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops what is too near to a story that the model was trained on."""
    score, near = context.training.nearest(candidate.text, card.effect)
    measured, wanted = f"{score:.1f}", f"at most {context.settings.max_novelty_bleu:.1f}"
    if score > context.settings.max_novelty_bleu:
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


def diversity(candidate: Candidate, card: Card, context: Context) -> Verdict:
    """Drops what is too near to a story already chosen, for this card or another."""
    score, near = context.pack.nearest(candidate.text, card.effect)
    measured, wanted = f"{score:.1f}", f"at most {context.settings.max_diversity_bleu:.1f}"
    if score > context.settings.max_diversity_bleu or fold(near) == fold(candidate.text):  # the same never ships twice
        return _drop("diversity", f"too near to a chosen story (BLEU {score:.1f}): {near}", measured, wanted)
    return Verdict("diversity", kept=True, measured=measured, wanted=wanted)


TEXT_FILTERS: tuple[Filter, ...] = (ending, length, language, repetition, banned, effect)
"""Those that ask for nothing but the text, its card, settings and bans: no other story changes their word."""
FILTERS: tuple[Filter, ...] = (*TEXT_FILTERS, novelty, reference)
"""The order in which `judge` asks; `diversity` depends on what was chosen before, so selection asks it."""


def _drop(name: str, reason: str, measured: str, wanted: str) -> Verdict:
    return Verdict(name, False, reason, measured, wanted)


def _around(text: str, at: int) -> str:
    """Returns the word at a place, 40 characters of it at most."""
    start = text.rfind(" ", 0, at) + 1
    return text[start:].split(" ")[0][:40]


def _game_words(effect: str) -> set[str]:
    return {*_GAME_WORDS, *(fold_word(word) for word in words(effect))}


def _is_game(word: str, ignored: set[str]) -> bool:
    return word in ignored or word.isdigit()


def _is_ordinary(char: str) -> bool:
    if char.isalpha():
        return "LATIN" in unicodedata.name(char, "")
    return char == " " or char in _MARKS or char in "0123456789"
