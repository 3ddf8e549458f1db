"""Drawing in slots: the same candidates whatever is drawn beside them, the right ones, and in the memory there is."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import write_tiny_base

from gonbuild.base import locate_base
from gonbuild.batching import BEGINNINGS, PADDED, Task, draw, plan_room
from gonbuild.decoder import decoder_of
from gonbuild.errors import MachineError
from gonbuild.memory import GIB
from gonbuild.model import TAGS, load_base
from gonbuild.settings import ModelSettings, SamplingSettings

SETTINGS = SamplingSettings(candidates=6, max_new_tokens=24, temperature=1.0)
GREEDY = SETTINGS.model_copy(update={"top_k": 1, "max_new_tokens": 40})
SYSTEM = "<|system|>\nBạn viết chuyện cho thẻ bài GON, bằng lời dễ hiểu với trẻ em, 1-2 câu, sinh động, vui.<|end|>\n"
NAMES = [
    "Cá",
    "Trồng cây gây rừng",
    "Vớt rác trên sông",
    "Bão",
    "Đắp đê giữ nước cho cả làng cùng nhau",
    "Ủ phân cho đất",
    "Lũ quét",
    "Làng xanh, nước trong trở lại và cá bơi về, các bạn nhỏ vớt rác trên sông",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"), width=64)


@pytest.fixture(scope="module")
def base(folder):
    """A tiny base that ends a text every ten tokens or so."""
    settings = ModelSettings(base=str(folder))
    base = load_base(locate_base(settings, folder), settings, threads=1)
    base.model.model.embed_tokens.weight.data[base.tokenizer.eos_token_id] *= 2.5
    return base


@pytest.fixture(scope="module")
def tasks(base):
    shared = len(base.encode(SYSTEM))
    prompts = [base.encode(f"{SYSTEM}<|user|>\n{name}<|end|>\n<|assistant|>\n") for name in NAMES]
    return [Task(f"card-{n}", prompt, 0, 6, shared) for n, prompt in enumerate(prompts)]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bits(base, tasks, settings=SETTINGS, **options):
    """Candidates by card and index: token ids, log-probabilities to the last bit, and whether a tag ended them."""
    drawn = draw(base, tasks, settings, **options)
    return {
        (task.card, index): (d.ids, d.logprobs, d.ended) for task, ds in drawn for index, d in enumerate(ds, task.first)
    }


@pytest.fixture(scope="module")
def wanted(base, tasks):
    return bits(base, tasks, slots=64)


def test_candidates_are_as_many_and_as_different_as_asked_for(wanted):
    assert len(wanted) == 6 * len(NAMES)
    assert {ended for _, _, ended in wanted.values()} == {True, False}
    assert all(len(ids) == 24 for ids, _, ended in wanted.values() if not ended)
    assert len({tuple(ids) for ids, _, _ in wanted.values()}) > 30


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("slots", [1, 3, 8, 64])
def test_slots_and_threads_move_no_bit(base, tasks, wanted, slots, threads):
    torch.set_num_threads(threads)
    few = tasks[: 2 if slots == 1 else 8]
    got = bits(base, few, slots=slots)
    assert got == {key: value for key, value in wanted.items() if key in got}
    assert len(got) == 6 * len(few)


def test_other_cards_their_order_and_other_rounds_move_no_bit(base, tasks, wanted):
    halves = [replace(task, first=first, last=first + 3) for task in tasks[:4] for first in (3, 0)]
    for some in (tasks[::-1], tasks[5:1:-2], [tasks[6]], halves):
        got = bits(base, some)
        assert got == {key: value for key, value in wanted.items() if key in got}
        assert len(got) == sum(task.last - task.first for task in some)


@pytest.mark.parametrize("slots", [1, 7, 128])
def test_prompts_of_any_length_and_any_number_of_candidates(base, slots):
    """One token, two, and beginnings that are all of the prompt, or end where what is padded does."""
    some = [
        Task("a", [5], 0, 3),
        Task("b", [5, 6], 0, 1, shared=2),
        Task("c", range(5, 40), 0, 70, shared=35),
        Task("d", range(5, 38), 2, 3, shared=33),
        Task("e", range(5, 37), 0, 1, shared=32),
    ]
    settings = SETTINGS.model_copy(update={"max_new_tokens": 8, "repetition_penalty": 1.2, "min_p": 0.05})
    wanted = bits(base, some, settings, slots=64)
    assert len(wanted) == 76
    assert bits(base, some[::-1], settings, slots=slots) == wanted
    assert [bits(base, [task], settings, slots=slots) for task in some[:2]] == [
        {key: value for key, value in wanted.items() if key[0] == task.card} for task in some[:2]
    ]
    assert list(draw(base, [], settings)) == []


def test_yields_in_the_order_asked_and_holds_back_what_is_early(base, tasks):
    uneven = [replace(task, last=1 + 5 * (n % 2)) for n, task in enumerate(tasks)]
    assert [task for task, _ in draw(base, uneven, SETTINGS, slots=8)] == uneven


def generated(base, task, **options):
    """What transformers' greedy search writes, up to the first tag of the chat form."""
    inputs = torch.tensor([list(task.prompt)])
    mask = torch.ones_like(inputs)
    whole = base.model.generate(inputs, attention_mask=mask, do_sample=False, max_new_tokens=40, **options)
    ids = whole[0, len(task.prompt) :].tolist()
    tags = base.tokenizer.convert_tokens_to_ids(list(TAGS))
    return ids[: next((at for at, token in enumerate(ids, 1) if token in tags), len(ids))]


