"""Owns the page of `gonbuild review --web`: what a browser gets and may ask for; all decisions go to a Desk.

The page is for whoever sits at this machine: its address holds a token that is made anew at every start, and requests
under another host name or from another origin are refused.
"""

import contextlib
import hmac
import json
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

from gonbuild.desk import Desk, Sheet
from gonbuild.errors import GonbuildError, InputError, MachineError, Problem, one_of
from gonbuild.language import fold
from gonbuild.pipeline import CANDIDATES
from gonbuild.records import digest
from gonbuild.reviews import CRITERIA

BODY = 64 << 10
"""Bytes of a request at most."""
FILES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def make_app(desk: Desk, token: str, by: str = "", hosts: tuple[str, ...] = LOOPBACK) -> Flask:
    """Returns the page's server; `by` is the name that it offers to decide under, `hosts` the names it answers to."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY

    @app.before_request
    def guard() -> None:
        if not _welcome(token, hosts):
            abort(403)

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return _json({"problems": [error.name]}, error.code or 500)

    @app.errorhandler(GonbuildError)
    def failed(error: GonbuildError) -> Response:
        return _json({"problems": [str(p) for p in error.problems]}, 503 if isinstance(error, MachineError) else 422)

    _add_routes(app, desk, by)
    return app


def _welcome(token: str, hosts: tuple[str, ...]) -> bool:
    """Tells whether a request holds the token, and comes by a name and from a page of ours."""
    given = request.path.split("/")[1]
    name = re.sub(r":\d+$", "", request.host)
    ours = request.headers.get("Origin") in (None, f"http://{request.host}")
    return hmac.compare_digest(given.encode(), token.encode()) and name in hosts and ours


def _add_routes(app: Flask, desk: Desk, by: str) -> None:
    @app.get("/<_token>/")
    @app.get("/<_token>/<any('page.css', 'page.js'):name>")
    def file(_token: str, name: str = "page.html") -> Response:
        data = files("gonbuild").joinpath("browser", name).read_bytes()
        return Response(data, content_type=f"{FILES[name]}; charset=utf-8")

    @app.get("/<_token>/api/cards")
    def cards(_token: str) -> Response:
        version = _version(desk)
        if request.if_none_match.contains(version):
            return Response(status=304)
        response = _json({"by": by, "cards": [_summary(sheet) for sheet in desk.sheets()]})
        response.set_etag(version)
        return response

    @app.get("/<_token>/api/cards/<card>")
    def card(_token: str, card: str) -> Response:
        return _json(_whole(desk.sheet(card)))

    @app.post("/<_token>/api/decisions")
    def decide(_token: str) -> Response:
        told = request.get_json()
        asked = _Asked(told if isinstance(told, dict) else abort(400))
        gone = _decide(desk, asked)
        return _json({"gone": [asdict(d) for d in gone], "card": _whole(desk.sheet(asked.text("card")))})


class _Asked:
    """What a browser asks for, of which nothing is believed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def text(self, name: str) -> str:
        """Returns a text, empty where there is none."""
        value = self.values.get(name, "")
        return value if isinstance(value, str) else abort(400)

    def slot(self) -> int:
        value = self.values.get("slot")
        return value if type(value) is int else abort(400)

    def scores(self) -> dict[str, int]:
        value = self.values.get("scores")
        if not isinstance(value, dict) or not all(n in CRITERIA and s in range(1, 6) for n, s in value.items()):
            abort(400)
        return value


def _decide(desk: Desk, asked: _Asked) -> list[Any]:
    """Takes down what a browser asks for; the text says what it is about, so that nothing lands on another story."""
    card, text, by = asked.text("card"), asked.text("text"), asked.text("by").strip()
    action = asked.text("action")
    sheet = desk.sheet(card)
    if action != "take back" and text not in {
        *(t.story.text for t in sheet.stories),
        *(c.text for c in sheet.candidates),
    }:
        raise InputError(
            Problem("", "this text is no story or candidate of the card any more", "Look at the card again.")
        )
    if action == "approve":
        return desk.approve(card, text, by)
    if action == "ban":
        return desk.ban(card, text, asked.text("reason"), by)
    if action == "pin":
        return desk.pin(card, asked.slot(), text, by)
    if action == "edit":
        return desk.edit(card, asked.slot(), asked.text("wording"), text, by)
    if action == "rate":
        if not by:
            raise InputError(Problem("", "a rating needs a name", "Wanted yours, at the top of the page."))
        return desk.rate(card, text, by, asked.scores())
    if action == "take back":
        return desk.take_back(lambda d: d.card == card and fold(d.text) == fold(text))
    actions = ("approve", "ban", "pin", "edit", "rate", "take back")
    raise InputError(Problem("", f"unknown action '{action[:20]}'", f"Wanted {one_of(actions)}."))


def _version(desk: Desk) -> str:
    """Returns what changes when anything on the page does."""
    ws = desk.project.workspace()
    path = desk.project.root / CANDIDATES
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return digest([ws.scan.key, digest(ws.review_bytes), digest(ws.lock_bytes), stamp])[:32]


def _summary(sheet: Sheet) -> dict[str, Any]:
    return {
        "id": sheet.card.id,
        "name": sheet.card.name,
        "type": sheet.card.type,
        "effect": sheet.card.effect,
        "deck": sheet.deck,
        "slots": sheet.slots,
        "done": sheet.done,
        "stale": len(sheet.stale),
        "stories": [
            {"id": t.story.id, "text": t.story.text, "state": "pending" if t.next_text else t.state}
            for t in sheet.stories
        ],
        "reasons": sorted({c.filter for c in sheet.candidates if c.filter}),
    }


def _whole(sheet: Sheet) -> dict[str, Any]:
    stories = [
        {
            "id": t.story.id,
            "slot": t.story.slot,
            "text": t.story.text,
            "before": t.story.before[0] if t.story.before else "",
            "score": t.story.score,
            "novelty": t.story.novelty,
            "state": t.state,
            "next": t.next_text,
            "decisions": [asdict(d) for d in t.decisions],
        }
        for t in sheet.stories
    ]
    return {
        **_summary(sheet),
        "stories": stories,
        "candidates": [asdict(c) for c in sheet.candidates],
        "pins": [asdict(d) for d in sheet.stale],
    }


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), status, content_type="application/json; charset=utf-8")


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Says nothing: addresses hold the token."""


def serve(desk: Desk, host: str, port: int, by: str, announce: Callable[[str], object]) -> None:
    """Serves the page until Ctrl-C, which ends it well; `announce` is told its address once it answers.

    Raises:
        MachineError: the address cannot be had.
    """
    token = secrets.token_urlsafe(24)
    hosts = LOOPBACK if host in LOOPBACK else (*LOOPBACK, f"[{host}]" if ":" in host else host)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as e:
        raise MachineError(Problem(f"{host}:{port}", f"cannot be had: {e.strerror}", "Wanted a free --port.")) from None
    app = make_app(desk, token, by, hosts)
    with listener:
        port = listener.getsockname()[1]
        server = make_server(host, port, app, threaded=True, request_handler=_Quiet, fd=listener.fileno())
        announce(f"http://{f'[{host}]' if ':' in host else host}:{port}/{token}/")
        with contextlib.suppress(KeyboardInterrupt), server:
            server.serve_forever()
