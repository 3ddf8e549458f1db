"""Owns the flags of `gonbuild review` and what each does, in lines for whoever prints; loads little at first."""

import argparse
import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gonbuild.errors import InputError, Problem

if TYPE_CHECKING:
    from gonbuild.desk import Desk
    from gonbuild.reviews import Decision

_ACTIONS = ("approve", "ban", "pin", "edit", "rate", "take_back", "forget", "form")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `gonbuild review` to its parser."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--approve", metavar="STORY", nargs="+", help="these may ship")
    which.add_argument("--ban", metavar="STORY", help="neither it nor a near copy ships; with --reason")
    which.add_argument("--pin", metavar="STORY", help="it ships as it is, or what --text or --candidate says")
    which.add_argument("--edit", metavar="STORY", help="the wording of --text ships in its place")
    which.add_argument(
        "--rate", metavar="STORY", nargs="+", help="marks of 1 to 5: STORY sense=4 card=5 effect=5 language=4"
    )
    which.add_argument("--take-back", metavar="STORY", help="take back what was decided of its text")
    which.add_argument("--forget", metavar="CARD", help="take back all that was decided of a card")
    which.add_argument("--list", action="store_true", help="print the decisions")
    which.add_argument("--from", dest="form", metavar="FILE", help="take down what was ticked and edited in stories.md")
    which.add_argument("--web", action="store_true", help="a page for a browser on this machine")
    parser.add_argument("--reason", metavar="TEXT", default="", help="of a ban")
    parser.add_argument("--text", metavar="TEXT", default="", help="of a pin or an edit")
    parser.add_argument("--candidate", metavar="ID", default="", help="a candidate to pin: bao-ve-001.c17")
    parser.add_argument("--by", metavar="NAME", default="", help="who decides (default: git's user.name)")
    parser.add_argument("--port", type=int, default=0, help="of --web (default: a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="of --web; others on the network see any but 127.0.0.1")


def reviewer(root: Path) -> str:
    """Returns who decides: `GONBUILD_REVIEWER`, else the name that git signs with, else nothing."""
    if name := os.environ.get("GONBUILD_REVIEWER", ""):
        return name
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(["git", "config", "user.name"], cwd=root, capture_output=True, text=True, timeout=5)
        return told.stdout.strip()
    return ""


def decided_lines(desk: "Desk", args: argparse.Namespace, by: str) -> list[str] | None:
    """Does what the flags ask for and puts it into lines; None where they ask for no decision.

    Raises:
        InputError: no such story, or the decision cannot be honoured; nothing is then written.
    """
    from gonbuild.decisions import told

    action = next((name for name in _ACTIONS if getattr(args, name) is not None), "")
    if not action:
        return None
    new, gone = _decide(desk, action, args, by)
    lines = [*(told(d) for d in new), *(f"gone: {told(d)}" for d in gone)]
    return [*lines, "`make stories` brings it into the packs." if lines else "No new decision."]


def _decide(
    desk: "Desk", action: str, args: argparse.Namespace, by: str
) -> tuple[Sequence["Decision"], Sequence["Decision"]]:
    """Returns the new decisions, and those that gave way or were taken back."""
    from gonbuild.language import fold

    if action == "form":
        return _read_form(desk, Path(args.form), by)
    if action == "forget":
        return [], desk.take_back(lambda d: d.card == args.forget)
    names = getattr(args, action)
    sheet, text, slot = desk.find(names if isinstance(names, str) else names[0])
    card = sheet.card.id
    if action == "take_back":
        return [], desk.take_back(lambda d: d.card == card and fold(d.text) == fold(text))
    before = desk.reviews().decisions
    if action == "approve":
        found = [desk.find(name) for name in names]
        gone = desk.decide(*(desk.approval(sheet.card.id, text, by) for sheet, text, _ in found))
    elif action == "ban":
        gone = desk.ban(card, text, args.reason, by)
    elif action == "rate":
        gone = desk.rate(card, text, _named(by), _scores(names[1:]))
    else:
        wording = desk.find(args.candidate)[1] if args.candidate else args.text
        if not slot:
            raise InputError(Problem(names, "is no slot", f"Wanted one such as {card}.1, and --candidate {names}."))
        pin = action == "pin"
        gone = desk.pin(card, slot, wording or text, by) if pin else desk.edit(card, slot, wording, text, by)
    return [d for d in desk.reviews().decisions if d not in before], gone


def _named(by: str) -> str:
    if not by:
        raise InputError(Problem("--rate", "a rating needs a name", "Wanted --by NAME."))
    return by


def _scores(words: Sequence[str]) -> dict[str, int]:
    from gonbuild.reviews import parse_scores

    scores, problems = parse_scores(words)
    if not words:
        problems.append(Problem("--rate", "no mark was given", "Wanted such as --rate bao-ve-001.1 sense=4 card=5."))
    if problems:
        raise InputError(problems)
    return scores


def _read_form(desk: "Desk", path: Path, by: str) -> tuple[Sequence["Decision"], Sequence["Decision"]]:
    if not path.is_file():
        raise InputError(Problem(str(path), "no such file", "Wanted build/packs/stories.md, filled in."))
    return desk.read_form(path.read_bytes(), path.as_posix(), by)


def listed(desk: "Desk") -> list[str]:
    """Returns every decision in a line, stale pins once more, and how far the review has come."""
    from gonbuild.decisions import told

    decisions, sheets = desk.reviews().decisions, desk.sheets()
    lines = [f"{d.where}: {told(d)}" for d in decisions]
    lines += [f"{d.where}: stale: {told(d)}, made for '{d.effect}'" for sheet in sheets for d in sheet.stale]
    return [*lines, f"{len(decisions)} decisions; {sum(s.done for s in sheets)} of {len(sheets)} cards approved"]