def test_greedy_output_is_that_of_transformers_generate(base, tasks):
    many = [replace(task, last=2) for task in tasks]
    for task, drawn in draw(base, many, GREEDY, slots=5):
        assert [ours.ids for ours in drawn] == [generated(base, task)] * 2


def test_greedy_output_with_a_repetition_penalty_is_that_of_transformers_generate(base, tasks):
    settings = GREEDY.model_copy(update={"repetition_penalty": 1.3})
    for task, (ours,) in draw(base, [replace(task, last=1) for task in tasks], settings, slots=3):
        assert ours.ids == generated(base, task, repetition_penalty=1.3)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_adapter_that_is_not_merged_is_drawn_with(folder, tasks):
    settings = ModelSettings(base=str(folder))
    base = load_base(locate_base(settings, folder), settings, threads=1)
    before = bits(base, tasks[:2])
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = replace(base, model=get_peft_model(base.model, config).eval())
    carried = bits(adapted, tasks[:2])
    assert {key: ids for key, (ids, _, _) in carried.items()} != {key: ids for key, (ids, _, _) in before.items()}
    assert bits(adapted, tasks[1::-1], slots=3) == carried


def test_first_tokens_follow_the_models_own_distribution(base, tasks):
    """A chi-square test over the tokens that are expected 10 times or more."""
    n = 4000
    task = replace(tasks[1], last=n, lengths=[1] * n)
    plain = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=8)
    ((_, drawn),) = draw(base, [task], plain, slots=64)
    with torch.inference_mode():
        expected = base.model(torch.tensor([list(task.prompt)])).logits[0, -1].double().softmax(-1) * n
    counts = torch.tensor([d.ids[0] for d in drawn]).bincount(minlength=len(expected)).double()
    common = expected >= 10
    square = ((counts - expected) ** 2 / expected)[common].sum().item()
    freedom = int(common.sum()) - 1
    assert freedom >= 10
    assert square < freedom + 4 * (2 * freedom) ** 0.5


def test_logprobs_are_those_of_a_plain_forward_pass_token_by_token(base, tasks):
    for task, drawn in draw(base, tasks[2:5], SETTINGS):
        for d in drawn:
            with torch.inference_mode():
                logits = base.model(torch.tensor([[*task.prompt, *d.ids]])).logits[0, len(task.prompt) - 1 : -1]
            theirs = logits.log_softmax(-1).gather(-1, torch.tensor(d.ids)[:, None])[:, 0]
            assert torch.allclose(torch.tensor(d.logprobs), theirs, atol=1e-4)


