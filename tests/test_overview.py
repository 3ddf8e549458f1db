"""What the report says of a project, and the page that says it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fakes import DECK, FakeModels, make_project, open_project

from gonbuild.errors import InputError
from gonbuild.opinions import agreement_values, review_values
from gonbuild.overview import overview
from gonbuild.pipeline import Project
from gonbuild.records import Card
from gonbuild.report_page import render_report
from gonbuild.reviews import APPROVE, BAN, PIN, RATING, Decision, Reviews

HOSTILE = '<script>alert("1")</script> & \'>"<img src=x onerror=alert(1)> {{ 7 * 7 }} https://evil.example/x'
TRAINING = {"losses": [[1, 2.5], [2, 2.0], [3, 1.25]], "tokens": 1200, "seconds": 3.5, "versions": {"torch": "9.9"}}


def built(root: Path, deck: str = DECK) -> Project:
    make_project(root, deck).build()
    return open_project(root)


def page(project: Project) -> str:
    ws = project.workspace()
    return render_report(ws, overview(ws, project.plan())).decode()


def decide(root: Path, *lines: str) -> None:
    (root / "cards/reviews.yaml").write_text("".join(f"- {{{line}}}\n" for line in lines), encoding="utf-8")


def first_story(project: Project, card: str = "rung-001") -> str:
    return project.workspace().stories(card)[0].text


# --- values --------------------------------------------------------------------------------------


def test_candidates_are_counted_by_card_and_by_filter(tmp_path: Path) -> None:
    project = built(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "build/report/candidates.jsonl").read_text().splitlines()]
    values = overview(project.workspace(), project.plan())
    assert values["counts"] == {
        "cards": 3,
        "stories": 6,
        "wanted": 6,
        "accepted": 0,
        "seen": 96,
        "kept": sum("filter" not in row for row in rows),
        "drawn_cards": 3,
    }
    assert sum(drop["count"] for drop in values["drops"]) == sum("filter" in row for row in rows)
    card = values["cards"][0]
    assert (card["id"], card["seen"]) == ("rung-001", 32)
    assert card["kept"] + sum(count for _, count in card["drops"]) == 32
    length, novelty, score = values["distributions"]
    assert len(length["kept"]) + len(length["dropped"]) == 96
    assert len(score["kept"]) == values["counts"]["kept"]
    assert novelty["unmeasured"] == sum("novelty" not in row for row in rows)


def test_candidates_of_cards_that_are_gone_do_not_count(tmp_path: Path) -> None:
    built(tmp_path)
    lines = (tmp_path / "build/report/candidates.jsonl").read_text()
    (tmp_path / "build/report/candidates.jsonl").write_text(lines.replace("song-001", "gone-001"))
    assert overview(open_project(tmp_path).workspace())["counts"]["seen"] == 64


def test_figures_that_are_no_numbers_are_not_drawn(tmp_path: Path) -> None:
    project = built(tmp_path)
    line = '{"card":"rung-001","index":9,"text":"x","score":NaN,"novelty":Infinity}\n'
    (tmp_path / "build/report/candidates.jsonl").write_text(line)
    length, novelty, score = overview(project.workspace())["distributions"]
    assert (length["kept"], novelty["kept"], score["kept"]) == ([1.0], [], [])
    assert "NaN" not in page(project)


def test_story_stands_beside_the_nearest_training_story(tmp_path: Path) -> None:
    project = built(tmp_path)
    example = "Học sinh gieo hạt keo lên ngọn đồi trọc sau cơn mưa. Cây mọc kín đồi nên Rừng tăng 2 điểm."
    decide(tmp_path, f'card: rung-001, pin: "{example}", slot: 1, effect: +2 điểm cho Rừng, by: Hà')
    project.build()
    values = overview(project.workspace())
    story = values["cards"][0]["stories"][0]
    assert (story["state"], story["accepted"], story["by"]) == ("pin", True, ["Hà"])
    assert (story["score"], story["candidate"]) == (None, None)
    assert story["nearest"]["bleu"] == pytest.approx(100.0)
    assert story["nearest"]["card"] == "Gieo Hạt Trên Đồi"
    assert story["nearest"]["shared"] == story["nearest"]["words"]
    assert values["closest"]["id"] == "rung-001.1"


def test_plan_tells_changes_with_their_reasons_and_counts_the_rest(tmp_path: Path) -> None:
    project = built(tmp_path)
    values = overview(project.workspace(), project.plan(refresh=["song-001"]))["plan"]
    assert values["steps"][0] == {"what": "adapter", "action": "reuse", "reasons": []}
    assert {"what": "song-001", "action": "generate", "reasons": ["refresh asked for"]} in values["steps"]
    assert (values["changes"], values["kept"]) == (True, 2)
    assert overview(project.workspace())["plan"] is None


def test_loss_curve_is_that_of_the_adapter_in_the_cache(tmp_path: Path) -> None:
    class Learning(FakeModels):
        def train(self, rows, folder, work, progress, *_):
            super().train(rows, folder, work, progress)
            (folder / "training.json").write_text(json.dumps(TRAINING))

    make_project(tmp_path, models=Learning()).build()
    project = open_project(tmp_path)
    values = overview(project.workspace())
    assert values["training"] == {
        "key": project.workspace().adapter_key,
        "losses": [(1.0, 2.5), (2.0, 2.0), (3.0, 1.25)],
    }
    assert values["adapters"] == [{"key": project.workspace().adapter_key, "cards": 3, "current": True}]
    assert "loss from 2.50 to 1.25 nats per token in 3 updates" in page(project)


@pytest.mark.parametrize("text", ["", "[]", '{"losses": 3}', '{"losses": []}', '{"losses": [["a", "b"]]}'])
def test_damaged_curve_is_no_curve(tmp_path: Path, text: str) -> None:
    class Odd(FakeModels):
        def train(self, rows, folder, work, progress, *_):
            super().train(rows, folder, work, progress)
            (folder / "training.json").write_text(text)

    make_project(tmp_path, models=Odd()).build()
    assert overview(open_project(tmp_path).workspace())["training"] is None


def rating(story: str, by: str, **scores: int) -> Decision:
    return Decision("rung-001", RATING, story, by=by, scores=scores)


def test_agreement_is_told_for_each_criterion() -> None:
    marks = [(1, 1), (2, 2), (5, 4), (3, 3)]
    ratings = [
        rating(f"Truyện {n}.", by, sense=mark)
        for n, pair in enumerate(marks)
        for by, mark in zip("ab", pair, strict=True)
    ]
    told = agreement_values("sense", [*ratings, rating("Truyện 9.", "a", sense=5, card=2)])
    assert (told["stories"], told["pairable"], told["raters"], told["marks"]) == (5, 4, 2, [2, 2, 2, 1, 2])
    assert told["mean"] == pytest.approx(26 / 9)
    assert 0.8 < told["alpha"] < 1
    assert told["why"] == ""


@pytest.mark.parametrize(
    ("ratings", "why"),
    [
        ([], "no ratings"),
        ([rating("A.", "a", sense=3), rating("B.", "b", sense=4)], "nobody else rated the same stories"),
        ([rating("A.", "a", sense=3), rating("a.", "b", sense=3)], "all marks to compare are equal"),
    ],
)
def test_agreement_that_is_undefined_says_why(ratings: list[Decision], why: str) -> None:
    told = agreement_values("sense", ratings)
    assert (told["alpha"], told["why"]) == (None, why)


def test_decisions_are_counted_by_kind() -> None:
    card = Card("rung-001", "Gieo", "Bảo Vệ", "+2 điểm cho Rừng")
    decisions = (
        Decision("rung-001", APPROVE, "A.", by="Hà"),
        Decision("rung-001", BAN, "B.", reason="buồn", by="Minh"),
        Decision("rung-001", PIN, "C.", slot=1, effect="+3 điểm cho Rừng", line=3),
    )
    values = review_values(Reviews(decisions), [card])
    assert dict(values["counts"]) == {"pin": 1, "edit": 0, "approve": 1, "ban": 1, "rating": 0}
    assert values["people"] == 2
    assert values["bans"] == [{"card": "rung-001", "text": "B.", "reason": "buồn", "by": "Minh"}]
    assert values["stale"][0].startswith("cards/reviews.yaml:3: pin of rung-001.1 is stale")


# --- the page ------------------------------------------------------------------------------------

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checker(HTMLParser):
    """Follows the tags of a page and notes what is open, what it links and what its texts are."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    assert checker.tags.isdisjoint({"script", "img", "link", "iframe", "object", "form"})
    assert [link for link in checker.links if link.removeprefix("#") not in checker.ids] == []
    assert len(checker.ids) == len(set(checker.ids))
    return checker


