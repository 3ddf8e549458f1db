"""The estimate of the memory that a step needs: against what was measured, and which setting moves what."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import write_tiny_base

from gonbuild.errors import InputError, MachineError
from gonbuild.memory import (
    GIB,
    KNOWN,
    Pass,
    generation_need,
    largest_pass,
    merging_need,
    read_shape,
    training_need,
    typical_pass,
)
from gonbuild.models import Models
from gonbuild.records import Row, quiet
from gonbuild.settings import parse_settings
from gonbuild.store import Store

PROFILE = parse_settings({"profile": "mistral-7b"})
MISTRAL = KNOWN[PROFILE.model.base]
NANO = read_shape(json.loads((Path(__file__).parent.parent / "gonbuild/nano/config.json").read_text()))
PASS = typical_pass(PROFILE.adapter.batch_size)


def part(need, what):
    return next(p.gib for p in need.parts if what in p.what)


def train(read=PASS, **change):
    return training_need(MISTRAL, PROFILE.model, PROFILE.adapter.model_copy(update=change), read)


def allocated(need):
    """What torch counts: the paged optimizer's states and the work space are none of it."""
    lora = part(need, "adapter")
    return need.gib - part(need, "work space") - lora * 8 / 12


def test_mistral_has_as_many_weights_as_its_card_says():
    norms = (2 * MISTRAL.layers + 1) * MISTRAL.hidden
    assert MISTRAL.linear + 2 * MISTRAL.vocabulary * MISTRAL.hidden + norms == 7_241_732_096


def test_base_in_4_bits_takes_what_was_measured():
    assert part(train(), "weights") == pytest.approx(3.9, abs=0.1)


@pytest.mark.parametrize(
    ("read", "change", "measured"),
    [
        (Pass(4, 4 * 182, 4 * 61), {}, 5.4),
        (PASS, {}, 5.0),
        (PASS, {"gradient_checkpointing": False}, 18.0),
    ],
    ids=["seed's recipe", "profile", "without checkpointing"],
)
def test_training_takes_about_what_an_h100_measured(read, change, measured):
    assert allocated(train(read, **change)) == pytest.approx(measured, rel=0.12)


def test_lora_counts_weights_gradients_and_two_states():
    weights = 32 * 64 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert part(train(), "adapter") == pytest.approx(weights * (2 + 2 + 8) / GIB)
    assert part(train(last_layers=8), "adapter") == pytest.approx(part(train(), "adapter") / 4)
    assert part(train(rank=16), "adapter") == pytest.approx(part(train(), "adapter") / 4)
    full = training_need(MISTRAL, PROFILE.model.model_copy(update={"quantization": "none"}), PROFILE.adapter, PASS)
    assert part(full, "adapter") == pytest.approx(weights * (4 + 4 + 8) / GIB)
    assert part(full, "weights") == pytest.approx(13.5, abs=0.1)


@pytest.mark.parametrize(
    "change", [{"rank": 16}, {"targets": ("q_proj", "v_proj")}, {"last_layers": 4}, {"dropout": 0.0}]
)
def test_smaller_adapter_needs_less(change):
    dear = {"gradient_checkpointing": False}
    assert train(**dear, **change).gib < train(**dear).gib


def test_plain_scales_need_0_4_bits_a_weight_more():
    plain = training_need(
        MISTRAL, PROFILE.model.model_copy(update={"double_quantization": False}), PROFILE.adapter, PASS
    )
    more = (plain.gib - train().gib) * GIB * 8 / MISTRAL.linear
    assert more == pytest.approx(0.37, abs=0.01)


def test_long_rows_need_more_for_themselves_and_their_mask():
    small, large = train(Pass(16, 8192, 4096)), train(Pass(16, 32768, 16384))
    assert part(large, "16 rows") > 4 * part(small, "16 rows")


def test_largest_pass_takes_the_longest_rows_and_counts_their_beginning_once():
    rows = [(10, 4), (30, 9), (20, 12), (8, 1)]
    assert largest_pass(rows, 5, 2) == Pass(2, 45, 21)
    assert largest_pass(rows, 5, 16) == Pass(4, 68 - 15, 26)
    assert largest_pass(rows, 0, 1) == Pass(1, 30, 12)


