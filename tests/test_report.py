"""What is said of a card and read of a build's candidates, in lines."""

import json

import pytest

from gonbuild.packs import Line
from gonbuild.plan import KEEP, Step
from gonbuild.records import Story
from gonbuild.report import Seen, card_history, seen_by_card

SEEN = {"card": "a-1", "index": 3, "text": "Ba.", "score": -0.5}


def test_candidates_are_read_by_card() -> None:
    other = {**SEEN, "card": "b-1", "novelty": 20.0, "filter": "length", "reason": "2 words"}
    assert seen_by_card(f"{json.dumps(SEEN)}\n{json.dumps(other)}\n".encode()) == {
        "a-1": [Seen("a-1", 3, "Ba.", -0.5)],
        "b-1": [Seen("b-1", 3, "Ba.", -0.5, 20.0, "length", "2 words")],
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "3",
        "\xff",
        "[" * 100_000,
        json.dumps({**SEEN, "index": "3"}),
        json.dumps({**SEEN, "novelty": "x"}),
        json.dumps({**SEEN, "more": 1}),
        json.dumps({"card": "a-1"}),
    ],
    ids=range(10),
)
def test_line_that_is_no_candidate_is_left_out(line: str) -> None:
    assert seen_by_card(f"{line}\n{json.dumps(SEEN)}\n".encode("latin-1")) == {"a-1": [Seen("a-1", 3, "Ba.", -0.5)]}


def test_history_tells_a_person_s_wording_from_a_candidate() -> None:
    stories = (Story("a-1.1", "Một.", 3, -0.51, 20.5), Story("a-1.2", "Hai."))
    line = Line("a-1", {"effect": "+2 điểm cho Rừng"}, "ab" * 32, stories, "")
    assert card_history(Step("a-1", KEEP), line, b"")[2:] == [
        "  adapter: abababab",
        "  a-1.1 (candidate 3, score -0.51 nats/token, novelty 20 BLEU): Một.",
        "  a-1.2 (a person's wording): Hai.",
    ]