def test_page_is_whole_asks_no_network_and_allows_nothing(tmp_path: Path) -> None:
    html = page(built(tmp_path))
    told = checked(html)
    assert not re.search(r"https?:|//|url\(|@import", html.replace("<!doctype html>", ""))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert "Gieo Hạt Trên Đồi" in told.text
    assert "Nothing to do: all packs are up to date." in told.text


def test_same_project_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    one, two = (page(built(tmp_path / name)) for name in ("one", "two"))
    assert one == two
    assert str(tmp_path) not in one


def test_fresh_clone_is_told_in_words_what_is_not_there(tmp_path: Path) -> None:
    built(tmp_path)
    for name in ("cache", "report"):
        shutil.rmtree(tmp_path / "build" / name)
    project = open_project(tmp_path)
    ws = project.workspace()
    html = render_report(ws, overview(ws)).decode()
    told = " ".join(checked(html).text.split())
    for words in (
        "This machine has drawn no candidates for these cards",
        "This machine’s cache holds no adapter of these stories, so there is no loss curve.",
        "Nobody has rated a story on this project yet.",
        "This report was made without a plan",
        "No decision bears a name yet.",
    ):
        assert words in told
    assert first_story(project).split()[0] in told


def test_project_before_its_first_build_has_a_page(tmp_path: Path) -> None:
    told = checked(page(make_project(tmp_path)))
    assert "No story ships yet." in told.text
    assert "2 missing" in told.text


