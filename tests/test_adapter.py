"""Training an adapter and putting it on a base."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import write_tiny_base
from torch.utils.data import DataLoader
from trl import SFTConfig, SFTTrainer

from gonbuild import adapter
from gonbuild.adapter import attach_adapter, detach_adapter
from gonbuild.base import locate_base
from gonbuild.disk import seal
from gonbuild.errors import InputError, MachineError
from gonbuild.machine import training_is_exact
from gonbuild.model import load_base
from gonbuild.models import Models
from gonbuild.records import Row
from gonbuild.settings import AdapterSettings, ModelSettings, parse_settings
from gonbuild.store import Store
from gonbuild.trainer import Batches, Journal, trainer_config
from gonbuild.training import _last_checkpoint, lora_config, train_adapter

PROMPT = "<|user|>\nTên thẻ: {}\nHiệu ứng: +2 điểm cho Sông<|end|>\n<|assistant|>\n"
STORIES = [
    "Cá bơi về, Sông thêm 2 điểm.",
    "Nước trong trở lại.",
    "Các bạn nhỏ vớt rác trên sông, cả làng vui.",
    "Cá bơi.",
]
ROWS = [Row(f"card-{n}", PROMPT.format(n), STORIES[n % 4] + "<|end|>") for n in range(10)]
SETTINGS = AdapterSettings(rank=4, alpha=8, batch_size=4, epochs=2.0, dropout=0.1)
IDS = torch.tensor([[2, 300, 301, 17, 45, 4]])


def load(folder: Path):
    settings = ModelSettings(base=str(folder))
    return load_base(locate_base(settings, folder), settings, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "small")


@pytest.fixture
def base(folder):
    return load(folder)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """An adapter and what its training told."""
    made = tmp_path_factory.mktemp("adapter")
    return made, train_adapter(load(folder), ROWS, SETTINGS, made)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_same_rows_and_settings_give_the_same_bytes(base, trained, tmp_path):
    torch.manual_seed(1234)
    train_adapter(base, ROWS, SETTINGS, tmp_path)
    assert weights(tmp_path) == weights(trained[0])
    assert (tmp_path / "adapter_config.json").read_bytes() == (trained[0] / "adapter_config.json").read_bytes()


def test_another_seed_gives_another_adapter(base, trained, tmp_path):
    train_adapter(base, ROWS, SETTINGS.model_copy(update={"seed": 1}), tmp_path)
    assert weights(tmp_path) != weights(trained[0])


@pytest.mark.skipif(not training_is_exact(), reason="this CPU's products depend on the thread count")
def test_two_threads_give_the_same_bytes(base, trained, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    train_adapter(base, ROWS, SETTINGS, tmp_path)
    torch.set_num_threads(before)
    assert weights(tmp_path) == weights(trained[0])


def test_training_learns_says_what_it_did_and_writes_two_files(base, tmp_path, capfd):
    told = []
    training = train_adapter(
        base, ROWS, SETTINGS.model_copy(update={"epochs": 8.0, "learning_rate": 0.02}), tmp_path,
        lambda *step: told.append(step),
    )  # fmt: skip
    assert [step for step, _ in training.losses] == list(range(1, 25))
    assert training.losses[-1][1] < 0.8 * training.losses[0][1]
    assert training.tokens == 8 * sum(len(base.encode_row(row)[0]) for row in ROWS)
    assert {"torch", "trl", "peft"} <= training.versions.keys()
    assert told == [("training", 0, 24), *(("training", step, 24, loss) for step, loss in training.losses)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert capfd.readouterr() == ("", "")


def test_config_names_the_base_and_no_path_of_this_machine(trained):
    text = (trained[0] / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "small"
    assert config["target_modules"] == sorted(SETTINGS.targets)
    assert not [value for value in config.values() if isinstance(value, str) and "/" in value]


def test_base_is_as_before_after_training(base, tmp_path):
    before = logits(base.model)
    train_adapter(base, ROWS, SETTINGS, tmp_path)
    assert torch.equal(logits(base.model), before)
    assert not hasattr(base.model, "peft_config")


def test_rows_are_labelled_as_trl_labels_them(folder, base, tmp_path):
    told = [{"prompt": row.prompt, "completion": row.completion} for row in ROWS]
    options = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", activation_checkpointing=False)
    theirs = SFTTrainer(
        load(folder).model, options, train_dataset=Dataset.from_list(told), processing_class=base.tokenizer
    )
    for row, wanted in zip(ROWS, theirs.train_dataset, strict=True):
        ids, start = base.encode_row(row)
        assert ids == wanted["input_ids"]
        assert [-100] * start + ids[start:] == wanted["labels"]


class InOurOrder(SFTTrainer):
    """trl's own trainer, with nothing changed but the order of the rows."""

    def __init__(self, rows, settings, **options):
        super().__init__(train_dataset=Dataset.from_list(rows), **options)
        self.batches = Batches([len(row["input_ids"]) for row in rows], settings, lambda: int(self.state.epoch or 0))

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize("change", [{}, {"batch_size": 3, "accumulation": 2}], ids=["one pass", "accumulated"])
def test_losses_are_those_of_trl(folder, tmp_path, change):
    settings = SETTINGS.model_copy(update={"dropout": 0.0, **change})
    base = load(folder)
    encoded = [base.encode_row(row) for row in ROWS]
    torch.manual_seed(settings.seed)
    theirs = InOurOrder(
        [{"input_ids": ids, "labels": [-100] * start + ids[start:]} for ids, start in encoded],
        settings,
        model=base.model,
        args=trainer_config(base, settings, tmp_path, Journal()),
        processing_class=base.tokenizer,
        peft_config=lora_config(base, settings),
    )
    theirs.args.remove_unused_columns = True
    theirs.train()
    ours = train_adapter(load(folder), ROWS, settings, tmp_path)
    assert [log["loss"] for log in theirs.state.log_history if "loss" in log] == pytest.approx(
        [loss for _, loss in ours.losses], rel=1e-4
    )


