"""The review page's server on the small project: who may ask, what it answers, and what lands in reviews.yaml."""

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fakes import make_project, open_project
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gonbuild.desk import Desk
from gonbuild.errors import MachineError
from gonbuild.web import BODY, make_app, serve

TOKEN = "geheim-1"
HOST = {"base_url": "http://127.0.0.1:5000"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    project = make_project(tmp_path)
    project.build()
    return Desk(project)


@pytest.fixture
def client(desk: Desk) -> FlaskClient:
    return make_app(desk, TOKEN, "Lan").test_client()


def decide(client: FlaskClient, action: str, text: str, card: str = "rung-001", **more: Any) -> TestResponse:
    return client.post(
        f"/{TOKEN}/api/decisions", json={"action": action, "card": card, "text": text, "by": "Mai", **more}, **HOST
    )


def story(desk: Desk, card: str = "rung-001", at: int = 0) -> str:
    return desk.sheet(card).stories[at].story.text


def decisions(desk: Desk) -> list[tuple[str, str, str]]:
    return [(d.card, d.kind, d.text) for d in desk.reviews().decisions]


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/", {}),
        ("/falsch/", {}),
        (f"/{TOKEN[:-1]}/", {}),
        ("/falsch/api/cards", {}),
        (f"/{TOKEN}/", {"base_url": "http://evil.example:5000"}),
        (f"/{TOKEN}/", {"base_url": "http://127.0.0.1.evil.example"}),
        (f"/{TOKEN}/api/cards", {"headers": {"Origin": "http://evil.example"}}),
        (f"/{TOKEN}/api/cards", {"headers": {"Origin": "null"}}),
    ],
)
def test_who_has_no_token_or_comes_from_elsewhere_is_refused(
    client: FlaskClient, path: str, options: dict[str, Any]
) -> None:
    answer = client.get(path, **{**HOST, **options})
    assert answer.status_code == 403
    assert b"rung-001" not in answer.data


def test_no_address_decides_without_the_token(client: FlaskClient, desk: Desk) -> None:
    body = {"action": "approve", "card": "rung-001", "text": story(desk)}
    assert client.post("/falsch/api/decisions", json=body, **HOST).status_code == 403
    elsewhere = {"Origin": "http://evil.example"}
    assert client.post(f"/{TOKEN}/api/decisions", json=body, headers=elsewhere, **HOST).status_code == 403
    assert decisions(desk) == []


@pytest.mark.parametrize("path", ["", "page.css", "page.js", "api/cards", "api/cards/rung-001", "nowhere"])
def test_every_answer_is_hardened(client: FlaskClient, path: str) -> None:
    headers = client.get(f"/{TOKEN}/{path}", **HOST).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "charset=utf-8" in headers["Content-Type"]


def test_page_asks_nobody_else(client: FlaskClient) -> None:
    for name in ("", "page.css", "page.js"):
        text = client.get(f"/{TOKEN}/{name}", **HOST).text
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text
        assert "style=" not in text


def test_cards_are_told_with_states_and_reasons(client: FlaskClient, desk: Desk) -> None:
    desk.approve("rung-001", story(desk))
    desk.pin("rung-001", 2, "Bé hát. Rừng tăng 2 điểm.")
    told = client.get(f"/{TOKEN}/api/cards", **HOST).get_json()
    assert told["by"] == "Lan"
    card = next(c for c in told["cards"] if c["id"] == "rung-001")
    assert [s["state"] for s in card["stories"]] == ["approve", "pending"]
    assert (card["deck"], card["done"], card["slots"]) == ("Thử", False, 2)
    whole = client.get(f"/{TOKEN}/api/cards/rung-001", **HOST).get_json()
    assert whole["stories"][1]["next"] == "Bé hát. Rừng tăng 2 điểm."
    assert any(not c["filter"] for c in whole["candidates"])


def test_unchanged_cards_are_not_sent_again(client: FlaskClient, desk: Desk) -> None:
    first = client.get(f"/{TOKEN}/api/cards", **HOST)
    etag = {"If-None-Match": first.headers["ETag"]}
    assert client.get(f"/{TOKEN}/api/cards", headers=etag, **HOST).status_code == 304
    desk.approve("rung-001", story(desk))
    assert client.get(f"/{TOKEN}/api/cards", headers=etag, **HOST).status_code == 200