def test_hostile_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    project = built(tmp_path)
    story = first_story(project)
    decide(
        tmp_path,
        f"card: lang-001, ban: {json.dumps(HOSTILE)}, reason: {json.dumps(HOSTILE)}, by: {json.dumps(HOSTILE[:30])}",
        f"card: rung-001, rating: {json.dumps(story)}, by: {json.dumps(HOSTILE[:40])}, scores: {{sense: 3}}",
    )
    row = {
        "card": "rung-001",
        "index": 1,
        "score": -1.0,
        "filter": HOSTILE,
        "reason": HOSTILE,
        "text": HOSTILE + "\ud800",
    }
    with (tmp_path / "build/report/candidates.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    (tmp_path / "pyproject.toml").write_text(
        f"[tool.gonbuild]\n[tool.gonbuild.packs]\ntitle = {json.dumps(HOSTILE)}\n", encoding="utf-8"
    )
    html = page(open_project(tmp_path))
    assert "<script" not in html
    assert "<img" not in html
    assert checked(html).text.count(HOSTILE) >= 6


def test_card_names_of_the_deck_are_escaped(tmp_path: Path) -> None:
    project = built(tmp_path, DECK.replace("Gieo Hạt Trên Đồi", "'Gieo <b>Hạt</b> & \"Đồi\"'"))
    html = page(project)
    assert "Gieo <b>" not in html
    assert "Gieo &lt;b&gt;Hạt&lt;/b&gt; &amp; &#34;Đồi&#34;" in html


def test_project_without_the_template_is_told_how_to_get_it(tmp_path: Path) -> None:
    project = built(tmp_path)
    (tmp_path / "templates/report.html.jinja").unlink()
    assert not open_project(tmp_path).plan().changes
    ws = project.workspace()
    with pytest.raises(
        InputError, match=r"^templates/report.html.jinja: no such template. Copy it from gonbuild's own"
    ):
        render_report(ws, overview(ws))


def test_mistake_in_the_template_is_named_with_its_line(tmp_path: Path) -> None:
    project = built(tmp_path)
    (tmp_path / "templates/report.html.jinja").write_text("<p>\n{{ nothing }}\n")
    ws = project.workspace()
    with pytest.raises(InputError, match=r"^templates/report.html.jinja:2: cannot be rendered: 'nothing' is undefined"):
        render_report(ws, overview(ws))
    (tmp_path / "templates/report.html.jinja").write_text("<p>\n{% if %}\n")
    with pytest.raises(InputError, match=r"^templates/report.html.jinja:2: is no valid template"):
        open_project(tmp_path).plan()


def test_only_html_templates_escape(tmp_path: Path) -> None:
    project = built(tmp_path)
    (tmp_path / "templates/report.html.jinja").write_text("{{ title }}")
    (tmp_path / "templates/card.txt").write_text("{{ card.name }} <&>")
    ws = project.workspace()
    assert render_report(ws, {**overview(ws), "title": "<b>"}) == b"&lt;b&gt;\n"
    assert "<&>" in ws.templates.prompt(ws.scan.cards[0]).text
