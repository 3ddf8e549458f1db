"""Merges branches of a real git repository that each add cards and build; the lock merges, and the packs come right."""

import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fakes import REPOSITORY, make_project, open_project

from gonbuild import packs
from gonbuild.decisions import add_decision
from gonbuild.reviews import APPROVE, BAN, REVIEWS, Decision
from torture import edits
from torture.damage import command
from torture.edits import Decks, Writer
from torture.outcome import Note, Outcome, named, outcome, spread

TITLE = "git: two branches that add cards and decide, merged"
FULL = 50
SETTINGS = "[tool.gonbuild.filters]\nmax_diversity_bleu = 95.0\nmax_novelty_bleu = 95.0\n"
"""Two branches that know nothing of each other can draw or ban stories that are alike, which `check` then says."""


def run(count: int, seed: int, jobs: int) -> Outcome:
    """Each merge is of a repository of its own; a third of the branches decide on stories too."""
    lines = spread(partial(work, seed), range(count), jobs)
    return outcome(count, lines)


def work(seed: int, case: int) -> list[str]:
    """Runs one merge; returns what did not hold, and notes of how it went."""
    rng = random.Random(f"{seed} {case}")
    with tempfile.TemporaryDirectory() as name:
        return named(f"merge {case}", _case(rng, Path(name) / "game", decides=case % 3 == 0))


def _case(rng: random.Random, root: Path, *, decides: bool) -> Iterator[str]:
    decks: Decks = [[edits._card(rng, f"{stem}-{n:03}") for n in range(4)] for stem in ("rung", "song", "lang")]
    make_project(root, settings=SETTINGS)
    (root / "cards" / "thu.yaml").unlink()
    for file in (".gitattributes", ".gitignore"):
        shutil.copy(REPOSITORY / file, root / file)
    edits._write(root, decks)
    git(root, "init", "-q", "-b", "main")
    _commit(root)
    known = [card["id"] for deck in decks for card in deck]
    wanted = {*known}
    rng.shuffle(known)
    # Each branch adds at places of its own: where both add at one and the same, no git can merge the deck itself.
    places = [(n, at) for n, deck in enumerate(decks) for at in range(len(deck) + 1)]
    rng.shuffle(places)
    for branch in ("one", "two"):
        git(root, "switch", "-q", "-c", branch, "main")
        added: Decks = [[*deck] for deck in decks]
        for n, at in sorted((places.pop() for _ in range(rng.randint(1, 3))), reverse=True):
            card = {**edits._card(rng, f"{branch}-{rng.randrange(10**6)}"), "stem": decks[n][0]["stem"]}
            added[n].insert(at, card)
            wanted.add(card["id"])
        edits._write(root, added)
        if decides:
            _decide(root, known.pop(), known.pop())
        shutil.rmtree(root / "build" / "cache", ignore_errors=True)
        _commit(root)
    merged = git(root, "merge", "-q", "--no-edit", "one", check=False)
    conflicts = git(root, "diff", "--name-only", "--diff-filter=U").stdout.split()
    if merged.returncode:
        yield f"git stopped at {conflicts}"
        return
    yield from _checked(root, wanted)


def _checked(root: Path, wanted: set[str]) -> Iterator[str]:
    shutil.rmtree(root / "build" / "cache", ignore_errors=True)
    code, said = command(root, "check")
    yield Note("check passed at once" if code == 0 else "packs were rendered anew")
    if code not in (0, 1):
        yield f"check ended with {code}: {said}"
    models = Writer()
    open_project(root, models).build()
    if models.log:
        yield f"a model was asked: {models.log}"
    code, said = command(root, "check")
    if code:
        yield f"check ended with {code} after a build: {said}"
    found = set(json.loads((root / packs.PACKS / "stories.json").read_bytes())["cards"])
    if found != wanted:
        yield f"cards {sorted(found ^ wanted)} are missing or too many"


def _decide(root: Path, liked: str, disliked: str) -> None:
    """Approves a story of a card and bans one of another, which is then made anew; no other branch decides on them."""
    ws = open_project(root, Writer()).workspace()
    approve = Decision(liked, APPROVE, ws.stories(liked)[0].text)
    ban = Decision(disliked, BAN, ws.stories(disliked)[0].text, reason="lạ")
    told = add_decision(add_decision(ws.review_bytes, approve)[0], ban)[0]
    (root / REVIEWS).write_bytes(told)


def _commit(root: Path) -> None:
    """Builds and commits, as CI or a designer does."""
    open_project(root, Writer()).build()
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", "Cards")


def git(root: Path, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs git in a repository, with no settings of this machine's."""
    user = ("-c", "user.name=Lan", "-c", "user.email=lan@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *user, *words], cwd=root, check=check, capture_output=True, text=True)
