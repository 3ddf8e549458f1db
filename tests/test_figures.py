"""`gonbuild eval` on the small project with fake models: what is asked, what is said of it, and where it is written."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fakes import SCENES, FakeModels, clause, make_project
from sacrebleu.metrics.bleu import BLEU

from gonbuild.chat import parse_card_text
from gonbuild.comparison import eval_markdown, eval_plots
from gonbuild.effects import form_of
from gonbuild.figures import HELD_OUT_CANDIDATES, TRIED
from gonbuild.language import fold
from gonbuild.pipeline import Project
from gonbuild.records import TYPES, Candidate, Request

HELD_OUT = [
    {
        "name": "Đắp Đê",
        "type": "Bảo Vệ",
        "effect": "+1 điểm cho Làng",
        "stories": ["Làng tăng 1 điểm nhờ con đê.", SCENES[0] + ", Làng tăng 1 điểm."],
    },
    {
        "name": "Mưa Đá",
        "type": "Thiên Tai",
        "effect": "-2 điểm Đất. Mất 1 lượt",
        "stories": ["Mưa đá, Đất mất 2 điểm."],
    },
]


class TwoModels(FakeModels):
    """Its base draws what tells no effect for cards of the game, its adapter what the fake draws anyway."""

    def _candidate(self, request: Request, index: int, seed: bytes) -> Candidate:
        drawn = super()._candidate(request, index, seed)
        if seed == self.base.encode():
            return Candidate(**vars(drawn) | {"text": f"{SCENES[index % 2]}."})
        return drawn


def project(root: Path, models: FakeModels | None = None, *, held_out: bool = True) -> Project:
    made = make_project(root, models=models or TwoModels(held_out=[str(row["name"]) for row in HELD_OUT]))
    if held_out:
        (root / "cards/examples").mkdir()
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in HELD_OUT]
        (root / "cards/examples/held.jsonl").write_text("".join(lines), encoding="utf-8")
    return made


@pytest.fixture
def figures(tmp_path: Path) -> dict[str, Any]:
    return project(tmp_path).evaluate()


def test_base_and_adapter_are_asked_for_the_same(tmp_path: Path) -> None:
    models = TwoModels(held_out=["Đắp Đê", "Mưa Đá"])
    project(tmp_path, models).evaluate()
    held = [f"generate {name} 0-{HELD_OUT_CANDIDATES}" for name in ("Đắp Đê", "Mưa Đá")]
    game = [f"generate {card} 0-32" for card in ("rung-001", "lang-001", "song-001")]
    assert models.log == ["train 3", *2 * (["measure 3"] + ["generate try 0-1"] * len(TRIED) + held + game)]


def test_second_evaluation_draws_nothing_and_says_the_same(tmp_path: Path) -> None:
    models = TwoModels(held_out=["Đắp Đê", "Mưa Đá"])
    made = project(tmp_path, models)
    first = made.evaluate()
    models.log.clear()
    assert made.evaluate() == first
    assert models.log == ["measure 3", "measure 3"]


def test_candidates_of_a_build_are_the_adapter_s_for_the_game(tmp_path: Path) -> None:
    models = TwoModels(held_out=["Đắp Đê", "Mưa Đá"])
    made = project(tmp_path, models)
    made.build()
    models.log.clear()
    made.evaluate()
    assert [line for line in models.log if "rung-001" in line] == ["generate rung-001 0-32"]  # the base's


def test_another_adapter_draws_its_own_and_the_base_draws_nothing(tmp_path: Path) -> None:
    models = TwoModels(held_out=["Đắp Đê", "Mưa Đá"])
    project(tmp_path, models).evaluate()
    models.log.clear()
    make_project(tmp_path, settings="[tool.gonbuild.adapter]\nseed = 1\n", models=models).evaluate()
    assert [line for line in models.log if "rung-001" in line] == ["generate rung-001 0-32"]
    assert models.log[0] == "train 3"


def test_sides_differ_where_the_models_do(figures: dict[str, Any]) -> None:
    base, adapter = figures["models"]["base"], figures["models"]["adapter"]
    assert (base["bits_per_byte"], adapter["perplexity"]) == (2.0, 9.0)
    assert base["game"]["pass_rate"] == 0
    assert adapter["game"]["pass_rate"] > 0.5
    assert base["game"]["dropped_by"]["effect"] == 1
    assert base["game"]["effect_told"] == {"one region": {"cards": 3, "share": 0.0}}
    assert adapter["game"]["effect_told"] == {"one region": {"cards": 3, "share": 1.0}}
    assert base["game"]["self_bleu"] == pytest.approx(100)
    assert base["game"]["distinct_2"] < adapter["game"]["distinct_2"]


def test_sides_are_alike_where_the_models_are(tmp_path: Path) -> None:
    class Same(TwoModels):
        def _candidate(self, request: Request, index: int, seed: bytes) -> Candidate:
            return super()._candidate(request, index, b"one")

    figures = project(tmp_path, Same(held_out=["Đắp Đê", "Mưa Đá"])).evaluate()
    base, adapter = figures["models"]["base"], figures["models"]["adapter"]
    assert (base["game"], base["held_out"]) == (adapter["game"], adapter["held_out"])
    assert all(case["base"] == case["adapter"] for case in figures["tried"])


def test_corpus_bleu_takes_all_held_out_stories_of_the_card(figures: dict[str, Any]) -> None:
    drawn = [f"{SCENES[n % 2]}." for n in range(HELD_OUT_CANDIDATES)] * len(HELD_OUT)
    first, second = ([fold(s) for s in row["stories"]] for row in HELD_OUT)
    streams = [[first[0]] * 4 + [second[0]] * 4, [first[1]] * 4 + [None] * 4]
    wanted = BLEU().corpus_score([fold(text) for text in drawn], streams).score
    assert wanted > 10
    assert figures["models"]["base"]["held_out"]["BLEU"] == pytest.approx(wanted)


def test_effects_are_counted_by_kind_and_by_form(figures: dict[str, Any]) -> None:
    told = figures["models"]["adapter"]["held_out"]
    assert told["effect_told"] == {
        "a rule": {"cards": 1, "share": 0.0},
        "one region": {"cards": 1, "share": 1.0},
    }
    assert told["effect_told_by_form"]["-n điểm vùng. mất n lượt"] == {"cards": 1, "share": 0.0}


def test_report_is_json_markdown_and_pictures(figures: dict[str, Any], tmp_path: Path) -> None:
    report = tmp_path / "build/report"
    assert json.loads((report / "eval.json").read_bytes()) == figures
    assert figures["schema"] == 1
    assert list(figures) == [
        *("schema", "base", "adapter", "held_out", "game", "models", "tried", "shipped", "self_bleu_signature"),
    ]
    assert list(figures["models"]["base"]) == ["bits_per_byte", "perplexity", "held_out", "game"]
    markdown = (report / "eval.md").read_text(encoding="utf-8")
    assert "| bits per byte | 2.000 | 1.500 |" in markdown
    assert "| game: base | game: adapter | held-out: base | held-out: adapter |" in markdown
    pictures = [f"eval-{cards}-{kind}.svg" for cards in ("game", "held-out") for kind in ("shares", "texts")]
    assert sorted(p.name for p in report.glob("*.svg")) == pictures
    for name in pictures:
        ElementTree.parse(report / name)
        assert f"]({name})" in markdown


def test_figures_are_numbers(figures: dict[str, Any]) -> None:
    words = {"base", "adapter", "BLEU_signature", "chrF_signature", "self_bleu_signature", "card", "text", "dropped_by"}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                walk(below, key)
        elif isinstance(value, list):
            for below in value:
                walk(below, name)
        else:
            assert name in words or isinstance(value, (int, float)), name

    walk(figures, "")


def test_project_without_held_out_cards_has_the_rest(tmp_path: Path) -> None:
    figures = project(tmp_path, FakeModels(), held_out=False).evaluate()
    assert figures["models"]["base"]["held_out"] is None
    assert figures["models"]["base"]["bits_per_byte"] is None
    markdown = eval_markdown(figures)
    assert "Held-out" not in markdown
    assert "| | game: base | game: adapter |" in markdown
    assert list(eval_plots(figures)) == ["eval-game-shares.svg", "eval-game-texts.svg"]


def test_stories_for_cards_that_people_try_stand_side_by_side(figures: dict[str, Any]) -> None:
    markdown = eval_markdown(figures)
    for text, case in zip(TRIED, figures["tried"], strict=True):
        assert text in markdown
        assert case["name_seen_in_training"] is False
        assert case["base"]["dropped_by"].startswith("effect: ")
    story, case = clause("Hiệu ứng: +2 điểm cho Sông"), figures["tried"][0]
    assert case["adapter"]["text"].endswith(f"{story}.")
    assert f"- base: {case['base']['text']} *dropped by effect: " in markdown
    assert f"- adapter: {case['adapter']['text']}" in markdown


def test_tried_cards_are_of_every_type_with_one_region_two_and_a_rule() -> None:
    cards = [parse_card_text(text) for text in TRIED]
    assert {card.type for card in cards} == set(TYPES)
    forms = [form_of(card.effect) for card in cards]
    assert {"+n điểm vùng", "+n điểm vùng, +n điểm vùng", "-n điểm vùng", "-n điểm vùng, -n điểm vùng"} < set(forms)
    assert "rút thêm n lá" in forms


def test_markup_in_a_story_is_escaped(figures: dict[str, Any]) -> None:
    figures["tried"][0]["base"] = {"text": "<b>| *x*", "dropped_by": "language: holds |"}
    assert "- base: &lt;b&gt;\\| \\*x\\* *dropped by language: holds \\|*" in eval_markdown(figures)
