"""The script that trains the embedded base, on a CPU and small: the same functions, the same data, tiny sizes."""

import dataclasses
import importlib.util
import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch

from gonbuild.quantized import is_quantized

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "cards" / "examples"
SCRIPT = REPOSITORY / "gonbuild" / "nano" / "train.py"
GOLDEN = Path(__file__).parent / "data" / "golden" / "train-losses.json"

_spec = importlib.util.spec_from_file_location("nano_train", SCRIPT)
assert _spec
assert _spec.loader
train = importlib.util.module_from_spec(_spec)
sys.modules["nano_train"] = train  # dataclasses look their module up
_spec.loader.exec_module(train)

TINY = train.Recipe(
    vocabulary=600,
    width=32,
    layers=2,
    heads=2,
    kv_heads=1,
    mlp=64,
    context=64,
    corpus_rows=4,
    corpus_steps=12,
    warmup_steps=4,
    story_passes=2.0,
    story_rows=8,
    story_tokens=400,
    story_corpus_rows=2,
    teachers=1,
    teacher_width=48,
    teacher_heads=2,
    teacher_kv_heads=1,
    teacher_mlp=64,
    teacher_corpus_steps=6,
    teacher_passes=1.0,
)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    cards = [card for card in train.read_stories(EXAMPLES) if card.source == "plain-01-baove-rung-dat"][::10]
    paragraphs = train.read_paragraphs(EXAMPLES)[:60]
    corpus = {"nature-x": paragraphs}
    tokenizer = train.train_tokenizer(train.tokenizer_texts(corpus, cards), TINY.vocabulary)
    return train.Data(tokenizer, corpus, paragraphs, cards)


def losses(data, recipe=TINY):
    """Returns the losses of a corpus phase and of a story phase that learns from a teacher."""
    model = train.build_model(recipe)
    steps = recipe.corpus_steps
    corpus = train.train(model, train.corpus_batches(data, recipe), steps, train.corpus_rate(recipe), recipe)
    teacher = train.build_model(train.teacher_of(recipe, 0, larger=True)).requires_grad_(False).eval()
    rate = train.story_rate(recipe, steps)
    batches = train.story_batches(data, recipe)
    stories = train.train(model, batches, steps, rate, recipe, teachers=[teacher], dropout=True)
    return {"corpus": corpus, "stories": stories}


def test_first_losses_are_those_of_the_golden_run(data):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for phase, found in losses(data).items():
        assert found == pytest.approx(golden[phase], rel=2e-3), f"{phase}; made with torch {golden['torch']}"
    assert golden["corpus"][-1] < golden["corpus"][0] - 0.3


def test_same_seed_gives_the_same_losses_and_another_seed_others(data):
    assert losses(data) == losses(data)
    other = losses(data, dataclasses.replace(TINY, seed=2))
    assert other["corpus"] == losses(data)["corpus"]
    assert other["stories"] != losses(data)["stories"]


def test_cut_off_run_goes_on_from_its_finished_stages(data, tmp_path):
    said: list[str] = []
    whole = train.Line(data, "cpu", None, said.append).whole(TINY).state_dict()
    train.Line(data, "cpu", tmp_path, said.append).stories(train.teacher_of(TINY, 0, larger=True))
    done = {path.name for path in tmp_path.iterdir()}
    assert {name.rpartition("-")[0] for name in done} == {"corpus-48", "stories-48"}
    said.clear()
    resumed = train.Line(data, "cpu", tmp_path, said.append).whole(TINY).state_dict()
    assert [line for line in said if "corpus phase" in line] == [f"corpus phase of {37_792:,} parameters"]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_finished_stage_is_not_taken_for_cards_that_changed(data, tmp_path):
    sizes = train.teacher_of(TINY, 0, larger=True)
    train.Line(data, "cpu", tmp_path, print).stories(sizes)
    before = {path.name for path in tmp_path.iterdir()}
    cards = [dataclasses.replace(data.cards[0], effect="+6 điểm cho Làng"), *data.cards[1:]]
    changed = train.Data(data.tokenizer, {"nature-x": ["Mưa to."] * 200}, ["Gió to."], cards)
    changed.text = data.text
    train.Line(changed, "cpu", tmp_path, print).stories(sizes)
    assert len({path.name for path in tmp_path.iterdir()} - before) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight_storage": "int4"}, "its weight_storage is 'int4'"),
        ({"model_type": "vit"}, "'vit' is no causal language model"),
    ],
)
def test_base_in_8_bits_that_is_none_is_an_error_that_says_so(data, tmp_path, change, says):
    from gonbuild.base import BaseFiles
    from gonbuild.errors import InputError
    from gonbuild.model import load_base
    from gonbuild.settings import ModelSettings

    train.save(train.build_model(TINY), data.tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=f"the base cannot be loaded: {says}"):
        load_base(BaseFiles("tiny", tmp_path), ModelSettings(), threads=1)


