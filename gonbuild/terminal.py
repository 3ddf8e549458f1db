"""Owns reviewing in a terminal, story by story and key by key; reads no key and prints nothing by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gonbuild.desk import Desk, Sheet, Told, Unshipped
from gonbuild.errors import GonbuildError
from gonbuild.form import word_diff
from gonbuild.report import story_figures
from gonbuild.reviews import Decision, parse_scores

HELP = (
    "a approve   b ban   p pin   e edit   1-9 ship that candidate instead   r rate\n"
    "s skip   k back   u take back   q quit   ? these keys"
)


class Console(Protocol):
    """What a person sits at."""

    def key(self) -> str:
        """Returns one key; nothing where there are no more."""

    def line(self, prompt: str, start: str = "") -> str:
        """Returns a line, in which `start` stands already; nothing where the person thought better of it."""

    def say(self, text: str) -> None:
        """Shows a line."""


@dataclass
class Session:
    """One sitting: every story that nobody decided on, in deck order; each key is saved before the next is read."""

    desk: Desk
    console: Console
    by: str
    decided: int = 0

    def run(self) -> int:
        """Goes through the stories; returns how many decisions were made."""
        stories = [t.story.id for sheet in self.desk.sheets() for t in sheet.stories if _is_open(t)]
        if not stories:
            self.console.say("Every story is decided on.")
        at = 0
        while at < len(stories):
            step = self._story(stories[at], f"{at + 1}/{len(stories)}")
            if step is None:
                return self.decided
            at = max(at + step, 0)
        return self.decided

    def _story(self, story: str, place: str) -> int | None:
        """Shows a story and takes keys until it is left; returns by how many to go on, None to end."""
        sheet, told = self._look(story)
        if told is None:
            return 1
        offered = [c for c in sheet.candidates if not c.filter and not c.state][:9]
        self._show(sheet, told, offered, place)
        moves: dict[str, int | None] = {"s": 1, " ": 1, "k": -1, "\x7f": -1, "q": None, "\x04": None, "": None}
        while True:
            key = self.console.key()
            if key in moves:
                return moves[key]
            if key == "?":
                self.console.say(HELP)
            elif self._act(key, sheet, told, offered):
                return 1

    def _look(self, story: str) -> tuple[Sheet, Told | None]:
        sheet = self.desk.sheet(story.rpartition(".")[0])
        return sheet, next((t for t in sheet.stories if t.story.id == story), None)

    def _show(self, sheet: Sheet, told: Told, offered: Sequence[Unshipped], place: str) -> None:
        say, card = self.console.say, sheet.card
        say("")
        say(f"[{place}] {told.story.id}  {card.name} · {card.type} · {card.effect}")
        say(f"  {told.story.text}")
        say(f"  ({', '.join(filter(None, [story_figures(told.story), told.state]))})")
        if told.story.before:
            parts = word_diff(told.story.before[0], told.story.text)
            say("  was: " + " ".join(p["same"] or " ".join(filter(None, [_cut(p), _new(p)])) for p in parts))
        for number, candidate in enumerate(offered, 1):
            say(f"  {number}) {candidate.text}")
        say("  a approve  b ban  p pin  e edit  s skip  k back  q quit  ? more")

    def _act(self, key: str, sheet: Sheet, told: Told, offered: Sequence[Unshipped]) -> bool:
        """Does what a key says; tells whether the story is done with."""
        card, text, slot = sheet.card.id, told.story.text, told.story.slot
        try:
            if key == "a":
                return self._note("approved", self.desk.approve(card, text, self.by))
            if key == "b":
                reason = self.console.line("why? ")
                return bool(reason) and self._note("banned", self.desk.ban(card, text, reason, self.by))
            if key == "p":
                return self._note(f"pinned to slot {slot}", self.desk.pin(card, slot, text, self.by))
            if key == "e":
                new = self.console.line("text: ", text)
                edited = bool(new) and new != text
                return edited and self._note("edited", self.desk.edit(card, slot, new, text, self.by))
            if key.isdecimal() and 1 <= int(key) <= len(offered):
                chosen = offered[int(key) - 1].text
                return self._note(f"candidate pinned to slot {slot}", self.desk.pin(card, slot, chosen, self.by))
            if key == "r":
                return self._rate(card, text)
            if key == "u":
                gone = self.desk.take_back(lambda d: d.card == card and d.text == text)
                self.console.say(f"  {len(gone)} taken back")
        except GonbuildError as e:
            for line in str(e).splitlines():
                self.console.say(f"  {line}")
        return False

    def _rate(self, card: str, text: str) -> bool:
        scores, problems = parse_scores(
            self.console.line("marks, 1 to 5 (sense=4 card=5 effect=5 language=4): ").split()
        )
        for problem in problems:
            self.console.say(f"  {problem}")
        if scores and not problems:
            self._note("rated", self.desk.rate(card, text, self.by, scores))
        return False

    def _note(self, what: str, gone: Sequence[Decision]) -> bool:
        self.decided += 1
        self.console.say(f"  {what}" + "".join(f"; {d.kind} of line {d.line} gave way" for d in gone))
        return True


def _is_open(told: Told) -> bool:
    return not told.state and not told.next_text


def _cut(part: dict[str, str]) -> str:
    return f"[-{part['old']}-]" if part["old"] else ""


def _new(part: dict[str, str]) -> str:
    return f"{{+{part['new']}+}}" if part["new"] else ""
