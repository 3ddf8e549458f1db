"""The whole line with real models on a tiny base: trained, sampled, filtered, packed; nothing is faked."""

import json
from pathlib import Path

import pytest
from fakes import make_project
from tiny import write_tiny_base

from gonbuild.dataset import row_counts
from gonbuild.pipeline import Built, Project, load_project

# A base of 60,000 random weights writes no Vietnamese: what judges sense is off, what a pack needs is on.
SETTINGS = """
[tool.gonbuild.model]
base = "base"
[tool.gonbuild.adapter]
rank = 32
last_layers = 0
batch_size = 8
epochs = 100.0
learning_rate = 0.02
dropout = 0.0
[tool.gonbuild.sampling]
candidates = 8
temperature = 0.7
[tool.gonbuild.filters]
effect = false
min_words = 3
max_foreign = 1.0
max_repeated_pairs = 100
max_novelty_bleu = 100.0
max_diversity_bleu = 95.0
[tool.gonbuild.selection]
stories = 1
[tool.gonbuild.machine]
threads = 1
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Built]:
    root = tmp_path_factory.mktemp("line")
    write_tiny_base(root / "base")
    make_project(root, settings=SETTINGS)
    project = load_project(root)
    return project, project.build()


def test_every_card_gets_a_story_from_the_trained_base(built: tuple[Project, Built]) -> None:
    project, result = built
    pack = json.loads((project.root / "build/packs/stories.json").read_bytes())
    assert result.short == {}
    assert {card: len(entry["stories"]) for card, entry in pack["cards"].items()} == {
        "rung-001": 1,
        "lang-001": 1,
        "song-001": 1,
    }


def test_second_build_has_nothing_to_do(built: tuple[Project, Built]) -> None:
    project, _ = built
    assert not load_project(project.root).plan().changes


def test_same_seed_draws_the_same_stories_again(built: tuple[Project, Built], tmp_path: Path) -> None:
    project, _ = built
    write_tiny_base(tmp_path / "base")
    make_project(tmp_path, settings=SETTINGS)
    again = load_project(tmp_path)
    again.build()
    assert again.workspace().adapter_key == project.workspace().adapter_key
    for name in ("build/packs/stories.json", "build/packs/stories.md", "build/stories.lock.jsonl"):
        assert (tmp_path / name).read_bytes() == (project.root / name).read_bytes(), name


def test_adapter_lies_in_the_store_as_safetensors_with_its_inputs(built: tuple[Project, Built]) -> None:
    project, _ = built
    ws = project.workspace()
    folder = project.store.get("adapter", ws.adapter_key)
    assert folder is not None
    assert (folder / "adapter_model.safetensors").is_file()
    assert not list(folder.glob("*.bin"))
    training = json.loads((folder / "training.json").read_bytes())
    assert training["data"] == row_counts(ws.rows)
    losses = [loss for _, loss in training["losses"]]
    assert losses[-1] < losses[0] / 2
    assert project.store.inputs("adapter", ws.adapter_key)["rows"] == dict(ws.scan.rows)


def test_evaluation_compares_base_and_adapter_on_held_out_cards(built: tuple[Project, Built]) -> None:
    project, _ = built
    names = sorted(project.models.held_out())[:2]
    rows = [
        {"name": n, "type": "Bảo Vệ", "effect": "+1 điểm cho Đất", "stories": ["Cỏ giữ đất, Đất tăng 1 điểm."]}
        for n in names
    ]
    examples = project.root / "cards" / "examples"
    examples.mkdir()
    (examples / "held.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    figures = load_project(project.root).evaluate()
    base, adapter = figures["models"]["base"], figures["models"]["adapter"]
    assert figures["held_out"]["stories"] == 2
    assert 0 < adapter["bits_per_byte"] < base["bits_per_byte"]
    assert [side["game"]["candidates"] for side in (base, adapter)] == [24, 24]
    assert [side["held_out"]["candidates"] for side in (base, adapter)] == [8, 8]
    assert figures["tried"][0]["base"]["text"] != figures["tried"][0]["adapter"]["text"]
    assert figures["shipped"]["stories"] == 3