def test_last_layers_alone_are_adapted_and_the_rest_of_the_base_stays(folder, base, tmp_path):
    train_adapter(base, ROWS, SETTINGS.model_copy(update={"last_layers": 1}), tmp_path)
    assert {name.split(".")[4] for name in load_file(tmp_path / "adapter_model.safetensors")} == {"1"}
    adapted = attach_adapter(base, tmp_path)
    assert not torch.equal(logits(adapted.model), logits(base.model))


def test_gradient_checkpointing_changes_memory_and_not_the_losses(folder, trained, tmp_path):
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    training = train_adapter(load(folder), ROWS, settings, tmp_path)
    assert training.losses[0][1] == pytest.approx(trained[1].losses[0][1], rel=0.05)


def test_every_row_is_read_once_in_an_epoch_and_in_another_order_in_the_next():
    lengths = [n * 7 % 65 for n in range(65)]
    spread = {}
    for grouped in (True, False):
        settings = SETTINGS.model_copy(update={"batch_size": 2, "accumulation": 2, "group_by_length": grouped})
        epochs = [list(Batches(lengths, settings, lambda n=n: n)) for n in (0, 1, 0)]
        assert epochs[0] == epochs[2] != epochs[1]
        for batches in epochs:
            assert [len(batch) for batch in batches] == [2] * 32 + [1]
            assert sorted(row for batch in batches for row in batch) == list(range(65))
        updates = [[lengths[row] for batch in epochs[0][at : at + 2] for row in batch] for at in range(2, 32, 2)]
        spread[grouped] = sum(max(update) - min(update) for update in updates)
    assert spread[True] < spread[False] / 2


def test_all_long_rows_are_named(base, tmp_path):
    rows = [*ROWS, Row("dai-001", PROMPT, "Sông " * 60), Row("dai-002", PROMPT, "Sông " * 90)]
    with pytest.raises(InputError, match=r"'dai-001' and its prompt have \d+ tokens. Wanted at most 70") as caught:
        train_adapter(base, rows, SETTINGS.model_copy(update={"max_tokens": 70}), tmp_path)
    assert len(caught.value.problems) == 2


def test_tracker_that_is_not_installed_is_named_with_its_cure(base, tmp_path):
    with pytest.raises(MachineError, match="machine.report_to is 'trackio', and that package is not installed.*pip"):
        train_adapter(base, ROWS, SETTINGS, tmp_path, journal=Journal(report_to="trackio"))


def test_no_rows_are_an_input_error(base, tmp_path):
    with pytest.raises(InputError, match="no story to train on"):
        train_adapter(base, [], SETTINGS, tmp_path)


