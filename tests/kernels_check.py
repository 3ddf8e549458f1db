"""Compares the GPU's kernels with plain PyTorch in Triton's interpreter, which runs them on a CPU; in an interpreter of
its own, since Triton reads that wish when it is first imported. Prints the largest difference of two logits.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

from gonbuild.machine import this_machine  # noqa: F401, I001  it sets what torch reads
import torch
from transformers import MistralConfig, MistralForCausalLM

from gonbuild.decoder import decoder_of
from gonbuild.kernels import KernelCache
from gonbuild.memory import TILE, Room
from gonbuild.slots import PLACE, START, STEP, PlainCache

torch.set_num_threads(1)
PROMPTS, ROWS = [40, 16, 33], [2, 0, 1, 0, 2]


def difference(dtype: torch.dtype, width: int, heads: int, kv_heads: int) -> float:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=width,
    )  # fmt: skip
    decoder = decoder_of(MistralForCausalLM(config).to(dtype).eval())
    caches = [kind(decoder, Room(5, TILE, 64, 8, 3), torch.device("cpu")) for kind in (PlainCache, KernelCache)]
    state = torch.zeros(7, TILE, dtype=torch.int64)
    worst = 0.0
    for place in range(len(PROMPTS)):
        _, read = decoder.read(torch.randint(0, 100, (1, 64)))
        for cache in caches:
            cache.put(torch.tensor([place]), 0, read)
    state[PLACE, : len(ROWS)] = torch.tensor(ROWS)
    state[START] = torch.tensor(PROMPTS)[state[PLACE]]
    state[STEP, 1] = 3  # a row that is further on than its neighbours, over what stands there
    for _ in range(2):
        tokens = torch.randint(0, 100, (TILE,))
        logits = []
        for cache in caches:
            cache.begin(state, slice(0, TILE))
            logits.append(decoder.step(tokens, cache))
        assert logits[0].std() > 0.05
        worst = max(worst, (logits[0] - logits[1]).abs().max().item())
        state[STEP] += 1
    return worst


with torch.inference_mode():
    print(difference(getattr(torch, sys.argv[1]), *map(int, sys.argv[2:])))