def test_too_few_story_rows_for_a_step_are_an_error(data):
    batches = train.story_batches(data, dataclasses.replace(TINY, story_rows=1000))
    with pytest.raises(ValueError, match="story rows of at most 400 tokens; a step takes 1000"):
        next(batches)


def test_tokenizer_gives_any_text_back_and_keeps_tags_newlines_and_digits_apart(data):
    text = "Bé Na gom 12 chai.\n漢字 🌳 ở Đắk Lắk  \n<|end|>"
    ids = data.tokenizer(text)["input_ids"]
    assert data.tokenizer.decode(ids) == text
    pieces = [data.tokenizer.decode([i]) for i in ids]
    assert {"\n", "1", "2", "<|end|>"} <= set(pieces)
    assert ids[-1] == train.END


def test_story_rows_count_the_story_and_its_end_alone(data):
    card = data.cards[0]
    prompt, story = data.prompts.render(card), card.stories[0]
    ((tokens, labels),) = train.encode_rows(data.tokenizer, [(prompt, story)], 512)
    counted = labels != train.IGNORED
    assert data.tokenizer.decode(tokens[counted]) == story + "<|end|>"
    assert (labels[counted] == tokens[counted]).all()


def test_prompt_of_the_script_is_the_builds(data):
    from gonbuild.prompts import load_templates
    from gonbuild.records import Card

    card = data.cards[0]
    ours = load_templates(REPOSITORY).prompt(Card("x", card.name, card.type, card.effect))
    assert data.prompts.render(card) == ours.text
    assert data.prompts.render(None) == ours.without_card


def test_held_out_names_are_split_off_in_every_file_and_the_games_own_refused():
    def card(name):
        return train.Card(name, "Bảo Vệ", "+1 điểm Rừng", ("Một câu.",), "plain-01")

    kept, held = train.hold_out([card("Gom Rác"), card("gom rác"), card("Trồng Cây")], [card("Lũ quét")], ["Gom Rác"])
    assert [c.name for c in kept] == ["Trồng Cây"]
    assert [c.name for c in held] == ["Gom Rác", "gom rác"]
    with pytest.raises(ValueError, match="must not be trained on: lũ quét"):
        train.hold_out([card("Lũ Quét")], [card("Lũ quét")], [])
    with pytest.raises(ValueError, match="no story file holds these held-out names: gom rác"):
        train.hold_out([card("Trồng Cây")], [], ["Gom Rác"])


def test_shipped_held_out_names_stand_in_the_example_files_and_in_no_deck():
    names = (SCRIPT.parent / "held-out.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == 100
    game = train.read_game_cards(REPOSITORY / "cards")
    assert len(game) == 24
    kept, held = train.hold_out(train.read_stories(EXAMPLES), game, names)
    assert {card.plain for card in held} == {True, False}
    assert len(kept) > 20 * len(held)


def test_varied_story_tells_its_varied_effect(data):
    from gonbuild.effects import read_effect, tell

    rng = random.Random(0)
    changed = 0
    for card in data.cards:
        for story in card.stories:
            new, text = train.varied(card, story, dataclasses.replace(TINY, substitute=1.0), rng)
            assert not tell(text, read_effect(new.effect)) or tell(story, read_effect(card.effect)), (new.effect, text)
            changed += text != story
    assert changed > len(data.cards)


def test_saved_model_is_a_base_that_the_build_loads(data, tmp_path):
    from gonbuild.base import BaseFiles
    from gonbuild.model import load_base
    from gonbuild.settings import ModelSettings

    model = train.build_model(TINY)
    train.save(model, data.tokenizer, tmp_path)
    assert is_quantized(tmp_path)
    base = load_base(BaseFiles("tiny", tmp_path), ModelSettings(), threads=1)
    for name, tensor in model.state_dict().items():
        found = base.model.state_dict()[name]
        step = tensor.abs().amax(-1, keepdim=True) / 127
        assert ((found - tensor).abs() <= step / 2 + 1e-6).all(), name
    assert base.tokenizer.eos_token == "<|end|>"


def test_every_recipe_field_is_an_option_of_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        train.arguments()
    shown = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(train.Recipe)} <= shown