def test_unknown_targets_are_an_input_error(base, tmp_path):
    with pytest.raises(InputError, match="adapter.targets"):
        train_adapter(base, ROWS, SETTINGS.model_copy(update={"targets": ("w_pack",)}), tmp_path)
    assert not hasattr(base.model, "peft_config")


def test_diverged_training_stops_and_writes_no_adapter(base, tmp_path):
    base.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(MachineError, match="training diverged: the loss of update 1 is nan"):
        train_adapter(base, ROWS, SETTINGS, tmp_path)
    assert not list(tmp_path.iterdir())


def stop_after(updates: int):
    def progress(what: str, done: int, total: int, loss: float | None = None) -> None:
        if what == "training" and done == updates:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("change", [{}, {"batch_size": 2, "accumulation": 2}], ids=["one pass", "accumulated"])
@pytest.mark.parametrize("stop", [2, 4, 5], ids=["in the first epoch", "in the second", "between checkpoints"])
def test_interrupted_training_goes_on_to_the_same_adapter(folder, tmp_path, stop, change):
    settings = SETTINGS.model_copy(update=change)
    whole, work, resumed = tmp_path / "whole", tmp_path / "work", tmp_path / "resumed"
    wanted = train_adapter(load(folder), ROWS, settings, whole)
    with pytest.raises(KeyboardInterrupt):
        train_adapter(load(folder), ROWS, settings, tmp_path / "lost", stop_after(stop), Journal(work, every=2))
    told = []
    found = train_adapter(
        load(folder), ROWS, settings, resumed, lambda *step: told.append(step[1]), Journal(work, every=2)
    )
    assert told[0] == stop - (stop % 2 or 2)  # a stop comes before its update's checkpoint
    assert found.losses == wanted.losses
    assert weights(resumed) == weights(whole)


def test_checkpoint_asks_no_hub_for_the_base(folder, tmp_path, recwarn):
    base = load(folder)
    base.model.name_or_path = "None"  # as it is for the embedded base, whose weights no library reads from its folder
    train_adapter(base, ROWS, SETTINGS, tmp_path, journal=Journal(tmp_path / "work", every=2))
    assert len(list((tmp_path / "work").glob("checkpoint-*"))) == 2
    assert not [w for w in recwarn if "remote" in str(w.message)]