def test_generation_grows_with_the_candidates_and_merging_takes_all_weights_in_full():
    few, many = (
        generation_need(MISTRAL, PROFILE.model, PROFILE.adapter, PROFILE.sampling.model_copy(update=count), 182)
        for count in ({"candidates": 4}, {"candidates": 24})
    )
    assert part(many, "24 candidates") == pytest.approx(6 * part(few, "4 candidates"))
    assert many.cure == "lower sampling.candidates or sampling.max_new_tokens"
    assert merging_need(MISTRAL, PROFILE.model, PROFILE.adapter).gib == pytest.approx(14.8, abs=0.1)


def test_nano_fits_where_the_readme_says_it_does():
    s = parse_settings({})
    assert NANO is not None
    assert training_need(NANO, s.model, s.adapter, typical_pass(s.adapter.batch_size)).gib < 1
    assert generation_need(NANO, s.model, s.adapter, s.sampling, 182).gib < 1.1


def test_need_is_told_in_parts_with_the_settings_that_lower_the_largest():
    need = train()
    assert str(need) == (
        "training needs about 7.1 (3.8 weights, 1.9 adapter with optimizer, 1.1 for 16 rows at once, 0.3 work space)"
    )
    fewer = "adapter.batch_size (and raise adapter.accumulation by as much)"
    assert need.cure == f"lower adapter.rank or {fewer}"
    assert train(gradient_checkpointing=False).cure == f"lower {fewer} or adapter.rank"
    assert replace(need, parts=need.parts[:1]).cure == ""


@pytest.mark.parametrize("config", [None, [], {}, {"hidden_size": 8}, {"hidden_size": "8", "vocab_size": 3}])
def test_base_of_another_kind_has_no_shape(config):
    assert read_shape(config) is None


@pytest.fixture
def models(tmp_path):
    """The real models of a project with a tiny base, for settings to be laid over."""
    base = write_tiny_base(tmp_path / "small")

    def make(**stages):
        settings = parse_settings({"model": {"base": str(base)}, "machine": {"threads": 1}, **stages})
        return Models(tmp_path, settings, Store(tmp_path / "cache"))

    return make


ROWS = [Row("a", "Thẻ\n", "Cá bơi về.<|end|>", where="cards/a.yaml:3"), Row("b", "Thẻ\n", "Cá.<|end|>")]


def test_training_that_no_memory_holds_is_refused_before_anything_is_loaded(models, tmp_path):
    large = models(adapter={"rank": 10_000_000, "last_layers": 0})
    with pytest.raises(
        MachineError, match=r"can't run small: memory has .* free, and training needs about .*: lower adap"
    ):
        large.train(ROWS, tmp_path / "out", tmp_path / "work", quiet)
    assert "_base" not in vars(large)


def test_candidates_that_no_memory_holds_are_refused_before_anything_is_loaded(models, tmp_path):
    large = models(sampling={"candidates": 1024, "max_new_tokens": 1024, "top_k": 0})
    wide = tmp_path / "small" / "config.json"
    wide.write_text(json.dumps(json.loads(wide.read_text()) | {"vocab_size": 1_000_000}))
    with pytest.raises(MachineError, match=r"drawing candidates needs about .*: lower sampling.candidates"):
        next(large.generate(tmp_path / "adapter", [], quiet))
    assert "_base" not in vars(large)


def test_long_row_is_named_with_its_place_before_any_weight_is_loaded(models, tmp_path):
    short = models(adapter={"max_tokens": 8})
    with pytest.raises(
        InputError, match=r"^cards/a.yaml:3: a story of 'a' and its prompt have \d+ tokens. Wanted at most 8"
    ):
        short.train(ROWS, tmp_path / "out", tmp_path / "work", quiet)
    assert "_base" not in vars(short)


def test_examination_tells_what_each_profile_needs(models):
    machine, profiles = models().examine()
    assert machine["torch"]
    missing, needs = profiles["nano"]
    assert missing == []
    assert [need.split(" needs about ")[0] for need in needs] == ["training", "drawing candidates"]
    assert profiles["mistral-7b"][1][0].startswith("training needs about 7.")
