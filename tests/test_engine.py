"""Drawing candidates and scoring texts."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import write_tiny_base
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gonbuild.base import locate_base
from gonbuild.engine import choose, draw, generate, keep_likely, score
from gonbuild.errors import InputError
from gonbuild.machine import rows_are_exact
from gonbuild.model import load_base
from gonbuild.noise import key_of
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
    assert all(c.tokens == 24 for c in everything if not c.ended)
    assert len({c.text for c in everything}) > 40


def test_texts_hold_no_tag_and_no_loose_space(drawn):
    for text in (c.text for candidates in drawn.values() for c in candidates):
        assert "<|" not in text
        assert text == " ".join(text.split())


def test_other_cards_and_their_order_change_nothing(base, drawn):
    for requests in (REQUESTS[::-1], REQUESTS[2:5], [REQUESTS[6]]):
        assert dict(generate(base, requests, SETTINGS)) == {r: drawn[r] for r in requests}


def test_seed_and_card_change_every_candidate(base, drawn):
    reseeded = dict(generate(base, REQUESTS[:1], SETTINGS.model_copy(update={"seed": 1})))[REQUESTS[0]]
    renamed = replace(REQUESTS[0], card="other")
    others = dict(generate(base, [renamed], SETTINGS))[renamed]
    texts = [{c.text for c in candidates} for candidates in (drawn[REQUESTS[0]], reseeded, others)]
    assert len(set.union(*texts)) >= 16  # two that end at once are alike


@pytest.mark.skipif(not rows_are_exact(), reason="this CPU's rows depend on the batch")
def test_candidates_drawn_in_two_rounds_are_those_of_one(base):
    def texts(first, last):
        request = replace(REQUESTS[3], first=first, last=last)
        return [c.text for c in dict(generate(base, [request], SETTINGS))[request]]

    assert texts(0, 8) + texts(8, 16) == texts(0, 16)


def test_candidates_of_two_rounds_get_the_choices_of_one():
    torch.manual_seed(0)
    logits, seen, key = torch.randn(16, 500), torch.zeros(16, 1, dtype=torch.long), key_of("a", 0)
    indices = torch.arange(16)[:, None]
    whole = choose(logits, seen, SETTINGS, key, indices, 5)
    halves = [choose(logits[h], seen[h], SETTINGS, key, indices[h], 5) for h in (slice(0, 8), slice(8, 16))]
    assert torch.equal(whole, torch.cat(halves))


def test_one_token_kept_is_transformers_greedy_search(base):
    settings = SETTINGS.model_copy(update={"top_k": 1, "max_new_tokens": 40})
    for request in REQUESTS:
        ids = base.encode(request.prompt.text)
        inputs = torch.tensor([ids])
        theirs = base.model.generate(inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=40)
        for ours in draw(base, ids, request, settings):
            assert ours.ids == theirs[0, len(ids) :].tolist()


def plain_logprob(base, prompt, ids):
    """Sums log-probabilities in one forward pass over the whole text, without a cache or a batch."""
    with torch.no_grad():
        logits = base.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item()


def test_logprobs_are_those_of_a_plain_forward_pass(base):
    request = REQUESTS[2]
    prompt, without = base.encode(request.prompt.text), base.encode(WITHOUT)
    rows = [d.ids for d in draw(base, prompt, request, SETTINGS)]
    (candidates,) = dict(generate(base, [request], SETTINGS)).values()
    for ids, candidate, scored in zip(rows, candidates, score(base, prompt, rows), strict=True):
        assert candidate.tokens == len(ids)
        assert candidate.logprob == pytest.approx(plain_logprob(base, prompt, ids), abs=1e-4)
        assert scored == pytest.approx(candidate.logprob, abs=1e-4)
        assert candidate.logprob_without_card == pytest.approx(plain_logprob(base, without, ids), abs=1e-4)


def test_one_token_is_scored_as_many_are(base):
    prompt = base.encode(WITHOUT)
    assert score(base, prompt, [[7]])[0] == pytest.approx(score(base, prompt, [[7], [9, 8, 7]])[0], abs=1e-5)


LIMITS = [(1.0, 0, 1.0, 1.0), (0.8, 50, 0.95, 1.0), (1.5, 7, 1.0, 1.0), (0.7, 0, 0.6, 1.0), (1.0, 40, 0.9, 1.3)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "penalty"), LIMITS)
def test_choices_follow_the_distribution_that_transformers_processors_give(temperature, top_k, top_p, penalty):
    """A chi-square test over the tokens that are expected 10 times or more in 20,000 draws."""
    torch.manual_seed(3)
    logits, seen = torch.randn(1, 200) * 2, torch.tensor([[5, 9, 9, 150]])
    settings = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    processors += [TopKLogitsWarper(top_k)] if top_k else []
    processors += [TopPLogitsWarper(top_p)]
    wanted = processors(seen, logits.clone()).softmax(-1)[0].double()

    scores, tokens = keep_likely(logits, seen, settings)
    kept = torch.zeros(200, dtype=torch.float64).scatter(0, tokens[0], scores.softmax(-1)[0])
    assert torch.allclose(kept, wanted, atol=1e-6)

    n = 20_000
    indices = torch.arange(n)[:, None]
    chosen = choose(logits.expand(n, -1), seen.expand(n, -1), settings, key_of("a", 0), indices, 0)
    counts, expected = chosen[:, 0].bincount(minlength=200).double(), wanted * n
    assert counts[wanted == 0].sum() == 0
    common = expected >= 10
    square = ((counts - expected) ** 2 / expected)[common].sum().item()
    freedom = int(common.sum()) - 1
    assert freedom >= 4
    assert square < freedom + 4 * (2 * freedom) ** 0.5


def test_progress_goes_to_the_end(base):
    told = []
    list(generate(base, REQUESTS[:2], SETTINGS, lambda *step: told.append(step)))
    assert told == [("generating", 0, 2), ("generating", 1, 2), ("generating", 2, 2)]


def test_prompts_without_room_are_named_before_anything_is_drawn(base):
    long = replace(REQUESTS[1], card="dai-001", prompt=Prompt("Sông " * 600, WITHOUT))
    with pytest.raises(InputError, match=r"card 'dai-001': its prompt has \d+ tokens. Wanted at most 1000"):
        next(generate(base, [REQUESTS[0], long], SETTINGS))


class Scripted:
    """A model that writes one text, whatever it is asked."""

    config = SimpleNamespace(num_hidden_layers=1, vocab_size=470, max_position_embeddings=1024)

    def __init__(self, ids, prompt):
        self.ids, self.start = ids, prompt

    def __call__(self, input_ids, position_ids, past_key_values, use_cache, logits_to_keep):
        nothing = torch.zeros(input_ids.shape[0], 1, input_ids.shape[1], 1)
        past_key_values.update(nothing, nothing, 0)
        logits = torch.zeros(*input_ids.shape, 470)
        for at, position in enumerate(position_ids[0].tolist()):
            step = position + 1 - self.start
            if 0 <= step < len(self.ids):
                logits[:, at, self.ids[step]] = 50.0
        return SimpleNamespace(logits=logits[:, -logits_to_keep:] if logits_to_keep else logits)


def written(base, text):
    """Returns the candidate that a model makes which writes this text."""
    ids = base.tokenizer(text)["input_ids"]
    scripted = replace(base, model=Scripted(ids, len(base.encode(WITHOUT))))
    settings = SamplingSettings(max_new_tokens=40, top_k=1)
    ((_, (candidate,)),) = generate(scripted, [Request("a", Prompt(WITHOUT, WITHOUT), 0, 1)], settings)
    return candidate, len(ids)


def test_text_is_cut_at_the_end_and_made_nfc(base):
    candidate, count = written(base, "  Cá bo\u031b\u0301i\n về. <|end|>")
    assert (candidate.text, candidate.ended, candidate.tokens) == ("Cá bới về.", True, count)


def test_other_tags_cut_the_text_and_are_no_end(base):
    candidate, _ = written(base, "Cá.<|user|>\nThẻ<|end|>")
    assert (candidate.text, candidate.ended) == ("Cá.", False)


def test_end_tag_of_several_tokens_ends_a_text(tmp_path):
    folder = write_tiny_base(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8").replace("<|end|>", "</s>")
        (folder / name).write_text(text, encoding="utf-8")
    settings = ModelSettings(base=str(folder))
    base = load_base(locate_base(settings, folder), settings, threads=1)
    candidate, count = written(base, "Cá bơi về.<|end|>")
    assert (candidate.text, candidate.ended, candidate.tokens) == ("Cá bơi về.", True, count)
    candidate, _ = written(base, "Cá bơi về.</s>")
    assert (candidate.text, candidate.ended) == ("Cá bơi về.", True)