def test_each_action_lands_in_the_file(client: FlaskClient, desk: Desk) -> None:
    one, two = story(desk), story(desk, at=1)
    candidate = next(c.text for c in desk.sheet("lang-001").candidates if not c.filter)
    for answer in (
        decide(client, "approve", one),
        decide(client, "edit", two, slot=2, wording="Bé hát. Rừng tăng 2 điểm."),
        decide(client, "pin", candidate, card="lang-001", slot=1),
        decide(client, "ban", story(desk, "song-001"), card="song-001", reason="nhạt"),
        decide(client, "rate", one, scores={"sense": 4}),
    ):
        assert answer.status_code == 200, answer.text
    assert sorted(decisions(desk)) == sorted(
        [
            ("rung-001", "approve", one),
            ("rung-001", "rating", one),
            ("rung-001", "edit", "Bé hát. Rừng tăng 2 điểm."),
            ("lang-001", "pin", candidate),
            ("song-001", "ban", story(desk, "song-001")),
        ]
    )
    assert {d.by for d in desk.reviews().decisions} == {"Mai"}
    answer = decide(client, "take back", one)
    assert [d["kind"] for d in answer.get_json()["gone"]] == ["approve", "rating"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"action": "approve", "text": "Không có."}, 422, "this text is no story or candidate of the card any more"),
        ({"action": "ban"}, 422, "a ban has no reason"),
        ({"action": "edit", "slot": 1, "wording": "a " * 60}, 422, "edit of card 'rung-001' has 60 words"),
        ({"action": "edit", "slot": 9, "wording": "Một."}, 422, "wants slot 9"),
        ({"action": "rate", "scores": {"sense": 4}, "by": ""}, 422, "a rating needs a name"),
        ({"action": "explode"}, 422, "unknown action 'explode'. Wanted approve, ban"),
        ({"action": "approve", "card": "rung-01"}, 422, "unknown card 'rung-01'. Did you mean 'rung-001'"),
        ({"action": "rate", "scores": {"sense": 9}}, 400, "Bad Request"),
        ({"action": "rate", "scores": {"beauty": 3}}, 400, "Bad Request"),
        ({"action": "pin", "slot": "1"}, 400, "Bad Request"),
        ({"action": "pin", "slot": True}, 400, "Bad Request"),
        ({"action": "approve", "by": 7}, 400, "Bad Request"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    client: FlaskClient, desk: Desk, body: dict[str, Any], status: int, said: str
) -> None:
    asked = {"card": "rung-001", "text": story(desk), "by": "Mai", **body}
    answer = client.post(f"/{TOKEN}/api/decisions", json=asked, **HOST)
    assert answer.status_code == status
    assert said in answer.get_json()["problems"][0]
    assert decisions(desk) == []


def test_body_that_is_none_or_too_large_is_refused(client: FlaskClient) -> None:
    url = f"/{TOKEN}/api/decisions"
    assert client.post(url, data=b"{", content_type="application/json", **HOST).status_code == 400
    assert client.post(url, json=[1], **HOST).status_code == 400
    assert client.post(url, data=b"action=approve", **HOST).status_code == 415
    large = b'{"text": "' + b"a" * BODY + b'"}'
    assert client.post(url, data=large, content_type="application/json", **HOST).status_code == 413


def test_reviews_with_a_mistake_are_named_on_the_page(client: FlaskClient, desk: Desk) -> None:
    (desk.project.root / "cards/reviews.yaml").write_text("<<<<<<< HEAD\n")
    answer = client.get(f"/{TOKEN}/api/cards", **HOST)
    assert answer.status_code == 422
    assert answer.get_json()["problems"][0].startswith("cards/reviews.yaml:1: a conflict marker of git")


def test_two_browsers_lose_nothing(desk: Desk) -> None:
    texts = [story(desk, card, at) for card in ("rung-001", "lang-001") for at in (0, 1)]
    cards = ["rung-001", "rung-001", "lang-001", "lang-001"]

    def work(who: int) -> None:
        client = make_app(Desk(open_project(desk.project.root)), TOKEN).test_client()
        for card, text in zip(cards, texts, strict=True):
            assert decide(client, "approve", text, card=card, by=f"R{who}").status_code == 200

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({(d.text, d.by) for d in desk.reviews().decisions}) == 32


@pytest.fixture
def address(desk: Desk) -> str:
    told: list[str] = []
    ready = threading.Event()
    thread = threading.Thread(
        target=serve, args=(desk, "127.0.0.1", 0, "Lan", lambda url: (told.append(url), ready.set())), daemon=True
    )
    thread.start()
    assert ready.wait(30)
    return told[0]


def test_served_page_answers_under_its_address_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert b"page.js" in answer.read()
    with urllib.request.urlopen(f"{address}api/cards", timeout=10) as answer:
        assert len(json.loads(answer.read())["cards"]) == 3
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(address.replace(address.rstrip("/").rpartition("/")[2], "x"), timeout=10)


def test_address_that_is_taken_is_said(address: str, desk: Desk) -> None:
    port = int(address.split(":")[2].split("/")[0])
    with pytest.raises(MachineError, match=r"127.0.0.1:\d+: cannot be had: Address already in use.*--port"):
        serve(desk, "127.0.0.1", port, "", print)
