"""Running transformers' own modules: the same logits as its own forward pass, at once and step by step."""

import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gonbuild.base import FAMILIES
from gonbuild.decoder import Decoder, decoder_of
from gonbuild.memory import TILE, Room
from gonbuild.slots import PLACE, START, STEP, PlainCache

SHAPES = [
    {"heads": 4, "kv_heads": 4, "tied": False},
    {"heads": 4, "kv_heads": 2, "tied": True},
    {"heads": 6, "kv_heads": 2, "tied": True},
]


def make_model(family: str, *, heads: int = 4, kv_heads: int = 2, tied: bool = True, **more: object):
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        family, vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=12, tie_word_embeddings=tied, max_position_embeddings=256, **more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.normal_(0.3 if "norm" in name else 0.0, 0.3)  # norms and biases that matter
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 96, (3, 20), generator=torch.Generator().manual_seed(2))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    assert b.abs().max() > 0.1
    return torch.allclose(a, b, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_logits_are_those_of_transformers_read_at_once_and_behind_a_past(family, shape, ids):
    model = make_model(family, **shape)
    wanted = model(ids).logits
    decoder = decoder_of(model)
    assert close(decoder.logits(decoder.read(ids)[0]), wanted)
    assert torch.equal(model(ids).logits, wanted)

    _, start = decoder.read(ids[:, :7])
    assert close(decoder.logits(decoder.read(ids[:, 7:], start)[0]), wanted[:, 7:])
    same_start = torch.cat((ids[:1, :7].expand(3, -1), ids[:, 7:]), 1)
    _, one = decoder.read(ids[:1, :7])
    assert close(decoder.logits(decoder.read(ids[:, 7:], one)[0]), model(same_start).logits[:, 7:])


def step_through(decoder: Decoder, ids: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    """Logits of what follows each text's first tokens, which are its prompt, a step at a time."""
    count = ids.shape[1] - min(lengths)
    cache = PlainCache(decoder, Room(len(ids), TILE, 16, count, len(ids)), torch.device("cpu"))
    for place, length in enumerate(lengths):
        cache.put(torch.tensor([place]), 0, decoder.read(ids[place : place + 1, :length])[1])
    state = torch.zeros(7, TILE, dtype=torch.int64)
    state[PLACE, : len(ids)] = torch.arange(len(ids))
    state[START, : len(ids)] = torch.tensor(lengths)
    logits: list[list[torch.Tensor]] = [[] for _ in lengths]
    for step in range(count):
        tokens = torch.zeros(TILE, dtype=torch.int64)
        for row, length in enumerate(lengths):
            tokens[row] = ids[row, min(length + step, ids.shape[1] - 1)]
        cache.begin(state, slice(0, TILE))
        out = decoder.step(tokens, cache)
        for row, length in enumerate(lengths):
            if length + step < ids.shape[1]:
                logits[row].append(out[row])
        state[STEP] += 1
    return [torch.stack(rows) for rows in logits]


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_logits_of_steps_behind_prompts_of_several_lengths_are_those_of_transformers(family, ids):
    model = make_model(family, heads=6, kv_heads=2)
    wanted = model(ids).logits
    lengths = [5, 11, 8]
    for row, (length, got) in enumerate(zip(lengths, step_through(decoder_of(model), ids, lengths), strict=True)):
        assert close(got, wanted[row, length:])


@torch.inference_mode()
def test_weights_of_16_bits_that_lie_together_are_multiplied_at_once_and_give_the_same(ids):
    model = make_model("mistral").to(torch.bfloat16)
    wanted = model(ids).logits.float()
    got = decoder_of(model)
    got = got.logits(got.read(ids)[0]).float()
    assert (got - wanted).norm() < 0.02 * wanted.norm()


@torch.inference_mode()
def test_scaled_positions_are_followed(ids):
    scaled = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
    model = make_model("llama", rope_parameters=scaled)
    decoder = decoder_of(model)
    assert close(decoder.logits(decoder.read(ids)[0]), model(ids).logits)
    assert not torch.allclose(model(ids).logits, make_model("llama")(ids).logits, atol=1e-2)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
@torch.inference_mode()
def test_lora_that_is_not_merged_counts(ids):
    model = make_model("mistral")
    bare = model(ids).logits
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    decoder = decoder_of(adapted)
    assert close(decoder.logits(decoder.read(ids)[0]), adapted(ids).logits)
    assert not torch.allclose(adapted(ids).logits, bare, atol=1e-2)


def test_model_keeps_its_weights_when_they_are_laid_together():
    model, twin = make_model("qwen2", tied=False), make_model("qwen2", tied=False)
    Decoder(model)
    Decoder(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    mlp = model.model.layers[0].mlp
    assert mlp.gate_proj.weight.untyped_storage().data_ptr() == mlp.up_proj.weight.untyped_storage().data_ptr()


def test_decoder_of_a_model_is_made_once_and_goes_with_it():
    model = make_model("mistral")
    assert decoder_of(model) is decoder_of(model)
    assert decoder_of(make_model("mistral")) is not decoder_of(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
