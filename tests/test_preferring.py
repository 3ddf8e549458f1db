"""Learning from marks with trl's own trainers, on a tiny base: seconds, and the same bytes each time."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from test_adapter import ROWS, SETTINGS, load, logits, weights
from tiny import write_tiny_base

from gonbuild.adapter import attach_adapter, nothing_printed
from gonbuild.errors import InputError, MachineError
from gonbuild.models import Models
from gonbuild.preferences import marked_rows
from gonbuild.preferring import LEARNING, _no_bar, _trainer, prefer
from gonbuild.records import END, Marked, Pair, Preferences, quiet
from gonbuild.settings import parse_settings
from gonbuild.store import Store
from gonbuild.training import train_adapter

PROMPT = ROWS[0].prompt
GOOD = ("Cá bơi về.", "Các bạn nhỏ vớt rác trên sông, cả làng vui.")
BAD = ("Sông thêm 2 điểm.", "Sông được 2 điểm nhờ cá.", "Sông vui.")
MARKS = Preferences(
    tuple(Pair("a", PROMPT, good + END, bad + END) for good in GOOD for bad in BAD),
    tuple(Marked("a", PROMPT, text + END, liked, "cards/a.yaml:3") for liked in (True, False)
          for text in (GOOD if liked else BAD)),
)  # fmt: skip
BANS = Preferences((), tuple(row for row in MARKS.rows if not row.liked))
LEARN = SETTINGS.model_copy(update={"preference_epochs": 6.0, "preference_learning_rate": 3e-3})
METHODS = {method: LEARN.model_copy(update={"method": method}) for method in ("dpo", "kto")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "small")


@pytest.fixture(scope="module")
def taught(folder, tmp_path_factory):
    """An adapter that was trained on stories alone."""
    made = tmp_path_factory.mktemp("taught")
    train_adapter(load(folder), ROWS, SETTINGS, made)
    return made


@pytest.fixture
def base(folder):
    return load(folder)


@pytest.fixture
def copy(taught, tmp_path):
    """Returns copies of that adapter."""
    return lambda name: Path(shutil.copytree(taught, tmp_path / name))


def trainer_of(base, settings, adapter: Path):
    with nothing_printed():
        model = PeftModel.from_pretrained(base.model, adapter, is_trainable=True)
        with _no_bar():
            return _trainer(base, model, MARKS, settings, adapter)


def nats(base, adapter: Path, text: str) -> float:
    """Returns a story's log-probability after the prompt."""
    ids = base.encode(PROMPT + text + END)
    start = len(base.encode(PROMPT))
    with torch.no_grad():
        shares = attach_adapter(base, adapter).model(torch.tensor([ids])).logits.log_softmax(-1)[0]
    return sum(float(shares[at - 1, ids[at]]) for at in range(start, len(ids)))


@pytest.mark.parametrize("method", METHODS)
def test_banned_stories_become_less_likely_beside_liked_ones(base, copy, method):
    adapter = copy("adapter")

    def margin() -> float:
        good, bad = ([nats(base, adapter, text) for text in texts] for texts in (GOOD, BAD))
        return sum(good) / len(good) - sum(bad) / len(bad)

    before = margin()
    told = []
    learned = prefer(base, MARKS, METHODS[method], adapter, lambda *step: told.append(step))
    assert margin() > before + 1
    assert learned.losses[-1][1] < learned.losses[0][1]
    assert learned.read == {"dpo": 6, "kto": 5}[method]
    assert told == [(LEARNING, 0, 12), *((LEARNING, step, 12, loss) for step, loss in learned.losses)]


