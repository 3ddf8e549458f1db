"""Owns BLEU, chrF and the search for the nearest text; scores are sacrebleu's, an index only finds pairs faster.

Texts are folded (NFC, tone placement, lower case) before sacrebleu's tokenizer `13a` sees them.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from gonbuild.language import fold

ORDERS = 4
_METRIC = BLEU(effective_order=True)
_SLACK = 1e-6  # scores found by table are summed in another order than sacrebleu's: this close counts as equal

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Gram = tuple[tuple[str, ...], int]


def sentence_bleu(text: str, reference: str) -> float:
    """Returns sacrebleu's sentence BLEU (0-100, effective order) of a text against one reference, both folded."""
    return float(_METRIC.sentence_score(fold(text), [fold(reference)]).score)


def self_bleu(texts: Sequence[str]) -> float:
    """Returns the mean sentence BLEU (0-100) of each text against all others (Zhu et al. 2018); 0 for less than two."""
    folded = [fold(text) for text in texts]
    scores = [
        _METRIC.sentence_score(text, others).score
        for at, text in enumerate(folded)
        if (others := folded[:at] + folded[at + 1 :])
    ]
    return sum(scores) / len(scores) if scores else 0.0


def corpus_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, tuple[float, str]]:
    """Returns corpus BLEU and chrF (0-100) of texts against one or more references each, with their signatures."""
    streams = [
        [fold(told[n]) if n < len(told) else None for told in references] for n in range(max(map(len, references)))
    ]
    metrics = {"BLEU": BLEU(), "chrF": CHRF()}
    scores = {name: metric.corpus_score([fold(t) for t in texts], streams).score for name, metric in metrics.items()}
    return {name: (float(score), str(metrics[name].get_signature())) for name, score in scores.items()}


def signature() -> str:
    """Returns sacrebleu's signature of the scores; folding happens before sacrebleu, so its case is `mixed`."""
    _METRIC.sentence_score("a", ["a"])  # the number of references is known to the signature after a first score
    return str(_METRIC.get_signature())


class BleuIndex:
    """Finds the texts nearest to a text by sentence BLEU: the text is the hypothesis, the indexed one the reference.

    The n-grams are counted for all texts at once; the k-th occurrence of an n-gram in a text is a gram of its own, so
    the shared grams of two texts are sacrebleu's clipped matches.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts = list(texts)
        lines = [_tokens(text) for text in self.texts]
        self._lengths = array("q", map(len, lines))
        self._bulk = _Bulk(lines)
        self._added: dict[Gram, array[int]] = {}

    def add(self, text: str) -> None:
        """Adds one text; its index is the number of texts before it."""
        line, index = _tokens(text), len(self.texts)
        self.texts.append(text)
        self._lengths.append(len(line))
        for grams in _grams(line):
            for gram in grams:
                self._added.setdefault(gram, array("q")).append(index)

    def nearest(self, text: str) -> tuple[float, int]:
        """Returns the highest score and the first index that has it; (0.0, -1) where there is no text."""
        if not self.texts:
            return 0.0, -1
        best = self._best(text, float(self._scores(text).max()))
        return max(best, key=lambda pair: (pair[0], -pair[1]))

    def over(self, text: str, limit: float) -> list[tuple[float, int]]:
        """Returns every score above a limit with its index, in index order."""
        return [(score, index) for score, index in self._best(text, limit) if score > limit]

    def _best(self, text: str, limit: float) -> Iterator[tuple[float, int]]:
        close = np.flatnonzero(self._scores(text) >= limit - _SLACK)
        return ((self._score(text, int(i)), int(i)) for i in close)

    def _score(self, text: str, index: int) -> float:
        # sacrebleu's own counts and formula: what the tables found is never handed out.
        return sentence_bleu(text, self.texts[index])

    def _scores(self, text: str) -> Floats:
        """Returns the score of every text, equal to sacrebleu's up to rounding."""
        line = _tokens(text)
        if not line or not self.texts:
            return np.zeros(len(self.texts))
        matches = [self._matches(*found) for found in zip(self._bulk.postings(line), _grams(line), strict=True)]
        return _formula(matches, len(line), np.frombuffer(self._lengths, dtype=np.int64))

    def _matches(self, parts: list[Ints], grams: list[Gram]) -> Ints:
        if self._added:
            parts = parts + [np.frombuffer(self._added[g], dtype=np.int64) for g in grams if g in self._added]
        joined = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return np.bincount(joined, minlength=len(self.texts))