def test_shared_beginning_changes_nothing_but_time(base, tasks, wanted):
    assert tasks[0].shared >= 32
    alone = bits(base, [replace(task, shared=0) for task in tasks])
    assert {key: ids for key, (ids, _, _) in alone.items()} == {key: ids for key, (ids, _, _) in wanted.items()}
    for key, (_, logprobs, _) in alone.items():
        assert logprobs == pytest.approx(wanted[key][1], abs=1e-4)


def test_more_beginnings_than_are_remembered_change_nothing(base):
    tasks = []
    for n, name in enumerate(NAMES * 2):
        start = base.encode(f"<|system|>\n{n} " + "Bạn viết chuyện cho thẻ bài GON. " * 3 + "<|end|>\n")
        prompt = [*start, *base.encode(f"<|user|>\n{name}<|end|>\n<|assistant|>\n")]
        tasks.append(Task(f"card-{n % 8}", prompt, 0, 2, len(start)))
    assert len({tuple(task.prompt[:PADDED]) for task in tasks}) > BEGINNINGS
    together = draw(base, tasks, SETTINGS, slots=8)
    for task, drawn in together:
        assert [d.ids for d in drawn] == [d.ids for d in next(draw(base, [replace(task, shared=0)], SETTINGS))[1]]


def test_forced_lengths_heed_no_end(base, tasks):
    lengths = [1, 30, 7, 24, 2, 12]
    ((_, drawn),) = draw(base, [replace(tasks[0], lengths=lengths)], SETTINGS, slots=3)
    assert [len(d.ids) for d in drawn] == lengths
    assert not any(d.ended for d in drawn)


def test_free_sampling_gives_others_each_time(base, tasks):
    torch.manual_seed(0)
    first, second = (bits(base, tasks[:2], keyed=False) for _ in range(2))
    assert first != second


def test_slots_are_halved_until_they_fit(base, tasks):
    free = 4 * GIB
    assert plan_room(base, tasks, SETTINGS, 4096, free).slots == 4096
    planned = {plan_room(base, tasks, SETTINGS, 4096, free >> n).slots for n in range(10)}
    assert len(planned) > 3
    assert all(4096 % slots == 0 for slots in planned)
    assert plan_room(base, tasks, SETTINGS, 0, free).slots == 64


def test_not_one_slot_fits(base, tasks):
    with pytest.raises(MachineError, match=r"memory has 0.0 GiB free, and drawing one candidate at a time needs 0\.0"):
        next(draw(base, tasks, SETTINGS, free=lambda device: 1000))


class Failing:
    """A head that runs out of memory at some of its calls."""

    def __init__(self, head, calls):
        self.head, self.calls, self.count = head, calls, 0

    def __call__(self, x):
        self.count += 1
        if self.count in self.calls:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.head(x)


def test_memory_that_runs_out_halves_the_slots_once_and_nothing_is_lost(folder, tasks):
    settings = ModelSettings(base=str(folder))
    base = load_base(locate_base(settings, folder), settings, threads=1)
    wanted = bits(base, tasks)
    decoder = decoder_of(base.model)
    logits, told = decoder.logits, []
    decoder.logits = Failing(logits, {60})
    got = []
    for task, drawn in draw(base, tasks, SETTINGS, slots=8):
        told.append(task.card)
        got += [((task.card, index), (d.ids, d.logprobs, d.ended)) for index, d in enumerate(drawn)]
    assert dict(got) == wanted
    assert told == [task.card for task in tasks]
    assert decoder.logits.count > 60
    decoder.logits = Failing(logits, {60, 90})
    with pytest.raises(MachineError, match=r"memory ran out while 4 candidates .* Lower machine.slots"):
        list(draw(base, tasks, SETTINGS, slots=8))
