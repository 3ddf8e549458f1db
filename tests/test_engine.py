"""Candidates from requests: texts, ends and scores."""

from dataclasses import replace

import pytest
import torch
from tiny import write_tiny_base

from gonbuild.base import locate_base
from gonbuild.batching import Task, draw
from gonbuild.decoder import decoder_of
from gonbuild.engine import generate, score
from gonbuild.errors import InputError
from gonbuild.model import TAGS, load_base
from gonbuild.records import Prompt, Request
from gonbuild.settings import ModelSettings, SamplingSettings

SETTINGS = SamplingSettings(candidates=6, max_new_tokens=24, temperature=1.0)
WITHOUT = "<|system|>\nViết chuyện.<|end|>\n<|assistant|>\n"
NAMES = ["Cá", "Trồng cây", "Vớt rác trên sông", "Bão", "Đắp đê", "Ủ phân cho đất", "Lũ quét", "Làng xanh"]
REQUESTS = [
    Request(
        f"card-{n}", Prompt(f"<|system|>\nViết chuyện.<|end|>\n<|user|>\n{name}<|end|>\n<|assistant|>\n", WITHOUT), 0, 6
    )
    for n, name in enumerate(NAMES)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny base that ends a text every ten tokens or so."""
    folder = write_tiny_base(tmp_path_factory.mktemp("base"))
    settings = ModelSettings(base=str(folder))
    base = load_base(locate_base(settings, folder), settings, threads=1)
    base.model.model.embed_tokens.weight.data[base.tokenizer.eos_token_id] *= 2.5
    return base


@pytest.fixture(scope="module")
def drawn(base):
    return dict(generate(base, REQUESTS, SETTINGS))


def test_candidates_come_in_order_with_both_ends(drawn):
    assert list(drawn) == REQUESTS
    for request, candidates in drawn.items():
        assert [(c.card, c.index) for c in candidates] == [(request.card, n) for n in range(6)]
    everything = [c for candidates in drawn.values() for c in candidates]
    assert {c.ended for c in everything} == {True, False}
    assert max(c.tokens for c in everything if not c.ended) == 24
    assert len({c.text for c in everything}) > 40


def test_texts_hold_no_tag_and_no_loose_space(drawn):
    for text in (c.text for candidates in drawn.values() for c in candidates):
        assert "<|" not in text
        assert text == " ".join(text.split())


def test_seed_and_card_change_every_candidate(base, drawn):
    reseeded = dict(generate(base, REQUESTS[:1], SETTINGS.model_copy(update={"seed": 1})))[REQUESTS[0]]
    renamed = replace(REQUESTS[0], card="other")
    others = dict(generate(base, [renamed], SETTINGS))[renamed]
    texts = [{c.text for c in candidates} for candidates in (drawn[REQUESTS[0]], reseeded, others)]
    assert len(set.union(*texts)) >= 16  # two that end at once are alike


def plain_logprob(base, prompt, ids):
    """Sums log-probabilities in one forward pass over the whole text, without a cache or a batch."""
    with torch.no_grad():
        logits = base.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item()


def test_scores_are_those_of_a_plain_forward_pass(base):
    request = REQUESTS[2]
    prompt, without = base.encode(request.prompt.text), base.encode(WITHOUT)
    (candidates,) = dict(generate(base, [request], SETTINGS)).values()
    rows = [base.encode(c.text) for c in candidates]
    for ids, scored in zip(rows, score(base, prompt, rows), strict=True):
        assert scored == pytest.approx(plain_logprob(base, prompt, ids), abs=1e-4)
    ((_, drawn),) = draw(base, [task_of(base, request)], SETTINGS)
    for candidate, d in zip(candidates, drawn, strict=True):
        assert candidate.tokens == len(d.ids)
        assert candidate.logprob == pytest.approx(plain_logprob(base, prompt, d.ids), abs=1e-4)
        assert candidate.logprob_without_card == pytest.approx(plain_logprob(base, without, d.ids), abs=1e-4)


def task_of(base, request):
    return Task(request.card, base.encode(request.prompt.text), request.first, request.last)


def test_nothing_is_scored_without_its_card_unless_asked_for(base, drawn):
    ((request, candidates),) = generate(base, REQUESTS[:1], SETTINGS, without_card=False)
    assert [c.logprob_without_card for c in candidates] == [None] * 6
    assert [(c.text, c.logprob) for c in candidates] == [(c.text, c.logprob) for c in drawn[request]]
    assert candidates[0].score(0.0) == drawn[request][0].score(0.0)


def test_one_token_is_scored_as_many_are(base):
    prompt = base.encode(WITHOUT)
    assert score(base, prompt, [[7]])[0] == pytest.approx(score(base, prompt, [[7], [9, 8, 7]])[0], abs=1e-5)


def test_progress_goes_to_the_end(base):
    told = []
    list(generate(base, REQUESTS[:2], SETTINGS, lambda *step: told.append(step)))
    assert told == [("generating", 0, 2), ("generating", 1, 2), ("generating", 2, 2)]


def test_prompts_without_room_are_named_before_anything_is_drawn(base):
    long = replace(REQUESTS[1], card="dai-001", prompt=Prompt("Sông " * 600, WITHOUT))
    with pytest.raises(InputError, match=r"card 'dai-001': its prompt has \d+ tokens. Wanted at most 1000"):
        next(generate(base, [REQUESTS[0], long], SETTINGS))


class Scripted:
    """What makes logits of a decoder write one text, whatever it reads: a row's turn comes with each step."""

    def __init__(self, ids, decoder):
        self.ids, self.decoder, self.step = ids, decoder, 0

    def __call__(self, tokens, cache):
        logits = torch.zeros(len(tokens), self.decoder.shape.vocabulary)
        if self.step < len(self.ids):
            logits[:, self.ids[self.step]] = 50.0
        self.step += 1
        return logits


@pytest.fixture
def written(monkeypatch):
    """Returns the candidate that a model makes which writes a text, and how many tokens that has."""

    def write(base, text):
        ids = base.tokenizer(text)["input_ids"]
        decoder = decoder_of(base.model)
        monkeypatch.setattr(decoder, "step", Scripted(ids, decoder))
        settings = SamplingSettings(max_new_tokens=40, top_k=1)
        request = Request("a", Prompt(WITHOUT, WITHOUT), 0, 1)
        ((_, (candidate,)),) = generate(base, [request], settings, without_card=False)
        return candidate, len(ids)

    return write


def test_text_is_cut_at_the_end_and_made_nfc(base, written):
    candidate, count = written(base, "  Cá bo\u031b\u0301i\n về. <|end|>Và nữa")
    assert (candidate.text, candidate.ended) == ("Cá bới về.", True)
    assert candidate.tokens < count  # it ended at once


@pytest.mark.parametrize("tag", [tag for tag in TAGS if tag != "<|end|>"])
def test_other_tags_cut_the_text_at_once_and_are_no_end(base, written, tag):
    candidate, count = written(base, f"Cá.{tag}\nThẻ<|end|>")
    assert (candidate.text, candidate.ended) == ("Cá.", False)
    assert candidate.tokens < count


@pytest.fixture(scope="module")
def spelled(tmp_path_factory):
    """A base whose tokenizer knows no chat tags and spells them out."""
    folder = write_tiny_base(tmp_path_factory.mktemp("spelled"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        for tag, other in zip(TAGS, ("[s]", "[u]", "[a]", "</s>"), strict=True):
            text = text.replace(tag, other)
        (folder / name).write_text(text, encoding="utf-8")
    settings = ModelSettings(base=str(folder))
    return load_base(locate_base(settings, folder), settings, threads=1)


@pytest.mark.parametrize(
    ("text", "ended"),
    [("Cá bơi về.<|end|> Nữa", True), ("Cá bơi về.</s> Nữa", True), ("Cá bơi về.<|assistant|> Nữa", False)],
)
def test_tag_of_several_tokens_ends_a_text_at_once(spelled, written, text, ended):
    assert len(spelled.tokenizer("<|end|>")["input_ids"]) > 3
    candidate, count = written(spelled, text)
    assert (candidate.text, candidate.ended) == ("Cá bơi về.", ended)
    assert candidate.tokens < count


def test_bare_sign_ends_nothing(spelled, written):
    candidate, _ = written(spelled, "Cá > rác | và <end> hơn.<|end|>")
    assert (candidate.text, candidate.ended) == ("Cá > rác | và <end> hơn.", True)
