import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from gonbuild.bleu import BleuIndex, corpus_scores, sentence_bleu, signature
from gonbuild.language import fold

WORDS = st.sampled_from(["rừng", "Rừng", "sông", "tăng", "2", "điểm", "hoà", "hòa", ".", "điểm.", "1,5"])
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)


def brute(text: str, texts: list[str]) -> list[float]:
    metric = BLEU(effective_order=True)
    return [metric.sentence_score(fold(text), [fold(t)]).score for t in texts]


@given(st.lists(TEXTS, min_size=1, max_size=8), st.lists(TEXTS, max_size=6), TEXTS)
def test_nearest_is_what_comparing_with_every_text_finds(first, added, text):
    index = BleuIndex(first)
    for more in added:
        index.add(more)
    scores = brute(text, first + added)
    assert index.nearest(text) == (max(scores), scores.index(max(scores)))


def test_a_text_scores_full_marks_against_itself_in_any_composition():
    assert sentence_bleu("Hoà bình.", "Ho\u0300a bình.") == pytest.approx(100)
    assert sentence_bleu("rừng", "rừng") == pytest.approx(100)


def test_empty_index_has_nothing_near():
    assert BleuIndex().nearest("Rừng tăng 2 điểm.") == (0.0, -1)


def test_signature_is_sacrebleus():
    assert signature().startswith("nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:")


def test_corpus_scores_are_sacrebleus_with_as_many_references_as_each_text_has():
    texts = ["Mưa rơi trên đồi, cây xanh tốt.", "Cá bơi về sông sau cơn mưa."]
    told = [["Mưa rơi trên đồi trọc.", "Cây xanh tốt nhờ mưa."], ["Cá bơi về con sông sau cơn lũ lớn."]]
    streams = [["mưa rơi trên đồi trọc.", "cá bơi về con sông sau cơn lũ lớn."], ["cây xanh tốt nhờ mưa.", None]]
    bleu, chrf = BLEU(lowercase=True), CHRF(lowercase=True)
    scores = corpus_scores(texts, told)
    assert scores["BLEU"][0] == pytest.approx(bleu.corpus_score(texts, streams).score)
    assert scores["chrF"][0] == pytest.approx(chrf.corpus_score(texts, streams).score)
    assert 0 < scores["BLEU"][0] < 100
    assert scores["BLEU"][1].startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores["chrF"][1].startswith("nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_text_that_one_of_its_references_repeats_scores_full_marks():
    told = [["Hoà bình trên đồi cao.", "Một câu khác hẳn."], ["Cá bơi về sông lớn."]]
    scores = corpus_scores(["Hòa bình trên đồi cao.", "cá bơi về sông lớn."], told)
    assert [score for score, _ in scores.values()] == pytest.approx([100, 100])
