"""Measures QLoRA training on a GPU, ours and the seed's recipe side by side, and prints one table.

    python tests/bench_training.py --base /tmp/mistral-7b [--save]      about five minutes on an H100

The base is made where it is missing: Mistral-7B's shape with random weights, on whose values neither speed nor memory
depend. `--tiny` does the same with a tiny base on any machine, to try the script. Each run is a process of its own, in
which the base is loaded before the clock starts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
ALPHABET = 530
"""Vocabulary of the tokenizer: with it the 24 rows have about as many tokens, 182 each, as the figures aimed at."""
SEED_UPDATES = 8
"""Of the 2,000 stories, for the seed's recipe; all of an epoch would take it a quarter of an hour."""


def make_base(folder: Path, *, tiny: bool) -> None:
    """Saves a randomly initialised MistralForCausalLM of Mistral-7B-v0.1's shape with a tokenizer."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=ALPHABET, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    texts = [row.prompt + row.completion for row in deck_rows()]
    core.train_from_iterator(texts, trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    tokenizer.save_pretrained(folder)
    shape = (
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4} if tiny else {}
    )
    config = MistralConfig(num_key_value_heads=2 if tiny else 8, sliding_window=4096, **shape)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = MistralForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)


def deck_rows() -> list[Any]:
    """One story of each of the game's 24 cards."""
    from gonbuild.pipeline import load_project
    from gonbuild.records import Row

    ws = load_project(REPOSITORY).workspace()
    cards = sorted(ws.library.cards, key=lambda card: card.id)
    return [Row(c.id, ws.templates.prompt(c).text, ws.templates.completion(c.examples[0])) for c in cards]


def many_rows(count: int) -> list[Any]:
    """The first `count` stories that the profile would train on after the decks' own."""
    from gonbuild.pipeline import load_project

    ws = load_project(REPOSITORY, "mistral-7b").workspace()
    return list(ws.rows[-count:])


def settings(*, tiny: bool) -> Any:
    """The settings of the profile; a tiny base runs on the CPU in 32 bits."""
    from gonbuild.settings import parse_settings

    profile = parse_settings({"profile": "mistral-7b"})
    if not tiny:
        return profile
    plain = parse_settings({}).model
    small = profile.adapter.model_copy(update={"optimizer": "adamw_torch", "rank": 4})
    return profile.model_copy(update={"model": plain, "adapter": small})


def measure(kind: str, rows: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Trains in this process and returns what it took; `kind` is `ours` or `seed`."""
    from gonbuild.base import BaseFiles
    from gonbuild.model import load_base

    whole = settings(tiny=args.tiny)
    began = time.perf_counter()
    base = load_base(BaseFiles(args.base.name, args.base), whole.model, 0)
    loaded = time.perf_counter() - began
    import torch

    gpu = torch.cuda.is_available() and not args.tiny
    tokens = [len(base.encode_row(row)[0]) for row in rows]
    ends: list[float] = []
    adapter = whole.adapter.model_copy(update={"epochs": args.epochs})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train = {"ours": train_ours, "seed": train_seed}[kind]
        losses = train(base, rows, adapter, Path(folder), args.updates, lambda: ends.append(time.perf_counter()))
        seconds = time.perf_counter() - start
        sha = ""
        if kind == "ours":
            from gonbuild.records import digest

            sha = digest((Path(folder) / "adapter_model.safetensors").read_bytes())
    steps = [b - a for a, b in pairwise(ends)]
    return {
        "kind": kind,
        "loaded": loaded,
        "seconds": seconds,
        "first_update": ends[0] - start,
        "update": statistics.median(steps) if steps else 0.0,
        "rows": len(rows),
        "row_tokens": statistics.mean(tokens),
        "rows_per_update": 16,
        "losses": losses,
        "peak": torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0,
        "reserved": torch.cuda.max_memory_reserved() / 2**30 if gpu else 0.0,
        "sha256": sha,
    }


def train_ours(base: Any, rows: list[Any], adapter: Any, folder: Path, updates: int, ended: Any) -> list[float]:
    """Trains as `gonbuild train` does."""
    from gonbuild.training import train_adapter

    def progress(what: str, done: int, _total: int, _loss: float | None = None) -> None:
        if what == "training" and done:
            ended()

    if updates:
        adapter = adapter.model_copy(update={"epochs": updates * 16 / len(rows)})
    return [loss for _, loss in train_adapter(base, rows, adapter, folder, progress).losses]


def train_seed(base: Any, rows: list[Any], adapter: Any, folder: Path, updates: int, ended: Any) -> list[float]:
    """Trains with trl alone and the seed's options, on the same rows in the same order."""
    import torch
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from gonbuild.trainer import CHECKPOINTING, Batches
    from gonbuild.training import lora_config

    encoded = [base.encode_row(row) for row in rows]
    lengths = [len(ids) for ids, _ in encoded]
    order = adapter.model_copy(update={"batch_size": 4, "accumulation": 4})

    class Seed(SFTTrainer):
        def get_train_dataloader(self) -> Any:
            batches = Batches(lengths, order, lambda: int(self.state.epoch or 0))
            loader = DataLoader(self._remove_unused_columns(self.train_dataset), batch_sampler=batches,
                                collate_fn=self.data_collator)  # fmt: skip
            return self.accelerator.prepare(loader)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended()

    set_seed(adapter.seed)
    trainer = Seed(
        model=base.model,
        args=SFTConfig(
            output_dir=str(folder), num_train_epochs=adapter.epochs, max_steps=updates or -1,
            per_device_train_batch_size=4, gradient_accumulation_steps=4, learning_rate=adapter.learning_rate,
            lr_scheduler_type=adapter.schedule, warmup_steps=adapter.warmup, max_grad_norm=adapter.max_grad_norm,
            optim=adapter.optimizer, **{CHECKPOINTING: True}, seed=adapter.seed, bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(), max_length=2048, dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="no", logging_steps=1, report_to="none", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"input_ids": ids, "labels": [-100] * start + ids[start:]} for ids, start in encoded]
        ),
        processing_class=base.tokenizer,
        peft_config=lora_config(base, adapter),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(folder))
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def run(args: argparse.Namespace, kind: str, rows: int, updates: int = 0, epochs: float = 3.0) -> dict[str, Any]:
    """Measures in a fresh process."""
    command = [sys.executable, __file__, "--base", str(args.base), "--run", kind, "--rows", str(rows),
               "--updates", str(updates), "--epochs", str(epochs), *(["--tiny"] if args.tiny else [])]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{kind} failed:\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    print({k: v for k, v in result.items() if k != "losses"}, [round(x, 3) for x in result["losses"][:12]], flush=True)
    return result