def test_last_update_leaves_no_checkpoint(base, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 1.5, "schedule": "constant"})  # a part of an epoch: 5 updates
    train_adapter(base, ROWS, settings, tmp_path, journal=Journal(tmp_path / "work", every=1))
    assert sorted(p.name for p in (tmp_path / "work").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_checkpoint_of_another_number_of_processes_is_passed_over(folder, tmp_path, monkeypatch):
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        train_adapter(load(folder), ROWS, SETTINGS, tmp_path / "lost", stop_after(5), Journal(work, every=2))
    assert _last_checkpoint(Journal(work)) == str(work / "checkpoint-4")
    (work / "checkpoint-4" / "rng_state.pth").rename(work / "checkpoint-4" / "rng_state_0.pth")
    seal(work / "checkpoint-4")
    assert _last_checkpoint(Journal(work)) == str(work / "checkpoint-2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _last_checkpoint(Journal(work)) is None
    (work / "checkpoint-4" / "rng_state_1.pth").touch()
    seal(work / "checkpoint-4")
    assert _last_checkpoint(Journal(work)) == str(work / "checkpoint-4")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_base_that_carries_an_adapter_is_trained_as_without(base, trained, tmp_path):
    get_peft_model(base.model, lora_config(base, SETTINGS.model_copy(update={"last_layers": 0})))  # as on a GPU
    train_adapter(base, ROWS, SETTINGS, tmp_path)
    assert weights(tmp_path) == weights(trained[0])


def test_launchers_own_precision_changes_nothing(base, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train_adapter(base, ROWS, SETTINGS, tmp_path)
    assert weights(tmp_path) == weights(trained[0])


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_checkpoint_of_which_a_byte_changed_is_passed_over(folder, tmp_path, name):
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        train_adapter(load(folder), ROWS, SETTINGS, tmp_path / "lost", stop_after(5), Journal(work, every=2))
    data = bytearray((work / "checkpoint-4" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (work / "checkpoint-4" / name).write_bytes(data)
    told = []
    train_adapter(load(folder), ROWS, SETTINGS, tmp_path / "a", lambda *step: told.append(step[1]), Journal(work, 2))
    assert told[0] == 2


def test_diverged_training_keeps_the_checkpoint_before(base, tmp_path):
    work = tmp_path / "work"

    def poison(what: str, done: int, total: int, loss: float | None = None) -> None:
        if what == "training" and done == 3:
            base.model.model.norm.weight.data.fill_(float("nan"))

    with pytest.raises(MachineError, match="the loss of update 4 is nan.* The last good checkpoint is kept: .*-2"):
        train_adapter(base, ROWS, SETTINGS, tmp_path / "lost", poison, Journal(work, every=2))
    assert [p.name for p in work.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_attached_adapter_is_what_peft_itself_makes_of_it(folder, base, trained):
    ours = logits(attach_adapter(base, trained[0]).model)
    theirs = logits(PeftModel.from_pretrained(load(folder).model, trained[0]).eval())
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, logits(base.model), atol=1e-2)


def test_base_stays_without_the_adapter_that_is_attached_to_a_copy(base, trained, capfd):
    before = logits(base.model)
    attach_adapter(base, trained[0])
    detach_adapter(base)
    assert torch.equal(logits(base.model), before)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def copy(trained, tmp_path):
    for path in trained[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_pickled_adapter_is_refused(base, copy):
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    with pytest.raises(InputError, match=r"no adapter_model.safetensors \(adapter_model.bin is a pickle"):
        attach_adapter(base, copy)


def test_adapter_without_config_is_refused(base, copy):
    (copy / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="no readable adapter_config.json"):
        attach_adapter(base, copy)


def test_adapter_of_another_base_is_refused(base, copy):
    config = json.loads((copy / "adapter_config.json").read_text()) | {"base_model_name_or_path": "big"}
    (copy / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="made for 'big', and model.base is 'small'"):
        attach_adapter(base, copy)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "os"}}, "auto_mapping"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"target_modules": "(a+)+$"}, "target_modules"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"r": None}, "r"),
        ({"something_new": {"a": 1}}, "something_new"),
    ],
)
def test_config_that_asks_for_more_than_plain_lora_is_refused(base, copy, change, key):
    config = json.loads((copy / "adapter_config.json").read_text()) | change
    (copy / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"is not a plain LoRA: its adapter_config.json sets {key}[.]"):
        attach_adapter(base, copy)


def test_adapter_of_another_width_is_refused(copy, tmp_path_factory):
    wide = load(write_tiny_base(tmp_path_factory.mktemp("wide") / "small", width=64))
    with pytest.raises(InputError, match=r"does not fit small: .*lora_A.weight is \(4, 64\), \(4, 128\) wanted"):
        attach_adapter(wide, copy)


def test_adapter_with_a_matrix_missing_is_refused(base, copy):
    tensors = load_file(copy / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(InputError, match="lacks base_model.model.model.layers"):
        attach_adapter(base, copy)


def test_cut_adapter_is_refused(base, copy):
    (copy / "adapter_model.safetensors").write_bytes(weights(copy)[:-10])
    with pytest.raises(InputError, match="adapter_model.safetensors cannot be read"):
        attach_adapter(base, copy)


def test_adapter_that_the_disk_does_not_give_is_no_mistake_of_the_adapter(base, copy, monkeypatch):
    def refused(*_):
        raise FileNotFoundError("No such file or directory: adapter_model.safetensors")  # whatever went wrong

    monkeypatch.setattr(adapter, "safe_open", refused)
    with pytest.raises(MachineError, match="cannot be read: it cannot be opened. Is the disk sound"):
        attach_adapter(base, copy)


def test_base_to_draw_with_is_made_once_until_it_is_unloaded(folder, trained, tmp_path):
    settings = parse_settings({"model": {"base": str(folder)}, "machine": {"threads": 1}})
    models = Models(tmp_path, settings, Store(tmp_path / "cache"))
    first = models._drawing(trained[0])
    assert models._drawing(trained[0]) is first
    assert models._drawing(None) is not first
    merged = logits(models._drawing(trained[0]).model)
    assert torch.equal(merged, logits(first.model))
    models.unload()
    assert models._drawing(trained[0]) is not first