@pytest.mark.parametrize("method", METHODS)
def test_same_marks_give_the_same_bytes_and_leave_the_base_as_it_was(base, folder, taught, copy, method):
    before = logits(base.model)
    first, second = copy("first"), copy("second")
    torch.manual_seed(1234)
    prefer(base, MARKS, METHODS[method], first)
    assert torch.equal(logits(base.model), before)
    assert not hasattr(base.model, "peft_config")
    prefer(load(folder), MARKS, METHODS[method], second)
    assert weights(first) == weights(second) != weights(taught)
    assert sorted(p.name for p in first.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (first / "adapter_config.json").read_bytes() == (taught / "adapter_config.json").read_bytes()


def test_nothing_is_printed_and_the_environment_stays(base, copy, capfd, monkeypatch):
    for method, settings in METHODS.items():
        before = dict(os.environ)
        prefer(base, MARKS, settings, copy(method))
        assert dict(os.environ) == before
        monkeypatch.setenv("TQDM_DISABLE", "0")  # of the second one
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", METHODS)
def test_what_it_is_held_to_is_the_adapter_and_not_the_bare_base(base, copy, method):
    """Before the first update the reference says of each story what the adapter says, so that nothing is rewarded."""
    trainer = trainer_of(base, METHODS[method].model_copy(update={"warmup": 0.0}), copy("adapter"))
    with nothing_printed():
        trainer.train()
    margins = [log["rewards/margins"] for log in trainer.state.log_history if "rewards/margins" in log]
    assert margins[0] == pytest.approx(0, abs=1e-5)
    assert max(margins) > 0.01


def test_copy_that_it_is_held_to_learns_nothing(base, copy):
    trainer = trainer_of(base, METHODS["dpo"], copy("adapter"))
    model = trainer.model
    kept = {name: p.clone() for name, p in model.named_parameters() if ".ref." in name}
    with nothing_printed():
        trainer.train()
    assert len(kept) == 28
    assert all(torch.equal(model.get_parameter(name), value) for name, value in kept.items())
    moved = {name.replace(".ref.", ".default."): value for name, value in kept.items()}
    assert not any(torch.equal(model.get_parameter(name), value) for name, value in moved.items() if "lora_B" in name)


@pytest.mark.parametrize("method", METHODS)
def test_trl_reads_the_tokens_that_training_rows_have(base, taught, method):
    read = trainer_of(base, METHODS[method], taught).train_dataset
    names = {"dpo": ("chosen_ids", "rejected_ids"), "kto": ("completion_ids",)}[method]
    found = {(*row["prompt_ids"], *row[name]) for row in read for name in names}
    assert found == {tuple(base.encode_row(row)[0]) for row in marked_rows(MARKS)}


def test_batch_of_one_is_none_that_kto_could_take(base, copy):
    learned = prefer(base, MARKS, METHODS["kto"].model_copy(update={"batch_size": 1}), copy("adapter"))
    assert len(learned.losses) == 6 * 3


def test_gradient_checkpointing_changes_no_byte(base, copy):
    for method, settings in METHODS.items():
        first, second = copy(method), copy(f"{method} again")
        prefer(base, MARKS, settings, first)
        prefer(base, MARKS, settings.model_copy(update={"gradient_checkpointing": True}), second)
        assert weights(first) == weights(second)


@pytest.mark.parametrize("method", METHODS)
def test_from_bans_alone_nothing_is_learned(base, copy, method):
    with pytest.raises(InputError, match=f'adapter.method is "{method}", and .*`gonbuild review`'):
        prefer(base, BANS, METHODS[method], copy("adapter"))


def test_long_stories_are_named(base, copy):
    short = METHODS["dpo"].model_copy(update={"max_tokens": 35})
    with pytest.raises(InputError, match=r"^cards/a.yaml:3: a story of 'a' and its prompt have \d+ tokens") as caught:
        prefer(base, MARKS, short, copy("adapter"))
    assert len(caught.value.problems) == 2


def test_learning_that_diverged_says_what_to_lower_and_leaves_the_adapter(base, taught, copy):
    adapter = copy("adapter")
    base.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(MachineError, match="learning from marks diverged: the loss of update 1 is nan.*learning_rate"):
        prefer(base, MARKS, METHODS["dpo"], adapter)
    assert weights(adapter) == weights(taught)
    assert not hasattr(base.model, "peft_config")


@pytest.mark.parametrize("method", METHODS)
def test_train_goes_on_from_stories_to_marks_in_one_folder(folder, tmp_path, method):
    chosen = {**SETTINGS.model_dump(mode="json"), "method": method, "preference_epochs": 2.0}
    settings = parse_settings({"model": {"base": str(folder)}, "machine": {"threads": 1}, "adapter": chosen})
    models = Models(tmp_path, settings, Store(tmp_path / "cache"))
    (tmp_path / "made").mkdir()
    steps = []
    models.train(ROWS, tmp_path / "made", tmp_path / "work", lambda what, *_: steps.append(what), MARKS)
    told = json.loads((tmp_path / "made" / "training.json").read_bytes())
    assert len(told["losses"]) == 6
    assert told["preferences"]["method"] == method
    assert [step for step, _ in told["preferences"]["losses"]] == [1, 2, 3, 4]
    assert list(dict.fromkeys(steps)) == ["loading the model", "training", LEARNING]
    assert attach_adapter(models._base, tmp_path / "made")


def test_train_without_marks_stops_before_anything_is_loaded(folder, tmp_path):
    settings = parse_settings({"model": {"base": str(folder)}, "adapter": {"method": "dpo"}})
    models = Models(tmp_path, settings, Store(tmp_path / "cache"))
    with pytest.raises(InputError, match="Approve or pin a story and ban another of the same card"):
        models.train(ROWS, tmp_path, tmp_path / "work", quiet, BANS)
    assert "_base" not in vars(models)


def test_pairs_that_no_memory_holds_are_refused_before_anything_is_loaded(folder, tmp_path):
    wide = parse_settings({"model": {"base": str(folder)}, "adapter": {"method": "dpo", "batch_size": 100_000}})
    models = Models(tmp_path, wide, Store(tmp_path / "cache"))
    with pytest.raises(
        MachineError, match=r"training needs about .* for 200000 rows at once.*lower adapter.batch_size"
    ):
        models.train(ROWS, tmp_path, tmp_path / "work", quiet, MARKS)
    assert "_base" not in vars(models)
