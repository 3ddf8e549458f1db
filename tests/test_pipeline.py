"""The line on a three-card project with fake models: what each change does, in the plan's words and in the packs."""

import difflib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import DECK, FakeModels, make_project, open_project

from gonbuild.cli import main, plan_lines
from gonbuild.dataset import chat_jsonl
from gonbuild.errors import InputError, MachineError
from gonbuild.pipeline import Project
from gonbuild.records import END, Card, Progress, Row
from gonbuild.report import seen_by_card
from gonbuild.settings import Settings
from gonbuild.store import Store
from gonbuild.wordings import trace

GOLDEN = Path(__file__).parent / "data" / "golden"


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for folder in ("build/packs", "build")
        for p in sorted((root / folder).glob("*"))
        if p.is_file()
    }


def changes(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """The Markdown pack's diff without context, and the cards whose lock line or JSON record changed."""
    old, new = (s.get("build/packs/stories.md", b"").decode().splitlines() for s in (before, after))
    lines = [
        line for line in difflib.unified_diff(old, new, n=0, lineterm="") if not line.startswith(("---", "+++", "@@"))
    ]
    for name in ("build/packs/stories.json", "build/stories.lock.jsonl"):
        cards = [by_card(name, s.get(name, b"")) for s in (before, after)]
        touched = [c for c in sorted({*cards[0], *cards[1]}) if cards[0].get(c) != cards[1].get(c)]
        lines.append(f"{Path(name).name}: {', '.join(touched) or 'nothing'}")
    return lines


def by_card(name: str, data: bytes) -> dict[str, object]:
    if name.endswith("jsonl"):
        return {row["card"]: row for row in map(json.loads, data.splitlines()) if "card" in row}
    return dict(json.loads(data)["cards"]) if data else {}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def edit_effect(root: Path) -> None:
    edit(root / "cards/thu.yaml", "+2 điểm cho Rừng", "+3 điểm cho Rừng")


def add_card(root: Path) -> None:
    card = "  - {id: dat-001, name: Ủ Phân, type: Bảo Vệ, effect: +1 điểm cho Đất}\n"
    with (root / "cards/thu.yaml").open("a", encoding="utf-8") as f:
        f.write(card)


def set_settings(text: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        with (root / "pyproject.toml").open("a", encoding="utf-8") as f:
            f.write(text)

    return write


def edit_story(root: Path) -> None:
    story = json.loads((root / "build/packs/stories.json").read_bytes())["cards"]["rung-001"]["stories"][0]["text"]
    for name in ("stories.json", "thu.json"):
        edit(root / "build/packs" / name, story, "Một câu khác.")


def ban_a_word(root: Path) -> None:
    pack = json.loads((root / "build/packs/stories.json").read_bytes())
    word = pack["cards"]["rung-001"]["stories"][0]["text"].split()[1]
    set_settings(f'[tool.gonbuild.filters]\nbanned_words = ["{word}"]\n')(root)


SCENARIOS: dict[str, Callable[[Path], object]] = {
    "no-op": lambda root: None,
    "comment-in-yaml": lambda root: edit(root / "cards/thu.yaml", "cards:", "cards: # nothing"),
    "one-card-edit": edit_effect,
    "new-card": add_card,
    "removed-card": lambda root: edit(root / "cards/thu.yaml", DECK[DECK.index("  - id: song") :], ""),
    "renamed-card": lambda root: edit(root / "cards/thu.yaml", "Quét Ngõ Sáng Chủ Nhật", "Quét Ngõ"),
    "template-change": lambda root: edit(root / "templates/system.txt", "1-2 câu", "hai câu"),
    "pack-template-change": lambda root: edit(root / "templates/pack.md.jinja", "{{ title", "Bộ {{ title"),
    "filter-change": set_settings("[tool.gonbuild.filters]\nmin_words = 14\n"),
    "filter-that-drops-a-story": lambda root: ban_a_word(root),
    "filter-on-diversity": set_settings("[tool.gonbuild.filters]\nmax_diversity_bleu = 0.0\n"),
    "sampling-change": set_settings("[tool.gonbuild.sampling]\ntemperature = 0.9\n"),
    "more-stories": set_settings("[tool.gonbuild.selection]\nstories = 3\n"),
    "new-adapter": set_settings("[tool.gonbuild.adapter]\nepochs = 5.0\n"),
    "pack-edited-by-hand": lambda root: edit(root / "build/packs/stories.md", "## ", "## Sửa "),
    "story-edited-by-hand": edit_story,
    "fresh-clone": lambda root: shutil.rmtree(root / "build/cache"),
    "fresh-clone-with-an-edit": lambda root: (shutil.rmtree(root / "build/cache"), edit_effect(root)),
    "fresh-clone-edited-by-hand": lambda root: (
        shutil.rmtree(root / "build/cache"),
        edit(root / "build/packs/stories.json", "Gieo", "Gieo "),
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_plan_says_what_the_build_then_does(name: str, tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = snapshot(tmp_path)
    SCENARIOS[name](tmp_path)
    models = FakeModels()
    project = open_project(tmp_path, models)
    plan = project.plan()
    edited = snapshot(tmp_path)
    project.build()
    text = [
        *plan_lines(plan),
        "",
        f"models: {'; '.join(models.log) or 'not loaded'}",
        "",
        *changes(before, snapshot(tmp_path)),
    ]
    if not plan.changes:
        assert snapshot(tmp_path) == edited
    assert not open_project(tmp_path).plan().changes
    check_golden(name, "\n".join(text) + "\n")


def check_golden(name: str, text: str) -> None:
    text = re.sub(r"(?<=adapter |current )[0-9a-f]{4,8}\b", "....", text)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GONBUILD_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_has_its_scenario() -> None:
    assert sorted(p.stem for p in GOLDEN.glob("*.txt")) == sorted(SCENARIOS)


def test_second_build_touches_no_file(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    models = FakeModels()
    open_project(tmp_path, models).build()
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()} == before
    assert models.log == []


def test_going_back_to_an_earlier_effect_brings_its_stories_back_without_a_model(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = snapshot(tmp_path)
    edit_effect(tmp_path)
    open_project(tmp_path).build()
    assert snapshot(tmp_path) != before
    edit(tmp_path / "cards/thu.yaml", "+3 điểm cho Rừng", "+2 điểm cho Rừng")
    models = FakeModels()
    open_project(tmp_path, models).build()
    assert snapshot(tmp_path) == before
    assert models.log == []


def test_two_machines_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_project(tmp_path / name).build()
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_card_order_in_the_deck_moves_no_story(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    first, *rest = DECK.split("  - id: ")
    models = FakeModels()
    make_project(tmp_path, "  - id: ".join([first, *reversed(rest)]), models=models).build()
    assert models.log == []


def test_refresh_asks_the_current_adapter_for_new_stories(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = snapshot(tmp_path)
    set_settings("[tool.gonbuild.adapter]\nepochs = 5.0\n")(tmp_path)
    models = FakeModels()
    built = open_project(tmp_path, models).build(refresh=["song-001"])
    assert list(built.stories) == ["song-001"]
    assert models.log == ["train 3", "generate song-001 0-32"]
    assert changes(before, snapshot(tmp_path))[-1] == "stories.lock.jsonl: song-001"


def test_refresh_with_the_same_adapter_draws_other_candidates(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = json.loads((tmp_path / "build/packs/stories.json").read_bytes())["cards"]
    models = FakeModels()
    open_project(tmp_path, models).build(refresh=["song-001"])
    after = json.loads((tmp_path / "build/packs/stories.json").read_bytes())["cards"]
    assert models.log == ["generate song-001 32-64"]
    assert after["song-001"]["stories"] != before["song-001"]["stories"]
    assert after["rung-001"] == before["rung-001"]


def test_adapter_of_another_base_is_never_used(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    set_settings("[tool.gonbuild.selection]\nstories = 3\n")(tmp_path)
    models = FakeModels(base="fake-base-2")
    plan = open_project(tmp_path, models).plan()
    assert [step.action for step in plan.cards] == ["generate"] * 3
    assert 'base: "fake-base-1" -> "fake-base-2"' in plan.adapter.reasons


def test_packs_and_lock_of_different_commits_are_noticed_on_a_fresh_clone(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.build()
    whole = snapshot(tmp_path)
    ws = project.workspace()
    line = ws.lock.lines["rung-001"]
    for name, data in ws.render({**ws.lock.lines, "rung-001": replace(line, stories=line.stories[:1])}).items():
        (tmp_path / "build/packs" / name).write_bytes(data)
    shutil.rmtree(tmp_path / "build/cache")
    plan = open_project(tmp_path).plan()
    assert plan.packs.reasons[-1] == "thu.json: is not what the lock, the cards and the templates give"
    models = FakeModels()
    open_project(tmp_path, models).build()
    assert snapshot(tmp_path) == whole
    assert models.log == []


def test_files_that_no_build_wrote_stay_in_the_packs_folder(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    packs = tmp_path / "build/packs"
    (packs / "README.md").write_text("for translators")
    (packs / "stories.en.json").write_text("{}")
    (packs / "old.json").write_bytes((packs / "thu.json").read_bytes())
    plan = open_project(tmp_path).plan()
    assert plan.packs.reasons == ("old.json: no deck makes it any more",)
    open_project(tmp_path).build()
    assert sorted(p.name for p in packs.iterdir()) == [
        "README.md",
        "stories.en.json",
        "stories.json",
        "stories.md",
        "thu.json",
    ]


SETTINGS_AND_KEYS = {
    "adapter": ("model.dtype", "model.quantization", "model.double_quantization", "dataset.variants", "adapter.*"),
    "candidates": (
        "model.dtype",
        "model.quantization",
        "model.double_quantization",
        "dataset.variants",
        "adapter.*",
        "sampling.*",
        "selection.card_weight",
    ),
    "cards": ("sampling.*", "filters.*", "selection.stories", "selection.card_weight"),
    "packs": ("packs.title",),
    "none": (
        "model.base",
        "model.revision",
        "model.device",
        "dataset.examples",
        "dataset.seed",
        "selection.rounds",
        "release.*",
        "adapter.preference_epochs",
        "adapter.preference_learning_rate",
        "adapter.preference_beta",
        "machine.*",
        "cache.*",
    ),
}
"""Setting -> what it moves; base, examples and rounds do so through the base's identity, the rows and short cards.

A setting's own name goes before its stage's; those of learning from marks move nothing where the method is `sft`.
"""


@pytest.mark.parametrize(
    "name",
    [
        f"{stage}.{field}"
        for stage, entry in Settings.model_fields.items()
        if stage != "profile"
        for field in type(entry.default).model_fields
    ],
)
def test_every_setting_moves_the_keys_it_should(name: str, tmp_path: Path) -> None:
    stage, field = name.split(".")
    values = Settings()
    value = getattr(getattr(values, stage), field)
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.3, str: lambda v: v + "x"}
    changed = other[type(value)](value) if type(value) in other else (("word",) if value == () or value else 10.0)
    make_project(tmp_path)

    def keys(settings: Settings) -> dict[str, object]:
        ws = Project(tmp_path, settings, Store(tmp_path / "cache"), FakeModels()).workspace()
        card = ws.scan.cards[0]
        return {
            "adapter": ws.adapter_key,
            "candidates": ws.candidate_inputs(ws.adapter_key, card.id, 0),
            "cards": ws.card_inputs(card),
            "packs": ws.render({}),
        }

    stage_values = getattr(values, stage).model_copy(update={field: changed})
    before, after = keys(values), keys(values.model_copy(update={stage: stage_values}))
    moved = {key for key in before if before[key] != after[key]}
    called = name if any(name in names for names in SETTINGS_AND_KEYS.values()) else f"{stage}.*"
    wanted = {key for key, names in SETTINGS_AND_KEYS.items() if called in names}
    assert wanted, f"say in SETTINGS_AND_KEYS what {name} moves"
    assert moved == wanted - {"none"}


def test_refresh_of_an_unknown_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--refresh: unknown card 'song-01'. Did you mean 'song-001'?"):
        make_project(tmp_path).plan(refresh=["song-01"])


def test_card_without_good_candidates_is_reported_with_its_reasons(tmp_path: Path) -> None:
    models = FakeModels(bad=["song-001"])
    built = make_project(tmp_path, models=models).build()
    assert built.short == {"song-001": "0 new of 2 stories; dropped by effect 128"}
    assert [line for line in models.log if "song" in line] == [
        f"generate song-001 {first}-{first + 32}" for first in (0, 32, 64, 96)
    ]
    seen = seen_by_card((tmp_path / "build/report/candidates.jsonl").read_bytes())
    assert {s.filter for s in seen["song-001"]} == {"effect"}
    assert [s.index for s in seen["song-001"]] == [*range(128)]
    again = open_project(tmp_path)
    assert not again.plan().changes
    assert again.plan().short == built.short


def test_card_that_falls_short_keeps_its_earlier_stories_while_they_pass(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = json.loads((tmp_path / "build/packs/stories.json").read_bytes())["cards"]["song-001"]["stories"]
    edit(tmp_path / "cards/thu.yaml", "Rác Trôi Theo Lũ", "Rác Theo Lũ")
    built = open_project(tmp_path, FakeModels(bad=["song-001"])).build()
    after = json.loads((tmp_path / "build/packs/stories.json").read_bytes())["cards"]["song-001"]
    assert after["stories"] == before
    assert after["name"] == "Rác Theo Lũ"
    assert built.short == {"song-001": "0 new and 2 from before of 2 stories; dropped by effect 128"}


class BrokenModels(FakeModels):
    """Fails after the first card was drawn."""

    def generate(self, folder, requests, progress):  # type: ignore[no-untyped-def]
        for i, drawn in enumerate(super().generate(folder, requests, progress)):
            if i == 1:
                raise MachineError("the GPU is gone")
            yield drawn


def test_failed_build_leaves_the_packs_and_keeps_what_was_drawn(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = snapshot(tmp_path)
    edit(tmp_path / "templates/system.txt", "1-2 câu", "hai câu")
    with pytest.raises(MachineError, match="the GPU is gone"):
        open_project(tmp_path, BrokenModels()).build()
    assert snapshot(tmp_path) == before
    models = FakeModels()
    open_project(tmp_path, models).build()
    assert [line.split()[1] for line in models.log] == ["lang-001", "song-001"]


def test_wrong_cards_leave_the_packs(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = snapshot(tmp_path)
    edit(tmp_path / "cards/thu.yaml", "effect: +1", "efect: +1")
    with pytest.raises(InputError, match=r"cards/thu.yaml:\d+:\d+: .*efect"):
        open_project(tmp_path).build()
    assert snapshot(tmp_path) == before


def test_broken_pack_template_is_found_before_any_model_runs(tmp_path: Path) -> None:
    models = FakeModels()
    project = make_project(tmp_path, models=models)
    edit(tmp_path / "templates/pack.md.jinja", "{{ title", "{{ titel")
    with pytest.raises(InputError, match=r"templates/pack.md.jinja:\d+: .*titel"):
        project.build()
    assert models.log == []


def test_damaged_candidates_are_drawn_again_with_a_warning(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    before = snapshot(tmp_path)
    for value in (tmp_path / "build/cache/candidates").glob("*/value.json"):
        value.write_bytes(value.read_bytes().replace(b"index", b"jndex"))
    shutil.rmtree(tmp_path / "build/packs")
    (tmp_path / "build/stories.lock.jsonl").unlink()
    project = open_project(tmp_path)
    warnings: list[str] = []
    project.store.warn = warnings.append
    project.build()
    assert snapshot(tmp_path) == before
    assert len(warnings) == 3


def test_example_that_does_not_tell_the_effect_is_not_trained_on_and_the_plan_says_so(tmp_path: Path) -> None:
    models = FakeModels()
    project = make_project(tmp_path, DECK.replace("Rừng tăng 2 điểm", "Rừng tăng 5 điểm"), models=models)
    note = "cards/thu.yaml:3: card 'rung-001': example 1 does not tell the effect and is not trained on; mend it"
    few = "2 stories to train on: expect candidates that repeat them; give cards more `examples:`"
    assert project.plan().notes == (note, few)
    project.build()
    assert models.log[0] == "train 2"
    assert project.plan().notes == (note,)  # nothing is to be trained any more


def test_plan_says_that_no_story_is_left_to_train_on(tmp_path: Path) -> None:
    project = make_project(tmp_path, re.sub(r"    examples:\n(      - .*\n)+", "", DECK))
    assert project.plan().notes == ("no story to train on; give cards `examples:`, or raise dataset.examples",)


def test_plan_counts_varied_copies_by_what_was_changed(tmp_path: Path) -> None:
    project = make_project(tmp_path, settings="[tool.gonbuild.dataset]\nvariants = 8\n")
    rows = project.workspace().rows
    varied = [row for row in rows if row.changes]
    told = Counter(kind for row in varied for kind in row.changes)
    (note,) = [note for note in project.plan().notes if "varied" in note]
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(told.items()))
    assert note == f"{len(varied)} of {len(rows)} training rows are varied copies: {kinds}"
    assert len(rows) - len(varied) == 3


def example_file(root: Path, *rows: tuple[str, str, str]) -> None:
    """Writes example cards, each a name, an effect and one story."""
    folder = root / "cards" / "examples"
    folder.mkdir(exist_ok=True)
    lines = [{"name": n, "type": "Bảo Vệ", "effect": e, "stories": [s]} for n, e, s in rows]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "a.jsonl").write_text(text, encoding="utf-8")


class HoldingOut(FakeModels):
    def held_out(self) -> frozenset[str]:
        return frozenset({"Vớt Rác"})


def test_nothing_of_a_held_out_card_is_trained_on_whatever_was_varied(tmp_path: Path) -> None:
    told = "Bé Na vớt rác quanh hồ mỗi sáng. Nước lại trong, Sông tăng 2 điểm."
    copy = "Bé Tí vớt rác quanh hồ mỗi chiều. Nước lại trong, Sông tăng 5 điểm."
    other = "Chú Ba chèo thuyền đi vớt bèo. Hồ lại trong, Sông tăng 3 điểm."
    project = make_project(tmp_path, models=HoldingOut(), settings="[tool.gonbuild.dataset]\nexamples=99\nvariants=9\n")
    example_file(
        tmp_path,
        ("Vớt Rác", "+2 điểm cho Sông", told),
        ("vớt rác", "+3 điểm cho Sông", other),  # another effect, another case
        ("Gom Bèo", "+5 điểm cho Sông", copy),  # another card that tells the held-out story
        ("Gom Bèo", "+1 điểm cho Sông", "Chú Ba gom bèo đầy thuyền. Nước lại trong, Sông tăng 1 điểm."),
    )
    ws = project.workspace()
    assert [card.examples for card in ws.split.held_out] == [(told,), (other,)]
    assert [row.source for row in ws.rows if not row.changes][3:] == ["Gom Bèo"]
    assert not {trace(row.completion.removesuffix(END)) for row in ws.rows} & {trace(told), trace(other)}
    assert {row.source for row in ws.rows if row.changes} == {card.id for card in ws.library.cards}


def test_evaluation_measures_held_out_stories_as_they_are_written(tmp_path: Path) -> None:
    class Measuring(HoldingOut):
        measured: tuple[Row, ...] = ()

        def measure(self, folder: Path | None, rows: Sequence[Row], progress: Progress) -> dict[str, float]:
            self.measured = tuple(rows)
            return super().measure(folder, rows, progress)

    models = Measuring()
    project = make_project(tmp_path, models=models, settings="[tool.gonbuild.dataset]\nvariants = 9\n")
    told = "Bé Na vớt rác quanh hồ mỗi sáng. Nước lại trong, Sông tăng 2 điểm."
    example_file(tmp_path, ("Vớt Rác", "+2 điểm cho Sông", told))
    assert project.evaluate()["held_out"]["stories"] == 1
    assert [(row.completion, row.changes) for row in models.measured] == [(told + END, ())]


def test_name_or_story_that_a_deck_tells_is_held_out_no_more(tmp_path: Path) -> None:
    class Named(FakeModels):
        def held_out(self) -> frozenset[str]:
            return frozenset({"GIEO HẠT TRÊN ĐỒI", "Vớt Rác"})

    project = make_project(tmp_path, models=Named())
    card = project.workspace().library.cards[0]
    assert card.name == "Gieo Hạt Trên Đồi"
    kept = "Chú Ba chèo thuyền đi vớt bèo. Hồ lại trong, Sông tăng 3 điểm."
    example_file(
        tmp_path,
        (card.name, card.effect, kept),
        ("Vớt Rác", card.effect, card.examples[0].replace("2", "4")),
        ("Vớt Rác", "+3 điểm cho Sông", kept),
    )
    ws = project.workspace()
    assert [(c.name, c.examples) for c in ws.split.held_out] == [("Vớt Rác", (kept,))]
    assert {row.source for row in ws.rows} == {c.id for c in ws.library.cards}


def test_imported_stories_are_trained_on(tmp_path: Path) -> None:
    project = make_project(tmp_path, settings="[tool.gonbuild.dataset]\nexamples = 9\n")
    chat = tmp_path / "chat.jsonl"
    told = "Chú Ba gom bèo đầy thuyền. Nước lại trong, Sông tăng 1 điểm."
    card = Card("", "Gom Bèo", "Bảo Vệ", "+1 điểm cho Sông", examples=(told,))
    chat.write_text(chat_jsonl([card]), encoding="utf-8")
    assert main(["import", str(chat), "--root", str(tmp_path)]) == 0
    assert [row.completion for row in project.workspace().rows if row.source == "Gom Bèo"] == [told + END]


def test_write_story_returns_passing_texts_best_first(tmp_path: Path) -> None:
    project: Project = make_project(tmp_path)
    texts = project.write_story("rung-001", n=8)
    assert 0 < len(texts) <= 8
    assert all("Rừng tăng 2 điểm" in text for text in texts)
    judged = project.try_card("rung-001", n=8)
    best = max((j.candidate for j in judged if j.kept), key=lambda c: c.score(0.0))
    assert texts[0] == best.text
    assert not (tmp_path / "build/packs").exists()


def test_unknown_card_to_try_offers_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown card 'rung-01'. Did you mean 'rung-001'?"):
        make_project(tmp_path).try_card("rung-01")


@pytest.mark.parametrize("left", [(), ("stories.json",), ("stories.json", "stories.md")])
def test_packs_that_a_crash_left_behind_are_rendered_from_the_lock(tmp_path: Path, left: tuple[str, ...]) -> None:
    make_project(tmp_path).build()
    before = snapshot(tmp_path)
    edit_effect(tmp_path)
    open_project(tmp_path).build()
    whole = snapshot(tmp_path)
    for name in ("stories.json", "stories.md", "thu.json"):
        if name not in left:  # these were not replaced when the power went
            (tmp_path / "build/packs" / name).write_bytes(before[f"build/packs/{name}"])
    models = FakeModels()
    open_project(tmp_path, models).build()
    assert snapshot(tmp_path) == whole
    assert models.log == []


def test_candidates_that_cannot_be_written_again_are_left_out(tmp_path: Path) -> None:
    make_project(tmp_path).build()
    kept = tmp_path / "build/report/candidates.jsonl"
    odd = (
        '"score":1e999',
        '"score":-1.0,"novelty":-1e999',
        '"score":-1.0,"reason":"\\ud800"',
        '"score":' + '{"a":' * 5_000,
    )
    kept.write_text("".join(f'{{"card":"rung-001","index":{n},"text":"x",{told}}}\n' for n, told in enumerate(odd)))
    open_project(tmp_path).build(refresh=["song-001"])
    assert {*seen_by_card(kept.read_bytes())} == {"song-001"}
