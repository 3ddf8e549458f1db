"""Writes a tiny random Mistral base with a byte-level tokenizer, in some milliseconds and without loading torch."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEXT = """Bạn viết chuyện cho các thẻ bài GON, trò chơi bảo vệ môi trường của trẻ em Việt Nam. Từ tên thẻ, loại thẻ và
hiệu ứng, hãy viết một câu chuyện ngắn 1-2 câu, sinh động, có tính giáo dục, lồng hiệu ứng vào câu chuyện bằng lời dễ
hiểu với trẻ em. Tên thẻ: Trồng Rừng Đầu Nguồn Loại: Bảo Vệ Cộng Đồng Thiên Tai Hiệu ứng: +2 điểm cho Rừng -1 điểm cho
Sông Đất Làng. Cả làng cùng nhau trồng cây gây rừng, các bạn nhỏ vớt rác trên sông, nước trong trở lại và cá bơi về."""


def write_tiny_base(folder: Path, *, seed: int = 0, width: int = 32, layers: int = 2) -> Path:
    """Writes the base into a folder, made where it is missing, and returns the folder.

    The same arguments write the same bytes. The weights are large enough for next-token distributions that are far
    from uniform, and prompts of the game's cards take about 150 tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder)
    config = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "max_position_embeddings": 1024,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(_weights(config, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(folder: Path) -> int:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([TEXT], trainer=trainer)
    core.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": list(SPECIAL[2:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return core.get_vocab_size()


def _weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    width, mlp, kv = config["hidden_size"], config["intermediate_size"], config["hidden_size"] // 2
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale / columns**0.5).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], width, 1.5),
        "model.norm.weight": np.ones(width, np.float32),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        weights |= {
            layer + "input_layernorm.weight": np.ones(width, np.float32),
            layer + "post_attention_layernorm.weight": np.ones(width, np.float32),
            layer + "self_attn.q_proj.weight": matrix(width, width),
            layer + "self_attn.k_proj.weight": matrix(kv, width),
            layer + "self_attn.v_proj.weight": matrix(kv, width),
            layer + "self_attn.o_proj.weight": matrix(width, width),
            layer + "mlp.gate_proj.weight": matrix(mlp, width),
            layer + "mlp.up_proj.weight": matrix(mlp, width),
            layer + "mlp.down_proj.weight": matrix(width, mlp),
        }
    return weights