def drift(ours: list[float], theirs: list[float]) -> float:
    """Mean relative difference of two loss curves."""
    return statistics.mean(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Makes the base if need be, measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base; made where it is missing")
    parser.add_argument("--tiny", action="store_true", help="a tiny base on the CPU, to try the script")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours on 24 rows; the median is shown")
    parser.add_argument("--run", choices=["ours", "seed"], help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=24, help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=float, default=3.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        rows = deck_rows() if args.rows == 24 else many_rows(args.rows)
        print(json.dumps(measure(args.run, rows, args)))
        return
    if not (args.base / "config.json").is_file():
        began = time.perf_counter()
        make_base(args.base, tiny=args.tiny)
        print(f"made {args.base} in {time.perf_counter() - began:.0f} s", flush=True)
    many = 200 if args.tiny else 2000
    seed = run(args, "seed", 24)
    ours = sorted((run(args, "ours", 24) for _ in range(args.repeats)), key=lambda r: r["seconds"])
    seed_many = run(args, "seed", many, updates=SEED_UPDATES)
    ours_many = run(args, "ours", many, epochs=1.0)
    print(table(seed, ours, seed_many, ours_many))


def table(seed: Any, ours: list[Any], seed_many: Any, ours_many: Any) -> str:
    """Puts the runs into one table."""
    median = ours[len(ours) // 2]
    speeds = [16 * r["row_tokens"] / r["update"] for r in (seed_many, ours_many)]
    same = "the same" if len({r["sha256"] for r in ours}) == 1 else "DIFFERENT"
    rows = [
        (f"24 rows of {median['row_tokens']:.0f} tokens, 3 epochs, base loaded", f"{seed['seconds']:.1f} s",
         f"{median['seconds']:.1f} s"),
        ("of this to the end of the first update", f"{seed['first_update']:.1f} s", f"{median['first_update']:.1f} s"),
        ("an update (16 rows, or the last 8), median", f"{seed['update']:.2f} s", f"{median['update']:.2f} s"),
        ("peak GPU memory allocated, 24 rows", f"{seed['peak']:.1f} GiB", f"{max(r['peak'] for r in ours):.1f} GiB"),
        ("loss curves: mean relative difference", "-", f"{drift(median['losses'], seed['losses']):.2%}"),
        (f"tokens/s on {ours_many['rows']} stories of {ours_many['row_tokens']:.0f} tokens", f"{speeds[0]:.0f}",
         f"{speeds[1]:.0f} ({speeds[1] / speeds[0]:.1f} x)"),
        ("peak GPU memory allocated, those stories", f"{seed_many['peak']:.1f} GiB", f"{ours_many['peak']:.1f} GiB"),
        (f"sha256 of {len(ours)} adapters with the same key", "-", same),
    ]  # fmt: skip
    head = ["| | seed's recipe | gonbuild |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    main()