class _Bulk:
    """The postings of the texts that an index starts with, as sorted arrays: built in one go, never changed."""

    def __init__(self, lines: list[list[str]]) -> None:
        vocabulary: dict[str, int] = {}
        tokens = np.array([vocabulary.setdefault(t, len(vocabulary)) for line in lines for t in line], np.int64)
        lengths = np.array([len(line) for line in lines], np.int64)
        documents = np.repeat(np.arange(len(lines)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
        self._vocabulary = vocabulary
        self._orders: list[tuple[Ints, int, Ints, Ints]] = []
        ids = np.zeros(len(tokens), np.int64)
        for order in range(ORDERS):
            kept = left > order
            keys = ids[kept] * len(vocabulary) + tokens[np.flatnonzero(kept) + order]
            unique, inverse = np.unique(keys, return_inverse=True)
            self._orders.append((unique, *_posted(inverse, documents[kept])))
            ids[kept] = inverse

    def postings(self, line: list[str]) -> Iterator[list[Ints]]:
        """Yields for each order the arrays of indices of the texts that hold a gram of the line."""
        tokens = np.array([self._vocabulary.get(token, -1) for token in line], np.int64)
        ids = np.where(tokens < 0, -1, 0)
        for order, (unique, ranks, posted, documents) in enumerate(self._orders):
            heads, tails = ids[: max(len(line) - order, 0)], tokens[order:]
            ids = _places(unique, np.where((heads < 0) | (tails < 0), -1, heads * len(self._vocabulary) + tails))
            known = ids[ids >= 0]
            rank = _ranks(known)
            wanted = (known * ranks + rank)[rank < ranks]
            first, last = np.searchsorted(posted, wanted, "left"), np.searchsorted(posted, wanted, "right")
            yield [documents[a:b] for a, b in zip(first, last, strict=True)]


def _posted(grams: Ints, documents: Ints) -> tuple[int, Ints, Ints]:
    """Returns (ranks, keys sorted, their documents); a key is gram * ranks + its rank in the text."""
    if not len(grams):
        return 1, grams, documents
    rank = _ranks(documents * (int(grams.max()) + 1) + grams)
    ranks = int(rank.max()) + 1
    keys = grams * ranks + rank
    order = np.argsort(keys, kind="stable")
    return ranks, keys[order], documents[order]


def _ranks(values: Ints) -> Ints:
    """Returns for each value how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.r_[True, ordered[1:] != ordered[:-1]][: len(values)]
    starts = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(values)) - starts
    return ranks


def _places(sorted_values: Ints, wanted: Ints) -> Ints:
    """Returns the index of each wanted value in a sorted array, -1 where it is not there."""
    if not len(sorted_values):
        return np.full(len(wanted), -1)
    places = np.minimum(np.searchsorted(sorted_values, wanted), len(sorted_values) - 1)
    return np.where(sorted_values[places] == wanted, places, -1)


def _tokens(text: str) -> list[str]:
    return str(_METRIC.tokenizer(fold(text).rstrip())).split()


def _grams(line: list[str]) -> Iterator[list[Gram]]:
    """Yields for each order the grams of a line with the number of equal ones before each."""
    for order in range(1, ORDERS + 1):
        seen: Counter[tuple[str, ...]] = Counter()
        grams = []
        for i in range(len(line) - order + 1):
            words = tuple(line[i : i + order])
            grams.append((words, seen[words]))
            seen[words] += 1
        yield grams


def _formula(matches: list[Ints], length: int, references: Ints) -> Floats:
    """Computes BLEU from clipped matches per order, hypothesis length and reference lengths; smoothing `exp`.

    A text that shares no n-gram shares no longer one, so the orders without a match are the last ones.
    """
    totals = [max(length - n, 0) for n in range(ORDERS)]
    used = sum(total > 0 for total in totals)
    logs: Floats = np.zeros(len(references))
    orders = np.zeros(len(references), np.int64)
    for counts, total in zip(matches[:used], totals, strict=False):
        table = np.array([0.0, *(math.log(100.0 * c / total) for c in range(1, total + 1))])
        logs += table[counts]
        orders += counts > 0
    missing = [
        sum(-math.log(2 ** (k + 1) * totals[n] / 100.0) for k, n in enumerate(range(z, used))) for z in range(used + 1)
    ]
    brevity = np.minimum(1.0 - references / length, 0.0)
    scores: Floats = np.exp((logs + np.array(missing)[orders]) / used + brevity)
    scores[orders == 0] = 0.0
    return scores
